/** `tproxy forward`: carries connections to backends that see the client's own address. */

import { EAFNOSUPPORT, SyscallError } from "../../../ffi/errno.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Mark, Port } from "../../../ffi/types.ts";
import type { BackendRequest, IntentRequest } from "../../capture/plan/intent.ts";
import { makePlan } from "../../capture/plan/plan.ts";
import { renderNft } from "../../capture/render/nft.ts";
import { OwnAddresses } from "../../control/local-addresses.ts";
import type { User } from "../../control/passwd.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { isLocalAddress } from "../../diagnose/snapshot/refusal-facts.ts";
import * as limits from "../../engine/limits.ts";
import { randomWord } from "../../engine/random.ts";
import { CommandError, exitStatus, UsageError } from "../../errors.ts";
import { addressKey, isSelf } from "../../forward/dial.ts";
import { OutboundFlows } from "../../forward/outbound-flows.ts";
import { Log } from "../../log/log.ts";
import type { Cidr } from "../../net/cidr.ts";
import { formatDuration } from "../../net/duration.ts";
import { quote } from "../../net/result.ts";
import { formatSocketAddress } from "../../net/socket-address.ts";
import { type ClientBounds, type ForwardTask, LogLevel } from "../../workers/protocol.ts";
import { checkForward } from "../connecting.ts";
import { raiseDescriptorLimit } from "../descriptors.ts";
import { bindAddress } from "../endpoints.ts";
import { type CapturedService, captureOf, captureRequest } from "../forward-routes.ts";
import { carries, checkProtocols, sessionSettings, wantedSockets } from "../forward-udp.ts";
import { UpstreamList } from "../forward-upstreams.ts";
import { HeldRoutes } from "../held-routes.ts";
import { readNetworks } from "../network-lists.ts";
import { captureDoubts } from "../no-capture.ts";
import { type OpenSocket, openForWorkers, served, type WantedSocket } from "../open-socket.ts";
import { placed } from "../options/capture.ts";
import { clientBounds } from "../options/clients.ts";
import type { ForwardOptions } from "../options/forward.ts";
import { wantedUser } from "../options/user.ts";
import { checkParts } from "../options/workers.ts";
import { forwardRunning } from "../reduce-privileges.ts";
import type { Identified } from "../routes-context.ts";
import { serve } from "../serve.ts";
import { checkLimits, placesOf } from "../strict-limits.ts";

/** What goes with rules that tell our own connections by their mark. */
function markHint(mark = 0): string {
  const text = `0x${mark.toString(16)}`;
  return `tproxy: with these rules and --routes none, give --socket-mark ${text} as well\n`;
}

const isOwn = (address: Uint8Array) => isLocalAddress(address) === true;

/** What the heading of a printed script says of it. */
const printed = { command: "tproxy forward --routes print", undo: "`tproxy routes --remove`" };

/** Runs `forward` until it is stopped; the exit status. @throws UsageError, CommandError */
export async function runForward(options: ForwardOptions, io: ProcessIo): Promise<number> {
  const wanted = wantedSockets(options);
  refuse(options, wanted);
  const senders = sendersOf(options);
  const request = captureRequest(options, (line) => void io.stderr.write(`tproxy: ${line}\n`));
  const protocols = (["tcp", "udp"] as const).filter((each) => carries(wanted, each));
  if (options.routes === "print") return printRoutes(options, request, protocols, io);
  const user = wantedUser(options.user, carries(wanted, "udp"));
  // With two protocols each gets one half: neither can take the other's.
  const share = Math.floor(raiseDescriptorLimit() / protocols.length);
  const doubts = checkForward(options, wanted, request);
  doubts.push(...checkLimits(options, protocols, share));
  const upstreams = await UpstreamList.resolve(options.to, options.socketMark);
  const sets = openListeners(options, wanted, user);
  const own = ownAddresses();
  refuseSelf(upstreams, own, sets[0] ?? []);
  const listeners = (sets[0] ?? []).map(({ local }) => local);
  doubts.push(...captureDoubts(options, listeners));
  const { json, logTime: time, logLossless: lossless } = options;
  const log = new Log(io, {
    ...{ protocol: protocols[0] ?? "tcp", json, time, lossless },
    level: logLevel(options),
    outlivesReader: true,
  });
  const say = (text: string) => log.warn(text);
  const captured = { protocols, backends: upstreams.fixed.map(backendOf), listeners, isOwn };
  const build = ({ request, takenBits }: Identified) =>
    captureOf(options, request, { ...captured, takenBits });
  const routes =
    options.routes === "auto" ? await HeldRoutes.apply(request, build, io, say) : undefined;
  io.onExit(() => routes?.release());
  // Unhandled, it would end the process before the rules are taken back.
  if (routes !== undefined) io.onHangup(() => io.exit(exitStatus.hungUp));
  logStart(log, routes?.changes ?? [], sets[0] ?? []);
  for (const each of doubts) say(each);
  const mark = routes?.capture.mark ?? options.socketMark;
  upstreams.mark = mark;
  const ownFlows = flowMemory();
  const settings = { options, upstreams, senders, mark, own, ownFlows, descriptors: share };
  try {
    const tasks = makeTasks(settings, sets, carries(wanted, "udp"));
    const { stoppedBy } = await serve(io, tasks, log, {
      remaining: { needs: forwardRunning(options, protocols), user },
      shared: { listeners: sets.flat(), joined: say },
      drainTimeoutMs: options.drainTimeout,
      replaces: true,
      hasTable: true,
      started: (pool) => {
        upstreams.watch((list) => pool.send({ kind: "upstreams", upstreams: list }), say);
        own.watch((addresses) => pool.send({ kind: "own-addresses", addresses }));
      },
      stopping: (pool) => {
        routes?.drain();
        sayDraining(pool.counters().active, options.drainTimeout, say);
      },
    });
    return stoppedBy === "EPIPE" ? exitStatus.brokenPipe : exitStatus.success;
  } finally {
    own.close();
    upstreams.close();
    routes?.release();
  }
}

async function printRoutes(
  options: ForwardOptions,
  request: IntentRequest,
  protocols: CapturedService["protocols"],
  io: ProcessIo,
): Promise<number> {
  const listeners = options.addresses.map(({ endpoint }) => bindAddress(endpoint));
  const captured = { protocols, backends: backendsOf(options), listeners, isOwn };
  const { intent, mark } = captureOf(options, request, captured);
  await io.stdout.write(renderNft(makePlan(intent), { origin: printed }));
  if (mark !== options.socketMark) await io.stderr.write(markHint(mark));
  return exitStatus.success;
}

function openListeners(
  options: ForwardOptions,
  wanted: readonly WantedSocket[],
  user: User | undefined,
): OpenSocket[][] {
  return openForWorkers(options.workers, wanted, {
    hasSessions: true,
    user,
    savesSyn: true,
    transparent: !(options.noTransparent || options.redirect),
    noDelay: true,
    keepAliveMs: options.keepalive || undefined,
    userTimeoutMs: options.userTimeout || undefined,
  });
}

/** Logs what has been put in place, and where clients are awaited. */
function logStart(log: Log, changes: readonly string[], sockets: readonly OpenSocket[]): void {
  for (const change of changes) log.note(`    ${change}`, { event: "routes", change });
  for (const { protocol, local } of sockets) {
    const address = formatSocketAddress(local);
    log.note(`[+] Bound to ${protocol}://${address}`, { event: "bound", protocol, address });
  }
}

/** The table of all Workers' flows. */
function flowMemory(): SharedArrayBuffer {
  return OutboundFlows.memory(randomWord);
}

/** Says why the process is still there after a first signal. */
function sayDraining(active: number, drainTimeoutMs: number, say: (text: string) => void): void {
  if (active === 0 || drainTimeoutMs === 0) return;
  const many = active === 1 ? "1 connection" : `${active} connections`;
  const time = formatDuration(drainTimeoutMs);
  say(`stopping: ${many} may go on for ${time}, and a second signal ends them`);
}

/** @throws CommandError, as in a sandbox without netlink */
function ownAddresses(): OwnAddresses {
  try {
    return OwnAddresses.open();
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    const repair =
      error.errno === EAFNOSUPPORT
        ? ": in a service, RestrictAddressFamilies= has to have AF_NETLINK"
        : "";
    throw new CommandError(`Cannot ask for the addresses of this host: ${error.message}${repair}`);
  }
}

/** @throws UsageError where all that a protocol accepts would be carried to its own listener */
function refuseSelf(
  upstreams: UpstreamList,
  { addresses }: OwnAddresses,
  sockets: readonly OpenSocket[],
): void {
  const { fixed } = upstreams;
  if (fixed.length === 0) return;
  const own = new Set(addresses.map(addressKey));
  for (const name of new Set(sockets.map(({ protocol }) => protocol))) {
    const listeners = sockets.filter(({ protocol }) => protocol === name).map(({ local }) => local);
    if (!fixed.every((address) => isSelf({ own, listeners }, address))) continue;
    const [first] = fixed.map(formatSocketAddress);
    throw new UsageError(`--to ${first} is this proxy itself: give where the server is`);
  }
}

/** Whose PROXY headers count: of nobody, of everybody (none is named), or of these networks. */
function sendersOf({ acceptProxy }: ForwardOptions): readonly Cidr[] | undefined {
  if (acceptProxy.length === 0) return undefined;
  const named = acceptProxy.filter((list) => list.length > 0);
  if (named.length === 0) return [];
  if (named.length === acceptProxy.length) return readNetworks(named.flat());
  throw new UsageError(
    "--accept-proxy alone is for every sender, with networks for those: give one of the two",
  );
}

/** @throws UsageError for options that contradict each other */
function refuse(options: ForwardOptions, wanted: readonly WantedSocket[]): void {
  checkProtocols(options, wanted);
  checkParts("--max-connections", options.maxConnections, options.workers);
  if (options.quiet && options.logLevel !== undefined) {
    throw new UsageError("--quiet is the same as --log-level warning: give one of them");
  }
  if (options.user !== undefined && options.sysctl && options.routes === "auto") {
    throw new UsageError(
      "--sysctl with --user: only root can give the settings back: set them by routes --apply",
    );
  }
  if (options.keepalive && !isKeepAlive(options.keepalive)) {
    const given = formatDuration(options.keepalive);
    throw new UsageError(`--keepalive ${quote(given)} is not accepted: give "1s" to "9h"`);
  }
  if (options.headerTimeout !== undefined && options.acceptProxy.length === 0) {
    throw new UsageError("--header-timeout is of --accept-proxy: give that with it");
  }
  const hasFreePort = options.addresses.some(({ endpoint }) => endpoint.port === 0);
  if (options.routes === "print" && hasFreePort) {
    throw new UsageError('--routes print has no rules for port "0": give the port to listen on');
  }
}

function logLevel({ logLevel: name, quiet }: Pick<ForwardOptions, "logLevel" | "quiet">): number {
  return LogLevel[name ?? (quiet ? "warning" : "info")];
}

/** The upstreams that are addresses, as hosts that have to route their replies through this one. */
function backendsOf({ to }: ForwardOptions): BackendRequest[] {
  return to.flatMap((target) => {
    if (target === "original" || typeof target.host === "string") return [];
    return [backendOf({ address: target.host.bytes, port: target.port })];
  });
}

function backendOf({ address, port }: Pick<SocketAddress, "address" | "port">): BackendRequest {
  const family = address.length === 4 ? 4 : 6;
  return placed({ address: { family, bytes: address }, port: port as Port });
}

/** Whether TCP_KEEPIDLE, in seconds, can say it. */
function isKeepAlive(ms: number): boolean {
  return ms >= 1000 && ms <= limits.keepAliveMsMax;
}

/** What the tasks of all Workers are made of. */
interface Settings {
  readonly options: ForwardOptions;
  readonly upstreams: UpstreamList;
  readonly senders: readonly Cidr[] | undefined;
  readonly mark: Mark | undefined;
  readonly own: OwnAddresses;
  readonly ownFlows: SharedArrayBuffer;
  readonly descriptors: number;
}

/** A task for each Worker, whose sockets are one of the `sets`. */
function makeTasks(
  settings: Settings,
  sets: readonly (readonly OpenSocket[])[],
  hasSessions: boolean,
): ForwardTask[] {
  const { options, descriptors } = settings;
  const { workers, maxConnectionsPerClient, maxSessionsPerClient } = options;
  const ofTcp = clientBounds(maxConnectionsPerClient, options.connectionRatePerClient, workers);
  const ofUdp = clientBounds(maxSessionsPerClient, options.sessionRatePerClient, workers);
  return sets.map((sockets, worker) => ({
    ...task(settings, sockets, ofTcp[worker] as ClientBounds),
    sessions: hasSessions
      ? sessionSettings(options, descriptors, ofUdp[worker] as ClientBounds)
      : undefined,
  }));
}

function task(
  settings: Settings,
  sockets: readonly OpenSocket[],
  clients: ClientBounds,
): Omit<ForwardTask, "sessions"> {
  const { options, upstreams, senders, mark, own, ownFlows, descriptors } = settings;
  return {
    kind: "forward",
    sockets: sockets.map(served),
    upstreams: upstreams.upstreams,
    balance: options.balance,
    source: options.source,
    sourceFallback: options.sourceFallback === "self",
    acceptProxy: senders,
    sendProxy: options.sendProxy,
    redirected: options.redirect,
    keepAliveMs: options.keepalive || undefined,
    userTimeoutMs: options.userTimeout || undefined,
    mark,
    ownAddresses: own.addresses,
    ownFlows,
    ...placesOf(options, descriptors, clients.worker),
    clients,
    headerTimeoutMs: options.headerTimeout ?? limits.headerTimeoutMs,
    connectTimeoutMs: options.connectTimeout ?? limits.connectTimeoutMs,
    idleTimeoutMs: options.idleTimeout ?? limits.forwardIdleTimeoutMs,
    halfClosedTimeoutMs: options.halfClosedTimeout ?? limits.halfClosedTimeoutMs,
    drainTimeoutMs: options.drainTimeout,
    logLevel: logLevel(options),
  };
}

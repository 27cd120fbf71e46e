/** `tproxy forward`: carries connections to backends that see the client's own address. */

import { EAFNOSUPPORT, SyscallError } from "../../../ffi/errno.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Mark, Port } from "../../../ffi/types.ts";
import type { BackendRequest, IntentRequest } from "../../capture/plan/intent.ts";
import { makePlan } from "../../capture/plan/plan.ts";
import { renderNft } from "../../capture/render/nft.ts";
import { checkSettings } from "../../config/check.ts";
import type { Pool } from "../../config/pool.ts";
import { networksOf } from "../../config/request.ts";
import { type Configuration, complete, type Service } from "../../config/service.ts";
import type { Settings } from "../../config/settings.ts";
import type { NetworkSource } from "../../config/syntax.ts";
import { checkForward } from "../../control/connecting.ts";
import { raiseDescriptorLimit } from "../../control/descriptors.ts";
import { bindAddress } from "../../control/endpoints.ts";
import { HeldCapture } from "../../control/held-capture.ts";
import { type OpenSocket, openForWorkers, served } from "../../control/listeners.ts";
import { OwnAddresses } from "../../control/local-addresses.ts";
import { captureDoubts } from "../../control/no-capture.ts";
import type { User } from "../../control/passwd.ts";
import type { ProcessIo } from "../../control/process-io.ts";
import { forwardRunning } from "../../control/reduce-privileges.ts";
import type { Identified } from "../../control/routes-context.ts";
import { serve } from "../../control/supervisor.ts";
import { coreCount } from "../../control/threads.ts";
import { UpstreamList } from "../../control/upstreams.ts";
import { isLocalAddress } from "../../diagnose/snapshot/refusal-facts.ts";
import { randomWord } from "../../engine/random.ts";
import { CommandError, exitStatus, UsageError } from "../../errors.ts";
import { addressKey, isSelf } from "../../forward/dial.ts";
import { OutboundFlows } from "../../forward/outbound-flows.ts";
import { Log } from "../../log/log.ts";
import type { Cidr } from "../../net/cidr.ts";
import { formatDuration } from "../../net/duration.ts";
import { formatSocketAddress } from "../../net/socket-address.ts";
import type { Scheme } from "../../net/target.ts";
import { type ClientBounds, type ForwardTask, LogLevel } from "../../workers/protocol.ts";
import { captureOf, captureRequest } from "../forward-routes.ts";
import { sessionSettings } from "../forward-udp.ts";
import { placed } from "../options/capture.ts";
import { clientBounds } from "../options/clients.ts";
import type { ForwardOptions } from "../options/forward.ts";
import { settingsOf, withoutStdin } from "../options/forward-settings.ts";
import { wantedUser } from "../options/user.ts";
import { checkThreads, workerCount } from "../options/workers.ts";
import { checkLimits, placesOf, type Sharing } from "../strict-limits.ts";
import { issueLine } from "../words/settings.ts";

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
  const settings = settingsOf(options);
  refuse(options, settings);
  if (options.printConfig) return printConfiguration(settings, io);
  const configuration = complete(settings);
  const [service] = configuration.services as [Service];
  const request = captureRequest(
    service,
    configuration.routes,
    (line) => void io.stderr.write(`tproxy: ${line}\n`),
  );
  return options.routes === "print"
    ? printRoutes(service, request, io)
    : serveService(service, request, configuration, io);
}

/** Serves until it is stopped; the exit status. @throws UsageError, CommandError */
async function serveService(
  service: Service,
  request: IntentRequest,
  configuration: Configuration,
  io: ProcessIo,
): Promise<number> {
  const { routes: rules, drainTimeoutMs } = configuration;
  const senders = networksFrom(service.ingress.acceptProxy);
  const protocols = protocolsOf(service);
  const user = wantedUser(configuration.user, protocols.includes("udp"));
  const workers = workerCount(configuration.workers);
  // With two protocols each gets one half: neither can take the other's.
  const descriptors = Math.floor(raiseDescriptorLimit() / protocols.length);
  const sharing = { limits: service.limits, workers, descriptors };
  checkThreads(workers);
  const doubts = checkForward(service, rules.install === "auto", request);
  doubts.push(...checkLimits(sharing, protocols, configuration.strictLimits));
  const to = service.route.pool.upstreams.map((each) => each.to);
  const upstreams = await UpstreamList.resolve(to, service.dial.mark);
  const sets = openListeners(service, workers, user);
  const own = ownAddresses();
  refuseSelf(upstreams, own, sets[0] ?? []);
  const listeners = (sets[0] ?? []).map(({ local }) => local);
  if (rules.install === "none") doubts.push(...captureDoubts(service, listeners));
  const { json, time, lossless } = configuration.log;
  const log = new Log(io, {
    ...{ protocol: protocols[0] ?? "tcp", json, time, lossless },
    level: LogLevel[service.log.level],
    outlivesReader: true,
  });
  const say = (text: string) => log.warn(text);
  const captured = { protocols, backends: upstreams.fixed.map(backendOf), listeners, isOwn };
  const build = ({ request, takenBits }: Identified) =>
    captureOf(service, request, { ...captured, takenBits });
  const routes =
    rules.install === "auto" ? await HeldCapture.apply(request, build, io, say) : undefined;
  io.onExit(() => routes?.release());
  // Unhandled, it would end the process before the rules are taken back.
  if (routes !== undefined) io.onHangup(() => io.exit(exitStatus.hungUp));
  logStart(log, routes?.changes ?? [], sets[0] ?? []);
  for (const each of doubts) say(each);
  const mark = routes?.capture.mark ?? service.dial.mark;
  upstreams.mark = mark;
  const parts = { upstreams, senders, mark, own, ownFlows: flowMemory(), drainTimeoutMs };
  try {
    const { stoppedBy } = await serve(io, makeTasks(service, parts, sharing, sets), log, {
      remaining: { needs: forwardRunning(service, rules.install === "auto"), user },
      shared: { listeners: sets.flat(), joined: say },
      drainTimeoutMs,
      replaces: true,
      hasTable: true,
      died: () => OutboundFlows.clear(parts.ownFlows),
      started: (update) => {
        upstreams.watch((list) => update({ route: { upstreams: list } }), say);
        own.watch((ownAddresses) => update({ route: { ownAddresses } }));
      },
      stopping: (pool) => {
        routes?.drain();
        sayDraining(pool.counters().active, drainTimeoutMs, say);
      },
    });
    return stoppedBy === "EPIPE" ? exitStatus.brokenPipe : exitStatus.success;
  } finally {
    own.close();
    upstreams.close();
    routes?.release();
  }
}

/** The protocols that a service carries. */
function protocolsOf({ listen }: Service): Scheme[] {
  return (["tcp", "udp"] as const).filter((each) =>
    listen.some(({ protocol }) => protocol === each),
  );
}

/** The networks whose PROXY headers count; undefined: no header is expected. */
function networksFrom(sources: readonly NetworkSource[] | undefined): Cidr[] | undefined {
  const networks = networksOf(sources);
  if (!networks.ok) throw new UsageError(networks.error);
  return networks.value;
}

async function printRoutes(
  service: Service,
  request: IntentRequest,
  io: ProcessIo,
): Promise<number> {
  const listeners = service.listen.map(({ endpoint }) => bindAddress(endpoint));
  const backends = backendsOf(service.route.pool);
  const captured = { protocols: protocolsOf(service), backends, listeners, isOwn };
  const { intent, mark } = captureOf(service, request, captured);
  await io.stdout.write(renderNft(makePlan(intent), { origin: printed }));
  if (mark !== service.dial.mark) await io.stderr.write(markHint(mark));
  return exitStatus.success;
}

/** Prints the configuration file that does the same. Lists from standard input stand in it. */
async function printConfiguration(settings: Settings, io: ProcessIo): Promise<number> {
  const { writeToml } = await import("../../config/write.ts");
  await io.stdout.write(writeToml(withoutStdin(settings)));
  return exitStatus.success;
}

function openListeners(
  { listen, ingress, timeouts }: Service,
  workers: number,
  user: User | undefined,
): OpenSocket[][] {
  return openForWorkers(workers, listen, {
    hasSessions: true,
    user,
    savesSyn: true,
    transparent: ingress.transparent,
    noDelay: true,
    keepAliveMs: timeouts.keepAliveMs,
    userTimeoutMs: timeouts.userMs,
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
        ? ": in a service, RestrictAddressFamilies= needs AF_NETLINK"
        : "";
    throw new CommandError(`Cannot read the addresses of this host: ${error.message}${repair}`);
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
    throw new UsageError(`--to ${first} is this proxy itself: give the address of the server`);
  }
}

/** @throws UsageError for options that contradict each other */
function refuse(options: ForwardOptions, settings: Settings): void {
  const [issue] = checkSettings(settings, { cores: coreCount() });
  if (issue !== undefined) throw new UsageError(issueLine(issue));
  if (options.routes !== "print") return;
  if (options.printConfig) {
    throw new UsageError("--print-config and --routes print exclude each other: give one of them");
  }
  if (options.addresses.some(({ endpoint }) => endpoint.port === 0)) {
    throw new UsageError('--routes print excludes port "0": give the port to listen on');
  }
}

/** The upstreams that are addresses, as hosts that have to route their replies through this one. */
function backendsOf({ upstreams }: Pool): BackendRequest[] {
  return upstreams.flatMap(({ to }) => {
    if (to === "original" || typeof to.host === "string") return [];
    return [backendOf({ address: to.host.bytes, port: to.port })];
  });
}

function backendOf({ address, port }: Pick<SocketAddress, "address" | "port">): BackendRequest {
  const family = address.length === 4 ? 4 : 6;
  return placed({ address: { family, bytes: address }, port: port as Port });
}

/** What the tasks of all Workers have in common besides the service. */
interface CommonParts {
  readonly upstreams: UpstreamList;
  readonly senders: readonly Cidr[] | undefined;
  readonly mark: Mark | undefined;
  readonly own: OwnAddresses;
  readonly ownFlows: SharedArrayBuffer;
  readonly drainTimeoutMs: number;
}

/** A task for each Worker, whose sockets are one of the `sets`. */
function makeTasks(
  service: Service,
  parts: CommonParts,
  sharing: Sharing,
  sets: readonly (readonly OpenSocket[])[],
): ForwardTask[] {
  const { limits } = service;
  const { workers } = sharing;
  const ofTcp = clientBounds(
    limits.maxConnectionsPerClient,
    limits.connectionRatePerClient,
    workers,
  );
  const ofUdp = clientBounds(limits.maxSessionsPerClient, limits.sessionRatePerClient, workers);
  const hasSessions = protocolsOf(service).includes("udp");
  return sets.map((sockets, worker) => ({
    ...task(service, parts, sharing, ofTcp[worker] as ClientBounds),
    sockets: sockets.map(served),
    sessions: hasSessions
      ? sessionSettings(service, sharing, ofUdp[worker] as ClientBounds)
      : undefined,
  }));
}

function task(
  { ingress, route, dial, timeouts, log }: Service,
  { upstreams, senders, mark, own, ownFlows, drainTimeoutMs }: CommonParts,
  sharing: Sharing,
  clients: ClientBounds,
): Omit<ForwardTask, "sockets" | "sessions"> {
  return {
    kind: "forward",
    ingress: { acceptProxy: senders, redirected: ingress.redirected },
    route: {
      upstreams: upstreams.upstreams,
      balance: route.pool.balance,
      source: route.source,
      sourceFallback: route.sourceFallback,
      ownAddresses: own.addresses,
      ownFlows,
    },
    dial: { ...dial, mark },
    limits: { ...placesOf(sharing, clients.worker), clients },
    timeouts: { ...timeouts, drainMs: drainTimeoutMs },
    log: { level: LogLevel[log.level] },
  };
}

/** Runs one service on the kernel path, from its first rule to its last connection. */

import { SyscallError } from "../../../ffi/errno.ts";
import { decodeLink, dumpLinks, getLink } from "../../../ffi/netlink/link.ts";
import { decodeRoute, getRoute } from "../../../ffi/netlink/route.ts";
import type { PathIntent, PathService } from "../../capture/kernel-path/intent.ts";
import { makePathPlan } from "../../capture/kernel-path/plan.ts";
import type { Kernel } from "../../capture/live/kernel.ts";
import type { IntentRequest } from "../../capture/plan/intent.ts";
import { renderNft } from "../../capture/render/nft.ts";
import type { Configuration, Service } from "../../config/service.ts";
import { ruleNeeds } from "../../diagnose/checks/privileges.ts";
import { exitStatus, type StopReason } from "../../errors.ts";
import { Log } from "../../log/log.ts";
import type { Family } from "../../net/address.ts";
import { formatDuration } from "../../net/duration.ts";
import { formatSocketAddress } from "../../net/socket-address.ts";
import { LogLevel } from "../../workers/protocol.ts";
import { bindAddress } from "../endpoints.ts";
import type { User } from "../passwd.ts";
import { checkPrivileges } from "../privileges.ts";
import type { ProcessIo } from "../process-io.ts";
import { reducePrivileges } from "../reduce-privileges.ts";
import type { UpstreamList } from "../upstreams.ts";
import { familiesOf, pathService, upstreamsOf } from "./describe-service.ts";
import { FlowWatch } from "./flow-watch.ts";
import { HeldPath } from "./held-path.ts";
import { PathSlots, type PathUpstream } from "./path-slots.ts";

/** What a service on the kernel path is run with. */
export interface PathRun {
  readonly service: Service;
  readonly request: IntentRequest;
  readonly configuration: Configuration;
  readonly upstreams: UpstreamList;
  readonly isOwn: (address: Uint8Array) => boolean;
  /** Whom the process goes on as. */
  readonly user: User | undefined;
}

/** The upstreams of now and their slots, by what is known of them. */
interface Spread {
  readonly slots: PathSlots;
  readonly watch: FlowWatch | undefined;
}

/** What is carried now, in a table of this name and with this number. */
function pathIntent(
  run: PathRun,
  number: number,
  { slots, watch }: Spread,
  kernel?: Kernel,
): PathIntent {
  const { service, request, configuration, upstreams, isOwn } = run;
  const { routes } = configuration;
  const own = pathService(service, request, number, isOwn);
  const endpoints = upstreamsOf(service.route.pool, upstreams);
  watch?.replace(endpoints);
  const families = familiesOf(service, request);
  const remote = endpoints.filter(({ address }) => !isOwn(address.bytes));
  const links = kernel === undefined ? [] : linksTo(kernel, remote);
  const pools = families.map((each) => slots.assign(each, endpoints, watch?.health, watch?.load));
  return {
    tableName: routes["table-name"] ?? "tproxyd",
    services: [{ ...own, pools }],
    sameLink: links,
    offload: kernel !== undefined && service.path.offload ? linksOf(kernel) : [],
    forwards: forwardedFamilies(families, remote),
    sysctl: routes.sysctl ?? false,
  };
}

function forwardedFamilies(families: readonly Family[], remote: readonly PathUpstream[]) {
  return families.filter((family) => remote.some(({ address }) => address.family === family));
}

/** Carries a service until it is stopped; the exit status. @throws CommandError */
export async function servePath(run: PathRun, io: ProcessIo): Promise<number> {
  const { service, configuration, upstreams, user } = run;
  const needs = ruleNeeds("apply routes");
  checkPrivileges(needs);
  const log = new Log(io, {
    ...{ ...configuration.log, outlivesReader: true },
    protocol: service.listen[0]?.protocol ?? "tcp",
    level: LogLevel[service.log.level],
    namesServices: () => false,
  });
  io.onReport(() => log.reopen());
  const say = (text: string) => log.warn(text);
  const slots = new PathSlots(service.route.pool);
  const held = await HeldPath.apply({
    build: (number, kernel) => pathIntent(run, number, { slots, watch: undefined }, kernel),
    isNamed: configuration.routes["table-name"] !== undefined,
    say,
  });
  io.onExit(() => held.release());
  io.onHangup(() => io.exit(exitStatus.hungUp));
  for (const change of held.changes) log.note(`    ${change}`, { event: "routes", change });
  logStart(log, service, held.intent);
  const [own] = held.intent.services as [PathService];
  const { number } = own;
  const update = () => held.update(pathIntent(run, number, { slots, watch }, held.kernel));
  const watch = new FlowWatch({
    service: {
      ...{ number, timeouts: own.timeouts, source: service.route.source.kind },
      level: LogLevel[service.log.level],
    },
    pool: service.route.pool,
    print: (events) => void log.print(events),
    warn: say,
    changed: update,
  });
  io.onReport(() => watch.report());
  try {
    reducePrivileges({ needs, user });
    update();
    watch.start();
    upstreams.watch(update, say);
    const stopped = Promise.withResolvers<StopReason>();
    io.onStop(stopped.resolve);
    const reason = await stopped.promise;
    held.drain();
    await drained(watch, configuration.drainTimeoutMs, say);
    watch.end();
    return reason === "EPIPE" ? exitStatus.brokenPipe : exitStatus.success;
  } finally {
    upstreams.close();
    watch.close();
    held.release();
    log.end();
  }
}

/** Prints the rules of the kernel path, and exits. */
export async function printPath(run: PathRun, io: ProcessIo): Promise<number> {
  const slots = new PathSlots(run.service.route.pool);
  const intent = pathIntent(run, 1, { slots, watch: undefined });
  run.upstreams.close();
  await io.stdout.write(renderNft(makePathPlan(intent), { origin: printed }));
  return exitStatus.success;
}

/** What the heading of a printed script says of it. */
const printed = { command: "tproxy forward --routes print", undo: "`tproxy routes --remove`" };

function logStart(log: Log, { listen }: Service, { services }: PathIntent): void {
  for (const { protocol, endpoint } of listen) {
    const address = formatSocketAddress(bindAddress(endpoint));
    const text = `[+] The kernel carries ${protocol}://${address}`;
    log.note(text, { event: "kernel-path", protocol, address, number: services[0]?.number });
  }
}

const pollMs = 100;

/** Waits until no connection is open any more, for as long as they may take. */
async function drained(watch: FlowWatch, timeoutMs: number, say: (text: string) => void) {
  const deadline = performance.now() + timeoutMs;
  for (let isFirst = true; performance.now() < deadline; isFirst = false) {
    const open = watch.openStreams();
    if (open === 0) return;
    if (isFirst) {
      const many = open === 1 ? "1 connection" : `${open} connections`;
      const time = formatDuration(timeoutMs);
      say(`stopping: ${many} may go on for ${time}, and a second signal ends them`);
    }
    await Bun.sleep(pollMs);
  }
}

/** The most interfaces that a flowtable has (NFT_NETDEVICE_MAX). */
const devicesMax = 256;

/** The interfaces at which flows may be picked up: ports of bridges and bonds are not. */
function linksOf(kernel: Kernel): string[] {
  return kernel.route
    .dump(dumpLinks(), decodeLink)
    .filter(({ up, loopback, master }) => up && !loopback && master === undefined)
    .map(({ name }) => name)
    .slice(0, devicesMax);
}

/** The interfaces by which hosts are reached, each once. */
function linksTo(kernel: Kernel, hosts: readonly PathUpstream[]): string[] {
  const found = hosts.flatMap(({ address }) => {
    try {
      const { oif } = kernel.route.get(getRoute({ destination: address.bytes }), decodeRoute);
      return oif === undefined ? [] : [kernel.route.get(getLink({ index: oif }), decodeLink).name];
    } catch (error) {
      if (error instanceof SyscallError) return [];
      throw error;
    }
  });
  return [...new Set(found)].filter((name) => name !== "lo");
}

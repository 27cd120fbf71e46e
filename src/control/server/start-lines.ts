/** The lines that a server logs at its start and at its end. */

import type { Log } from "../../log/log.ts";
import { formatDuration } from "../../net/duration.ts";
import { formatSocketAddress } from "../../net/socket-address.ts";
import { bindAddress } from "../endpoints.ts";
import type { PathCandidate } from "../kernel-path/choose-path.ts";
import type { OpenSocket } from "../listeners.ts";
import type { OpenService } from "./running-service.ts";

/** Logs the rules that were put in, and where clients are awaited. */
export function logStart(
  log: Log,
  changes: readonly string[],
  services: readonly Pick<OpenService, "service" | "sockets">[],
  isNameless: boolean,
): void {
  for (const change of changes) log.note(`    ${change}`, { event: "routes", change });
  for (const { service, sockets } of services) {
    const name = isNameless ? undefined : service.name;
    for (const { protocol, address } of boundAt(sockets)) {
      const fields = { event: "bound", service: name, protocol, address };
      log.note(`[+] ${log.prefixOf(name)}Bound to ${protocol}://${address}`, fields);
    }
  }
}

/** Logs what the kernel carries by itself. */
export function logCarried(
  log: Log,
  carried: readonly Pick<PathCandidate, "service">[],
  isNameless: boolean,
): void {
  for (const { service } of carried) {
    const name = isNameless ? undefined : service.name;
    for (const { protocol, endpoint } of service.listen) {
      const address = formatSocketAddress(bindAddress(endpoint));
      const fields = { event: "kernel-path", service: name, protocol, address };
      log.note(`[+] ${log.prefixOf(name)}The kernel carries ${protocol}://${address}`, fields);
    }
  }
}

/** A line about each Worker that has not taken over a change in time. */
export function lateLines(workers: readonly number[]): string[] {
  return workers.map((number) => `worker ${number} has not taken over the changes yet`);
}

/** Logs where a reload has begun to listen, where it has ended that, and what it warns of. */
export function logOpened(
  log: Log,
  before: readonly OpenSocket[],
  services: readonly OpenService[],
  warnings: readonly string[],
): void {
  for (const each of warnings) log.warn(each);
  const known = new Set(before);
  const now = new Set(services.flatMap(({ sets }) => sets.flat()));
  for (const { service, sockets } of services) {
    const opened = sockets.filter((socket) => !known.has(socket));
    logStart(log, [], [{ service, sockets: opened }], false);
  }
  // Each Worker has one at each address.
  const closed = before.filter((socket) => !now.has(socket));
  for (const { protocol, address } of new Map(
    boundAt(closed).map((each) => [`${each.protocol} ${each.address}`, each]),
  ).values()) {
    log.note(`[+] Closed ${protocol}://${address}`, { event: "unbound", protocol, address });
  }
}

const knownBounds = new WeakMap<readonly OpenSocket[], readonly BoundAt[]>();

/** Where sockets are bound; those whose ports follow each other are one range. */
export function boundAt(sockets: readonly OpenSocket[]): readonly BoundAt[] {
  const before = knownBounds.get(sockets);
  if (before !== undefined) return before;
  const bound = rangesOf(sockets).map(({ protocol, address }) => ({ protocol, address }));
  knownBounds.set(sockets, bound);
  return bound;
}

function rangesOf(sockets: readonly OpenSocket[]): Bound[] {
  const ranges: Bound[] = [];
  for (const { protocol, local } of sockets) {
    const last = ranges.at(-1);
    const host = formatSocketAddress({ ...local, port: 0 }).slice(0, -1);
    const follows = last?.protocol === protocol && last.host === host;
    if (follows && last.to + 1 === local.port) ranges[ranges.length - 1] = range(last, local.port);
    else ranges.push(range({ protocol, host, from: local.port }, local.port));
  }
  return ranges;
}

interface BoundAt {
  readonly protocol: "tcp" | "udp";
  /** `192.0.2.1:80`, `[::]:20000-20100`. */
  readonly address: string;
}

interface Bound extends BoundAt {
  readonly host: string;
  readonly from: number;
  readonly to: number;
}

function range({ protocol, host, from }: Omit<Bound, "address" | "to">, to: number): Bound {
  const address = `${host}${from === to ? from : `${from}-${to}`}`;
  return { protocol, host, from, to, address };
}

/** Why the process is still there after a first signal; undefined if it is not. */
export function drainingLine(active: number, drainTimeoutMs: number): string | undefined {
  if (active === 0 || drainTimeoutMs === 0) return undefined;
  const many = active === 1 ? "1 connection" : `${active} connections`;
  const time = formatDuration(drainTimeoutMs);
  return `stopping: ${many} may go on for ${time}, and a second signal ends them`;
}

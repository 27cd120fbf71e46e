/**
 * Finds contradictions in settings. Pure, and without wording: an issue has a path, a code and
 * what its text needs. The command line words it with its flags, a file with its own names.
 */

import * as limits from "../engine/limits.ts";
import { isUnspecified } from "../net/ip.ts";
import type { IssueOf, Path } from "../net/issue.ts";
import type { Scheme } from "../net/target.ts";
import {
  checkCheck,
  checkPoolSettings,
  isPortless,
  missing,
  originalAlone,
  type PoolIssueArgs,
  targetsOf,
} from "./check-pool.ts";
import { formatListen, type Listen } from "./listen.ts";
import {
  formatVersion,
  type PoolSettings,
  type ServiceSettings,
  type Settings,
} from "./settings.ts";
import type { UpstreamTarget } from "./syntax.ts";

/** What each kind of issue has besides its path. */
export interface IssueArgs extends PoolIssueArgs {
  /** The format is newer than this program. */
  "newer-version": { readonly newest: number };
  /** Two services would accept at one socket. */
  "same-socket": { readonly socket: string; readonly taken: string; readonly owner: string };
  "too-many-sockets": { readonly count: number; readonly max: number };
  "no-such-pool": { readonly name: string; readonly names: readonly string[] };
  /** The upstreams of a service are a pool with a name that another pool has. */
  "pool-of-service": { readonly name: string };
  /** Both a pool and upstreams of its own, or neither. */
  "pool-and-to": Record<never, never>;
  "pool-or-to": Record<never, never>;
  /** The setting of a pool stands beside its name in a service. */
  "of-the-pool": { readonly setting: string };
  /** An upstream is of a protocol, and the other one is carried as well. */
  "upstream-protocol": { readonly protocol: Scheme; readonly other: Scheme };
  /** The setting is of a protocol that is not carried. */
  "needs-protocol": { readonly setting: string; readonly protocol: Scheme };
  "proxy-v1-udp": Record<never, never>;
  "redirect-original-udp": Record<never, never>;
  "less-than-workers": {
    readonly setting: string;
    readonly count: number;
    readonly workers: number;
  };
  "keepalive-range": { readonly ms: number };
  "header-without-proxy": Record<never, never>;
  "user-with-sysctl": Record<never, never>;
  /** Something is to be captured, and no rules are installed. */
  /** No service may be carried by the kernel. */
  "on-exit-of-relay": Record<never, never>;
  "capture-without-routes": { readonly setting: string };
}

export type Issue = IssueOf<IssueArgs>;

/** Sockets of all services together, for each Worker. */
const socketsMax = 4_096;

export interface CheckContext {
  /** How many Workers `auto` stands for. */
  readonly cores: number;
}

/** Every contradiction in some settings, in the order in which they are looked for. */
export function checkSettings(settings: Settings, { cores }: CheckContext): Issue[] {
  const { service = [], pool = [], version = formatVersion } = settings;
  const workers = settings.workers === "auto" ? cores : (settings.workers ?? 1);
  const issues: Issue[] = [];
  if (version > formatVersion) {
    const args = { newest: formatVersion };
    issues.push({ path: ["version"], code: "newer-version", args });
  }
  if (service.length === 0) {
    issues.push({ path: [], code: "missing", args: { setting: "service" } });
  }
  const { defaults = {} } = settings;
  if (defaults.check !== undefined) {
    issues.push(...checkCheck(["defaults", "check"], defaults.check));
  }
  for (const [i, each] of pool.entries()) {
    issues.push(...checkPoolSettings(["pool", i], each, defaults));
  }
  const pools = new Map(pool.map((each) => [each.name, each]));
  for (const [i, each] of service.entries()) {
    issues.push(...checkService(["service", i], each, { settings, pools, workers }));
  }
  const { install: _, ...routes } = settings.routes ?? {};
  issues.push(...withoutRoutes(["routes"], routes, settings));
  const isCarried = service.some(({ path = defaults.path ?? "relay" }) => path !== "relay");
  if ((routes["on-exit"] ?? "open") !== "open" && service.length > 0 && !isCarried) {
    issues.push({ path: ["routes", "on-exit"], code: "on-exit-of-relay", args: {} });
  }
  issues.push(...sameNames("pool", pool), ...sameNames("service", service));
  issues.push(...ownPools(service, pools));
  issues.push(...sharedSockets(service));
  if (settings.user !== undefined && settings.routes?.sysctl && isInstalled(settings)) {
    issues.push({ path: ["user"], code: "user-with-sysctl", args: {} });
  }
  return issues;
}

function isInstalled({ routes }: Settings): boolean {
  return routes?.install === "auto";
}

interface Surroundings {
  readonly settings: Settings;
  readonly pools: ReadonlyMap<string | undefined, PoolSettings>;
  readonly workers: number;
}

function checkService(path: Path, service: ServiceSettings, around: Surroundings): Issue[] {
  const { settings, pools, workers } = around;
  const to = service.to ?? targetsOf(pools.get(service.pool ?? "") ?? {});
  const protocols = new Set((service.listen ?? []).map(({ protocol }) => protocol));
  const issues: Issue[] = [
    ...missing(path, { name: service.name, listen: service.listen }),
    ...checkPool(path, service, pools),
    ...originalAlone([...path, "to"], service.to),
  ];
  // Of what listens nowhere nothing is known.
  if (protocols.size > 0) issues.push(...checkProtocols(path, service, protocols, around, to));
  const parts = { tcp: "max-connections", udp: "max-sessions" } as const;
  for (const protocol of protocols) {
    const setting = parts[protocol];
    const count = service[setting];
    if (count === undefined || count >= workers) continue;
    const args = { setting, count, workers };
    issues.push({ path: [...path, setting], code: "less-than-workers", args });
  }
  const { keepalive: ms = 0 } = { ...settings.defaults, ...service };
  if (ms !== 0 && !isKeepAlive(ms)) {
    issues.push({ path: [...path, "keepalive"], code: "keepalive-range", args: { ms } });
  }
  const acceptProxy = service["accept-proxy"] ?? settings.defaults?.["accept-proxy"] ?? false;
  if (service["header-timeout"] !== undefined && acceptProxy === false) {
    const args = {};
    issues.push({ path: [...path, "header-timeout"], code: "header-without-proxy", args });
  }
  return [...issues, ...withoutRoutes([...path, "capture"], service.capture, settings)];
}

/** The first setting about rules, where none are installed. */
function withoutRoutes(path: Path, given: object | undefined, settings: Settings): Issue[] {
  const [setting] = Object.entries(given ?? {}).find(([, value]) => value !== false) ?? [];
  if (setting === undefined || isInstalled(settings)) return [];
  return [{ path: [...path, setting], code: "capture-without-routes", args: { setting } }];
}

/** Whether TCP_KEEPIDLE, in seconds, can hold it. */
function isKeepAlive(ms: number): boolean {
  return ms >= 1000 && ms <= limits.keepAliveMsMax;
}

function checkPool(
  path: Path,
  { pool, to, balance }: ServiceSettings,
  pools: ReadonlyMap<string | undefined, PoolSettings>,
): Issue[] {
  if (pool === undefined && to === undefined) return [{ path, code: "pool-or-to", args: {} }];
  if (pool === undefined) return [];
  const issues: Issue[] = [];
  if (to !== undefined) issues.push({ path: [...path, "to"], code: "pool-and-to", args: {} });
  if (!pools.has(pool)) {
    const names = [...pools.keys()].filter((name) => name !== undefined);
    issues.push({ path: [...path, "pool"], code: "no-such-pool", args: { name: pool, names } });
  }
  if (balance !== undefined) {
    const args = { setting: "balance" };
    issues.push({ path: [...path, "balance"], code: "of-the-pool", args });
  }
  return issues;
}

/** Settings that are of one protocol alone. */
export const settingsOfProtocol = {
  tcp: [
    ...(["max-connections", "max-connections-per-client", "connection-rate-per-client"] as const),
    ...(["connect-timeout", "header-timeout", "idle-timeout", "half-closed-timeout"] as const),
    ...(["keepalive", "user-timeout", "client-first", "fast-open"] as const),
  ],
  udp: [
    ...(["max-sessions", "max-sessions-per-client", "session-rate-per-client"] as const),
    "udp-timeout" as const,
  ],
};

function checkProtocols(
  path: Path,
  service: ServiceSettings,
  protocols: ReadonlySet<Scheme>,
  { settings }: Surroundings,
  to: readonly UpstreamTarget[],
): Issue[] {
  const all = { ...settings.defaults, ...service };
  const issues: Issue[] = [];
  for (const [i, target] of to.entries()) {
    if (target === "original" || target.scheme === undefined) continue;
    const other = target.scheme === "tcp" ? "udp" : "tcp";
    if (!protocols.has(other)) continue;
    const at = service.to === undefined ? ["pool"] : ["to", i];
    const args = { protocol: target.scheme, other } as const;
    issues.push({ path: [...path, ...at], code: "upstream-protocol", args });
  }
  for (const protocol of ["tcp", "udp"] as const) {
    if (protocols.has(protocol)) continue;
    const given: string[] = settingsOfProtocol[protocol].filter(
      (name) => service[name] !== undefined,
    );
    // "v2:every" is of UDP; a list of its own would name the value.
    if (protocol === "udp" && service["send-proxy"] === "v2:every") given.push("send-proxy");
    for (const setting of given) {
      const args = { setting, protocol };
      issues.push({ path: [...path, setting], code: "needs-protocol", args });
    }
  }
  if (!protocols.has("udp")) return issues;
  if (all["send-proxy"] === "v1") {
    issues.push({ path: [...path, "send-proxy"], code: "proxy-v1-udp", args: {} });
  }
  if (all.redirect === true && to.some((each) => each === "original" || isPortless(each))) {
    issues.push({ path: [...path, "redirect"], code: "redirect-original-udp", args: {} });
  }
  return issues;
}

function sameNames(kind: "pool" | "service", all: readonly { readonly name?: string }[]): Issue[] {
  const names = new Set<string>();
  return all.flatMap(({ name }, i): Issue[] => {
    if (name === undefined) return [];
    if (names.has(name)) return [{ path: [kind, i, "name"], code: "same-name", args: { name } }];
    names.add(name);
    return [];
  });
}

/** The upstreams of a service are a pool with its name, which no other pool may have. */
function ownPools(
  services: readonly ServiceSettings[],
  pools: ReadonlyMap<string | undefined, PoolSettings>,
): Issue[] {
  return services.flatMap(({ name, to }, i): Issue[] => {
    if (name === undefined || to === undefined || !pools.has(name)) return [];
    return [{ path: ["service", i, "to"], code: "pool-of-service", args: { name } }];
  });
}

/** A place where a service accepts. */
interface Place {
  readonly listen: Listen;
  readonly owner: string;
}

/** Two that want one socket: the kernel would refuse the second one. */
function sharedSockets(services: readonly ServiceSettings[]): Issue[] {
  const issues: Issue[] = [];
  const byPort = new Map<string, Place[]>();
  let count = 0;
  for (const [i, { name = "", listen = [] }] of services.entries()) {
    for (const [j, each] of listen.entries()) {
      count += each.ports.to - each.ports.from + 1;
      const path = ["service", i, "listen", j];
      if (count > socketsMax) {
        const args = { count, max: socketsMax };
        return [...issues, { path, code: "too-many-sockets", args }];
      }
      const other = occupy(byPort, { listen: each, owner: name });
      if (other === undefined) continue;
      const taken = formatListen(other.listen);
      const args = { socket: formatListen(each), taken, owner: other.owner };
      issues.push({ path, code: "same-socket", args });
    }
  }
  return issues;
}

/** Notes a place, and returns another one that has a port of it. */
function occupy(byPort: Map<string, Place[]>, place: Place): Place | undefined {
  const { protocol, address, ports } = place.listen;
  let taken: Place | undefined;
  for (let port: number = ports.from; port <= ports.to; port++) {
    // Port 0 is another one each time.
    if (port === 0) continue;
    const key = `${protocol}:${port}`;
    const there = byPort.get(key) ?? [];
    taken ??= there.find(({ listen }) => overlap(listen.address, address));
    byPort.set(key, [...there, place]);
  }
  return taken;
}

/** Whether one socket at each address would be one too many. `[::]` takes IPv4 as well. */
function overlap(a: Listen["address"], b: Listen["address"]): boolean {
  const any4 = new Uint8Array(4);
  const [one, other] = [a?.bytes ?? any4, b?.bytes ?? any4];
  const covers = (wide: Uint8Array, narrow: Uint8Array) =>
    isUnspecified(wide) && wide.length >= narrow.length;
  if (covers(one, other) || covers(other, one)) return true;
  return (
    a?.zone === b?.zone && one.length === other.length && one.every((byte, i) => byte === other[i])
  );
}

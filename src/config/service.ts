/**
 * The one description of what is served: complete, with every default filled in. It is made of
 * what somebody has set, on the command line or in a file.
 */

import type { Mark } from "../../ffi/types.ts";
import * as limits from "../engine/limits.ts";
import type { Endpoint } from "../net/endpoint.ts";
import type { Scheme } from "../net/target.ts";
import { type AdminConfiguration, completeAdmin } from "./admin.ts";
import { endpointsOf } from "./listen.ts";
import { completePool, namelessService, type Pool, withoutPoolDefaults } from "./pool.ts";
import type {
  CaptureSettings,
  DefaultSettings,
  RoutesSettings,
  ServiceSettings,
  Settings,
  UdpTimeout,
} from "./settings.ts";
import { builtInLog, completeLog, type LogConfiguration, type ServiceLog } from "./settings-log.ts";
import { completeMetrics, type MetricsConfiguration } from "./settings-metrics.ts";
import type { NetworkSource, SourceChoice } from "./syntax.ts";

/** All that one process serves. */
export interface Configuration {
  /** What it was made of. */
  readonly settings: Settings;
  readonly workers: number | "auto";
  readonly drainTimeoutMs: number;
  /** Who the process goes on as once all is set up. */
  readonly user: string | undefined;
  /** Refuses to start where the limit on descriptors is too low. */
  readonly strictLimits: boolean;
  readonly admin: AdminConfiguration;
  readonly log: LogConfiguration;
  /** Undefined: metrics are not read over TCP. */
  readonly metrics: MetricsConfiguration | undefined;
  /** The rules of all services together; what is not set is chosen with the rules. */
  readonly routes: RoutesSettings & { readonly install: "auto" | "none" };
  readonly pools: readonly Pool[];
  readonly services: readonly Service[];
}

/** A socket to accept at. */
export interface Listener {
  readonly protocol: Scheme;
  readonly endpoint: Endpoint;
}

export interface Service {
  readonly name: string;
  /** Whether it is served; one that is not keeps its place in the configuration. */
  readonly isEnabled: boolean;
  readonly listen: readonly Listener[];
  readonly capture: CaptureSettings;
  readonly ingress: Ingress;
  readonly route: Route;
  readonly dial: DialSettings;
  readonly path: PathChoice;
  readonly limits: ServiceLimits;
  readonly timeouts: Timeouts;
  readonly log: ServiceLog;
}

/** How connections arrive. */
export interface Ingress {
  /** At addresses of other hosts as well (IP_TRANSPARENT): not of what comes by NAT. */
  readonly transparent: boolean;
  /** By NAT, which alone knows where they were going (SO_ORIGINAL_DST). */
  readonly redirected: boolean;
  /** Accept when the client's first bytes are there (TCP_DEFER_ACCEPT). */
  readonly clientFirst: boolean;
  /** Senders whose PROXY headers count, empty for all; undefined: no header is expected. */
  readonly acceptProxy: readonly NetworkSource[] | undefined;
}

/** Where connections go, and from which address. */
export interface Route {
  readonly pool: Pool;
  readonly source: SourceChoice;
  /** Connect from an own address where the client's cannot be used, instead of refusing. */
  readonly sourceFallback: boolean;
}

/** Who carries connections. */
export interface PathChoice {
  /** `auto`: the kernel where it can, otherwise the relay. */
  readonly kind: "relay" | "kernel" | "auto";
  /** The kernel path uses a flowtable where the kernel has one. */
  readonly offload: boolean;
}

/** How connections to upstreams are made. */
export interface DialSettings {
  /** SO_MARK. */
  readonly mark: Mark | undefined;
  readonly sendProxy: "v1" | "v2" | "v2:every" | undefined;
  /** Send the first bytes with the SYN (TCP_FASTOPEN_CONNECT). */
  readonly fastOpen: boolean;
}

/** Undefined: as many as the limit on descriptors allows. 0 of a client: no bound of its own. */
export interface ServiceLimits {
  readonly maxConnections: number | undefined;
  readonly maxConnectionsPerClient: number;
  readonly connectionRatePerClient: number;
  readonly maxSessions: number | undefined;
  readonly maxSessionsPerClient: number;
  readonly sessionRatePerClient: number;
}

/** In ms; `neverMs` for no end. */
export interface Timeouts {
  readonly headerMs: number;
  readonly connectMs: number;
  readonly idleMs: number;
  readonly halfClosedMs: number;
  readonly sessionIdleMs: number;
  /** By port of the original destination, once a session has been answered. */
  readonly answeredSessions: readonly { readonly port: number; readonly timeoutMs: number }[];
  /** Undefined: no probes. */
  readonly keepAliveMs: number | undefined;
  /** Undefined: the kernel's. */
  readonly userMs: number | undefined;
}

/** What applies to every service where nothing else is set. */
const builtIn = {
  balance: "round-robin",
  path: "relay",
  offload: "auto",
  transparent: true,
  redirect: false,
  "client-first": false,
  "fast-open": false,
  "accept-proxy": false,
  "header-timeout": limits.headerTimeoutMs,
  "connect-timeout": limits.connectTimeoutMs,
  "idle-timeout": limits.forwardIdleTimeoutMs,
  "half-closed-timeout": limits.halfClosedTimeoutMs,
} as const satisfies DefaultSettings;

/** What applies to all of a process where nothing else is set. */
export const builtInOfAll = {
  workers: 1,
  "drain-timeout": limits.drainTimeoutMs,
  "strict-limits": false,
  log: builtInLog,
  routes: { install: "none", sysctl: false },
} as const satisfies Settings;

/** The settings of a service, with those of [defaults] and what is built in. */
export function withDefaults(own: ServiceSettings, defaults: DefaultSettings = {}) {
  const all = { ...builtIn, ...withoutPoolDefaults(defaults), ...own };
  // Where connections are redirected, transparent sockets are not at hand, and NAT makes no way
  // back for the replies to a client's address.
  const source: SourceChoice = all.redirect
    ? { kind: "self" }
    : { kind: "client", keepPort: false };
  return { source, ...all, "udp-timeout": completeSilences(all["udp-timeout"]) };
}

const DNS_PORT = 53;

/** The time of every port comes first; that of DNS is shorter unless it is given. */
function completeSilences(given: readonly UdpTimeout[] = []): readonly UdpTimeout[] {
  const general = given.findLast(({ port }) => port === undefined);
  const ms = general?.ms ?? limits.sessionIdleTimeoutMs;
  const dns = { port: DNS_PORT, ms: Math.min(limits.dnsIdleTimeoutMs, ms) };
  const byPort = new Map([dns, ...given].map((each) => [each.port, each]));
  byPort.delete(undefined);
  return [{ port: undefined, ms }, ...byPort.values()];
}

/** Fills in the defaults of settings that have no contradiction (`checkSettings`). */
export function complete(settings: Settings): Configuration {
  const { pool = [], service = [], defaults = {}, user } = settings;
  const all = { ...builtInOfAll, ...settings };
  const log = completeLog(settings.log);
  const pools = new Map(pool.map((each) => [each.name, completePool(each, defaults)]));
  return {
    settings,
    workers: all.workers,
    drainTimeoutMs: all["drain-timeout"],
    user,
    strictLimits: all["strict-limits"],
    admin: completeAdmin(settings),
    log,
    metrics: completeMetrics(settings.metrics),
    routes: { ...builtInOfAll.routes, ...settings.routes },
    pools: [...pools.values()],
    services: service.map((own) => {
      const named = own.pool === undefined ? undefined : pools.get(own.pool);
      return completeService(own, defaults, named ?? completePool(own, defaults), log);
    }),
  };
}

function completeService(
  own: ServiceSettings,
  defaults: DefaultSettings,
  pool: Pool,
  { level, connections, sample }: ServiceLog,
): Service {
  const all = withDefaults(own, defaults);
  const senders = all["accept-proxy"];
  return {
    name: own.name ?? namelessService,
    isEnabled: own.enabled ?? true,
    listen: (own.listen ?? []).flatMap((each) =>
      endpointsOf(each).map((endpoint) => ({ protocol: each.protocol, endpoint })),
    ),
    capture: own.capture ?? {},
    ingress: {
      transparent: all.transparent && !all.redirect,
      redirected: all.redirect,
      clientFirst: all["client-first"],
      acceptProxy: typeof senders === "boolean" ? (senders ? [] : undefined) : senders,
    },
    route: {
      pool,
      source: all.source,
      sourceFallback: all["source-fallback"] === "self",
    },
    dial: {
      mark: all["socket-mark"],
      sendProxy: all["send-proxy"],
      fastOpen: all["fast-open"],
    },
    path: { kind: all.path, offload: all.offload === "auto" },
    limits: {
      maxConnections: all["max-connections"],
      maxConnectionsPerClient: all["max-connections-per-client"] ?? 0,
      connectionRatePerClient: all["connection-rate-per-client"] ?? 0,
      maxSessions: all["max-sessions"],
      maxSessionsPerClient: all["max-sessions-per-client"] ?? 0,
      sessionRatePerClient: all["session-rate-per-client"] ?? 0,
    },
    timeouts: completeTimeouts(all),
    log: { level: own["log-level"] ?? level, connections, sample },
  };
}

function completeTimeouts(all: ReturnType<typeof withDefaults>): Timeouts {
  const [general, ...byPort] = all["udp-timeout"];
  return {
    headerMs: all["header-timeout"],
    connectMs: all["connect-timeout"],
    idleMs: all["idle-timeout"],
    halfClosedMs: all["half-closed-timeout"],
    sessionIdleMs: general?.ms ?? limits.sessionIdleTimeoutMs,
    answeredSessions: byPort.map(({ port = 0, ms }) => ({ port, timeoutMs: ms })),
    keepAliveMs: all.keepalive || undefined,
    userMs: all["user-timeout"] || undefined,
  };
}

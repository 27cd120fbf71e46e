/** The tasks of Workers for a service. */

import type { Mark } from "../../../ffi/types.ts";
import type { Pool } from "../../config/pool.ts";
import type { Service } from "../../config/service.ts";
import { readSysctl } from "../../diagnose/snapshot/proc.ts";
import * as limits from "../../engine/limits.ts";
import type { Cidr } from "../../net/cidr.ts";
import type { Scheme } from "../../net/target.ts";
import {
  type ClientBounds,
  type ForwardTask,
  type IcmpLimits,
  LogLevel,
  type PoolRules,
  type SessionSettings,
  type Upstreams,
} from "../../workers/protocol.ts";
import { type OpenSocket, served } from "../listeners.ts";
import { clientBounds, placesOf, type Sharing, sessionPlacesOf } from "../places.ts";

/** The common parts of the tasks of all Workers besides the service. */
export interface TaskParts {
  readonly upstreams: Upstreams;
  /** The networks whose PROXY headers count; undefined: no header is expected. */
  readonly senders: readonly Cidr[] | undefined;
  readonly mark: Mark | undefined;
  /** The addresses of this host, 4 or 16 bytes each. */
  readonly ownAddresses: readonly Uint8Array[];
  /** The table of all Workers' flows. */
  readonly ownFlows: SharedArrayBuffer;
  readonly drainTimeoutMs: number;
  readonly sharing: Sharing;
  /** The service's name in the log; undefined: it has none. */
  readonly name: string | undefined;
}

/** The protocols that a service carries. */
export function protocolsOf({ listen }: Pick<Service, "listen">): Scheme[] {
  return (["tcp", "udp"] as const).filter((each) =>
    listen.some(({ protocol }) => protocol === each),
  );
}

/** A task for each Worker, whose sockets are one of the `sets`. */
export function makeTasks(
  service: Service,
  parts: TaskParts,
  sets: readonly (readonly OpenSocket[])[],
): ForwardTask[] {
  const bounds = service.limits;
  const { workers } = parts.sharing;
  const ofTcp = clientBounds(
    bounds.maxConnectionsPerClient,
    bounds.connectionRatePerClient,
    workers,
  );
  const ofUdp = clientBounds(bounds.maxSessionsPerClient, bounds.sessionRatePerClient, workers);
  const hasSessions = protocolsOf(service).includes("udp");
  return sets.map((sockets, worker) => ({
    ...task(service, parts, ofTcp[worker] as ClientBounds),
    sockets: sockets.map(served),
    sessions: hasSessions
      ? sessionSettings(service, parts.sharing, ofUdp[worker] as ClientBounds)
      : undefined,
  }));
}

function task(
  { name, ingress, route, dial, timeouts, log }: Service,
  parts: TaskParts,
  clients: ClientBounds,
): Omit<ForwardTask, "sockets" | "sessions"> {
  return {
    kind: "forward",
    name,
    service: parts.name,
    ingress: { acceptProxy: parts.senders, redirected: ingress.redirected },
    route: {
      upstreams: parts.upstreams,
      pool: poolRules(route.pool),
      source: route.source,
      sourceFallback: route.sourceFallback,
      ownAddresses: parts.ownAddresses,
      ownFlows: parts.ownFlows,
    },
    dial: { ...dial, mark: parts.mark },
    limits: { ...placesOf(parts.sharing, clients.worker), clients },
    timeouts: { ...timeouts, drainMs: parts.drainTimeoutMs },
    log: { ...log, level: LogLevel[log.level] },
  };
}

/** The part of a pool that Workers choose by. */
function poolRules({ name, balance, onDown, whenAllDown, backOff }: Pool): PoolRules {
  return { name, balance, onDown, whenAllDown, backOff };
}

/** What one Worker has of a service's sessions; `clients` are the bounds of its own. */
function sessionSettings(
  { ingress }: Pick<Service, "ingress">,
  sharing: Sharing,
  clients: ClientBounds,
): SessionSettings {
  return {
    ...sessionPlacesOf(sharing, clients.worker),
    clients,
    icmp: icmpLimits(sharing.workers),
    transparent: ingress.transparent,
  };
}

/** Those of the kernel, of which each Worker has its part. */
function icmpLimits(workers: number): IcmpLimits {
  const { perSecond, burst, perPeerMs } = limits.icmpLimits;
  return {
    perSecond: (readSysctl("net.ipv4.icmp_msgs_per_sec") ?? perSecond) / workers,
    burst: Math.ceil((readSysctl("net.ipv4.icmp_msgs_burst") ?? burst) / workers),
    perPeerMs: readSysctl("net.ipv4.icmp_ratelimit") ?? perPeerMs,
    perPeerMsV6: readSysctl("net.ipv6.icmp.ratelimit") ?? perPeerMs,
  };
}

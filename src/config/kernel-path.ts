/** What keeps a service from the kernel path. Pure. */

import { type Address, type Family, isLoopback } from "../net/address.ts";
import { isPortless } from "./check-pool.ts";
import type { Service } from "./service.ts";

/** A reason, and the setting that would have to go. */
export interface Obstacle {
  /** By the name that a file has for it; undefined: no setting would help. */
  readonly setting: string | undefined;
  /** Why the kernel path cannot do it: a clause. */
  readonly why: string;
}

/** What is known of the surroundings of a service. */
export interface PathFacts {
  /** Whether rules may be installed. */
  readonly installs: boolean;
  /** The families that clients come in, and the addresses of the upstreams. */
  readonly families: readonly Family[];
  readonly upstreams: readonly Address[];
  /** Families in which this host forwards packets, or may be told to. */
  readonly forwards: readonly Family[];
  /** Whether an address is one of this host. */
  readonly isOwn: (address: Address) => boolean;
}

/**
 * Every obstacle, in the order of importance; none: the kernel can carry the service. A connection
 * of the kernel path has no socket here: nothing is read, written, probed or counted by client.
 */
export function pathObstacles(service: Service, facts: PathFacts): Obstacle[] {
  return [...settingObstacles(service), ...surroundingObstacles(facts)];
}

function settingObstacles({ ingress, route, dial, limits, timeouts, listen }: Service): Obstacle[] {
  const { pool } = route;
  const isSet: readonly (readonly [unknown, string, string])[] = [
    [ingress.acceptProxy, "accept-proxy", "the kernel reads no PROXY header"],
    [dial.sendProxy, "send-proxy", "the kernel writes no PROXY header"],
    [
      pool.upstreams.some(({ to }) => to === "original"),
      "to",
      '"original" is what plain routing does, without any proxy',
    ],
    [
      pool.upstreams.some(({ to }) => isPortless(to)),
      "to",
      "the map of the kernel needs the port of each upstream",
    ],
    [ingress.redirected, "redirect", "connections would be redirected to a listener"],
    [route.sourceFallback, "source-fallback", "a connection keeps its family from end to end"],
    [dial.mark, "socket-mark", "there is no socket to mark"],
    [ingress.clientFirst, "client-first", "there is no listener that could wait for data"],
    [dial.fastOpen, "fast-open", "the client's own SYN goes to the upstream"],
    [timeouts.keepAliveMs, "keepalive", "there is no socket that could probe its peer"],
    [timeouts.userMs, "user-timeout", "there is no socket that waits for acknowledgements"],
    [limits.maxConnections, "max-connections", counted],
    [limits.maxConnectionsPerClient, "max-connections-per-client", counted],
    [limits.connectionRatePerClient, "connection-rate-per-client", counted],
    [limits.maxSessions, "max-sessions", counted],
    [limits.maxSessionsPerClient, "max-sessions-per-client", counted],
    [limits.sessionRatePerClient, "session-rate-per-client", counted],
    [
      listen.some(({ endpoint }) => endpoint.port === 0),
      "listen",
      "there is no listener that could be given a free port",
    ],
  ];
  return isSet
    .filter(([value]) => value !== undefined && value !== false && value !== 0)
    .map(([, setting, why]) => ({ setting, why }));
}

const counted = "the kernel path does not bound connections";

function surroundingObstacles(facts: PathFacts): Obstacle[] {
  const { installs, families, upstreams, forwards, isOwn } = facts;
  const obstacles: Obstacle[] = [];
  if (!installs) obstacles.push({ setting: "routes", why: "its rules may not be installed" });
  const bare = families.find((family) => !upstreams.some((each) => each.family === family));
  if (bare !== undefined) {
    const why = `clients of IPv${bare} have no upstream of their family`;
    obstacles.push({ setting: "family", why });
  }
  if (upstreams.some(isLoopback)) {
    const why = "packets of other hosts are not translated to a loopback address";
    obstacles.push({ setting: "to", why });
  }
  if (upstreams.some(({ zone }) => zone !== undefined)) {
    obstacles.push({ setting: "to", why: "a rule cannot name the zone of an address" });
  }
  const closed = families.find(
    (family) =>
      !forwards.includes(family) &&
      upstreams.some((each) => each.family === family && !isOwn(each)),
  );
  if (closed !== undefined) {
    const name = closed === 4 ? "net.ipv4.ip_forward" : "net.ipv6.conf.all.forwarding";
    obstacles.push({
      setting: undefined,
      why: `this host does not forward IPv${closed} (${name})`,
    });
  }
  return obstacles;
}

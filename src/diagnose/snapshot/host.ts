/** Reads all of this namespace that bears on a transparent proxy. I/O, and no judgement. */

import { AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP } from "../../../ffi/constants.ts";
import { SyscallError } from "../../../ffi/errno.ts";
import {
  decodeAddress,
  dumpAddresses,
  type InterfaceAddress,
} from "../../../ffi/netlink/address.ts";
import { NETLINK_ROUTE } from "../../../ffi/netlink/constants.ts";
import {
  decodeSocket,
  dumpSockets,
  type InetSocket,
  NETLINK_SOCK_DIAG,
} from "../../../ffi/netlink/diag.ts";
import { decodeLink, dumpLinks, type Link } from "../../../ffi/netlink/link.ts";
import {
  decodeRoute,
  dumpRoutes,
  getRoute,
  type Route,
  type RouteQuery,
} from "../../../ffi/netlink/route.ts";
import { decodeRule, dumpRules } from "../../../ffi/netlink/rule.ts";
import { NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import type { Family } from "../../net/address.ts";

import type { PolicyTables } from "../policy.ts";
import { readSysctl } from "./proc.ts";
import { readLegacy } from "./read-legacy.ts";
import { readRuleset } from "./read-ruleset.ts";
import type { Ruleset } from "./ruleset.ts";

/** The result of a look-up in the kernel's routing tables (RTM_GETROUTE). */
export type RouteLookup =
  | { readonly kind: "route"; readonly route: Route }
  | { readonly kind: "error"; readonly errno: number };

/** A reading of the namespace of the calling thread. */
export interface HostSnapshot {
  readonly links: readonly Link[];
  readonly addresses: readonly InterfaceAddress[];
  readonly policy: Readonly<Record<Family, PolicyTables>>;
  /** Undefined without CAP_NET_ADMIN: nf_tables shows its rules to nobody else. */
  readonly ruleset: Ruleset | undefined;
  /** Tables of iptables' older kind that cannot be read. */
  readonly legacyTables: readonly string[];
  readonly sockets: Readonly<Record<"tcp" | "udp", readonly InetSocket[]>>;
  readonly sysctl: (name: string) => number | undefined;
  readonly lookUp: (query: RouteQuery) => RouteLookup;
}

/**
 * Reads it. What the kernel does not let this process read is left out.
 * @throws SyscallError where there is no netlink or no sock_diag, WireError
 */
export function readHostSnapshot(): HostSnapshot {
  using route = NetlinkSocket.open(NETLINK_ROUTE);
  const policy = (family: number): PolicyTables => ({
    rules: attempt(() => route.dump(dumpRules(family), decodeRule), []),
    routes: attempt(() => route.dump(dumpRoutes(family), decodeRoute), []),
  });
  const ruleset = readRuleset();
  const legacy = readLegacy();
  return {
    links: route.dump(dumpLinks(), decodeLink),
    addresses: route.dump(dumpAddresses(), decodeAddress),
    policy: { 4: policy(AF_INET), 6: policy(AF_INET6) },
    ruleset: ruleset && { ...ruleset, chains: [...legacy.chains, ...ruleset.chains] },
    legacyTables: legacy.unread,
    sockets: { tcp: readSockets(IPPROTO_TCP), udp: readSockets(IPPROTO_UDP) },
    sysctl: readSysctl,
    lookUp,
  };
}

/** Returns the result of `make`, or `otherwise` if the kernel refuses. */
function attempt<T>(make: () => T, otherwise: T): T {
  try {
    return make();
  } catch (error) {
    if (error instanceof SyscallError) return otherwise;
    throw error;
  }
}

function readSockets(protocol: number): InetSocket[] {
  using netlink = NetlinkSocket.open(NETLINK_SOCK_DIAG);
  return [AF_INET, AF_INET6].flatMap((family) =>
    netlink.dump(dumpSockets(family, protocol), decodeSocket),
  );
}

/** Asks the kernel for a route, in the thread's namespace. */
function lookUp(query: RouteQuery): RouteLookup {
  using route = NetlinkSocket.open(NETLINK_ROUTE);
  try {
    return { kind: "route", route: route.get(getRoute(query), decodeRoute) };
  } catch (error) {
    if (error instanceof SyscallError) return { kind: "error", errno: error.errno };
    throw error;
  }
}

/** Reads all of this namespace that bears on a transparent proxy. I/O, and no judgement. */

import { readFileSync } from "node:fs";
import { AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP } from "../../ffi/constants.ts";
import { EPERM, SyscallError } from "../../ffi/errno.ts";
import { decodeAddress, dumpAddresses, type InterfaceAddress } from "../../ffi/netlink/address.ts";
import { NETLINK_NETFILTER, NETLINK_ROUTE, NFPROTO_UNSPEC } from "../../ffi/netlink/constants.ts";
import {
  decodeSocket,
  dumpSockets,
  type InetSocket,
  NETLINK_SOCK_DIAG,
} from "../../ffi/netlink/diag.ts";
import { decodeLink, dumpLinks, type Link } from "../../ffi/netlink/link.ts";
import { decodeChain, dumpChains } from "../../ffi/netlink/nftables/chain.ts";
import {
  type ChainReference,
  decodeFirewallRule,
  dumpFirewallRules,
  type FirewallRule,
} from "../../ffi/netlink/nftables/rule.ts";
import {
  decodeElements,
  decodeSet,
  dumpElements,
  dumpSets,
  elementRanges,
  type KeyRange,
} from "../../ffi/netlink/nftables/set.ts";
import { decodeTable, dumpTables } from "../../ffi/netlink/nftables/table.ts";
import {
  decodeRoute,
  dumpRoutes,
  getRoute,
  type Route,
  type RouteQuery,
} from "../../ffi/netlink/route.ts";
import { decodeRule, dumpRules } from "../../ffi/netlink/rule.ts";
import { NetlinkSocket } from "../../ffi/netlink/socket.ts";
import { WireError } from "../../ffi/netlink/wire.ts";
import type { Family } from "../net/address.ts";

import type { PolicyTables } from "./policy.ts";
import { readSysctl } from "./proc.ts";
import { type RuledChain, type Ruleset, setKey } from "./ruleset.ts";

/** What a look-up of the kernel's routing tables answers (RTM_GETROUTE). */
export type RouteLookup =
  | { readonly kind: "route"; readonly route: Route }
  | { readonly kind: "error"; readonly errno: number };

/** A reading of the namespace of the calling thread. */
export interface Machine {
  readonly links: readonly Link[];
  readonly addresses: readonly InterfaceAddress[];
  readonly policy: Readonly<Record<Family, PolicyTables>>;
  /** Undefined without CAP_NET_ADMIN: nf_tables shows its rules to nobody else. */
  readonly ruleset: Ruleset | undefined;
  /** Tables of iptables' older kind, which netlink does not show; undefined if not readable. */
  readonly legacyTables: readonly string[] | undefined;
  readonly sockets: Readonly<Record<"tcp" | "udp", readonly InetSocket[]>>;
  readonly sysctl: (name: string) => number | undefined;
  readonly lookUp: (query: RouteQuery) => RouteLookup;
}

/**
 * Reads it. What the kernel does not let this process read is left out.
 * @throws SyscallError where there is no netlink or no sock_diag, WireError
 */
export function readMachine(): Machine {
  using route = NetlinkSocket.open(NETLINK_ROUTE);
  const policy = (family: number): PolicyTables => ({
    rules: attempt(() => route.dump(dumpRules(family), decodeRule), []),
    routes: attempt(() => route.dump(dumpRoutes(family), decodeRoute), []),
  });
  return {
    links: route.dump(dumpLinks(), decodeLink),
    addresses: route.dump(dumpAddresses(), decodeAddress),
    policy: { 4: policy(AF_INET), 6: policy(AF_INET6) },
    ruleset: readRuleset(),
    legacyTables: readLegacyTables(),
    sockets: { tcp: readSockets(IPPROTO_TCP), udp: readSockets(IPPROTO_UDP) },
    sysctl: readSysctl,
    lookUp,
  };
}

/** What `make` answers, or `otherwise` if the kernel refuses. */
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

function readRuleset(): Ruleset | undefined {
  using netfilter = NetlinkSocket.open(NETLINK_NETFILTER);
  try {
    const chains = netfilter.dump(dumpChains(NFPROTO_UNSPEC), decodeChain);
    const ruled = chains.map((chain): RuledChain => {
      const reference = { family: chain.family, table: chain.table, chain: chain.name };
      return { ...chain, rules: readRules(netfilter, reference) };
    });
    return { chains: ruled, sets: readSets(netfilter) };
  } catch (error) {
    if (error instanceof SyscallError) {
      if (Number(error.errno) === EPERM) return undefined;
      return { chains: [], sets: new Map() };
    }
    throw error;
  }
}

/** The rules of a chain; one that cannot be decoded stands for all, and its effect is not known. */
function readRules(netfilter: NetlinkSocket, chain: ChainReference): FirewallRule[] {
  try {
    return netfilter.dump(dumpFirewallRules(chain), decodeFirewallRule);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    const expressions = [{ kind: "other", name: "unreadable", data: new Uint8Array() } as const];
    return [{ ...chain, expressions }];
  }
}

function readSets(netfilter: NetlinkSocket): Map<string, readonly KeyRange[]> {
  const sets = new Map<string, readonly KeyRange[]>();
  for (const { family, name: table } of netfilter.dump(dumpTables(NFPROTO_UNSPEC), decodeTable)) {
    for (const set of attempt(() => netfilter.dump(dumpSets(family, table), decodeSet), [])) {
      const ranges = readElements(netfilter, set);
      if (ranges !== undefined) sets.set(setKey(family, table, set.name), ranges);
    }
  }
  return sets;
}

/** The elements as ranges; undefined for maps and for keys of several fields. */
function readElements(
  netfilter: NetlinkSocket,
  set: ReturnType<typeof decodeSet>,
): KeyRange[] | undefined {
  const NFT_SET_INTERVAL = 4;
  const NFT_SET_MAP = 8;
  const NFT_SET_CONCAT = 0x80;
  const flags = set.flags ?? 0;
  if ((flags & (NFT_SET_MAP | NFT_SET_CONCAT)) !== 0) return undefined;
  try {
    const elements = netfilter.dump(dumpElements(set), decodeElements).flat();
    if ((flags & NFT_SET_INTERVAL) !== 0) return elementRanges(elements);
    return elements.map(({ key }) => ({ first: key, last: key }));
  } catch (error) {
    if (error instanceof SyscallError || error instanceof WireError) return undefined;
    throw error;
  }
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

function readLegacyTables(): string[] | undefined {
  const names = ["ip_tables_names", "ip6_tables_names"].map((file) => {
    try {
      return readFileSync(`/proc/thread-self/net/${file}`, "latin1").split("\n").filter(Boolean);
    } catch (error) {
      const isAbsent = error instanceof Error && "code" in error && error.code === "ENOENT";
      return isAbsent ? [] : undefined;
    }
  });
  if (names.includes(undefined)) return undefined;
  return [...new Set(names.flatMap((list) => list ?? []))];
}

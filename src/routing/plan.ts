/**
 * What has to exist in the kernel for an Intent: ip rules, routes, firewall rules and sysctls, as
 * data. The same value is printed, applied, checked and removed.
 */

import type { Port } from "../../ffi/types.ts";
import type { Family } from "../net/address.ts";
import { type Cidr, cidrContains } from "../net/cidr.ts";
import { fullMask, type MaskedMark } from "../net/mark.ts";
import type { PortRange } from "../net/port.ts";
import type { Intent, Protocol } from "./intent.ts";

/** A rule of the routing policy database: packets with the mark are routed by the table. */
export interface IpRule {
  readonly family: Family;
  readonly priority: number | undefined;
  readonly mark: MaskedMark;
  readonly table: number;
  readonly protocol: number | undefined;
}

/** A route of type local: what it covers is delivered to this host. */
export interface LocalRoute {
  readonly family: Family;
  readonly destination: Cidr;
  readonly device: string;
  readonly table: number;
  readonly protocol: number | undefined;
}

/** Kinds of destination address, as rtnetlink and nft's `fib daddr type` name them. */
export type AddressType = "local" | "broadcast" | "anycast" | "multicast";

/** A condition on a packet. A list is met if one of its entries is. */
export type Match =
  | { readonly kind: "interface"; readonly names: readonly string[] }
  | { readonly kind: "protocol"; readonly protocol: Protocol }
  | { readonly kind: "source"; readonly networks: readonly Cidr[] }
  | { readonly kind: "destination"; readonly networks: readonly Cidr[] }
  | { readonly kind: "destination-type"; readonly not: readonly AddressType[] }
  | { readonly kind: "destination-port"; readonly ranges: readonly PortRange[] };

/**
 * What happens to a packet that meets every condition of its rule, in this order. `mark` replaces
 * the bits of the mask and leaves the others. `tproxy` hands the packet to the transparent
 * listener on that port of this host.
 */
export type Statement =
  | { readonly kind: "mark"; readonly mark: MaskedMark }
  | { readonly kind: "tproxy"; readonly port: Port };

/** A firewall rule for one family. */
export interface FirewallRule {
  readonly family: Family;
  readonly matches: readonly Match[];
  readonly statements: readonly Statement[];
}

/** A base chain: in `iptables` the chain PREROUTING of the table mangle. */
export interface FirewallChain {
  readonly name: string;
  readonly type: "filter";
  readonly hook: "prerouting";
  /** NF_IP_PRI_MANGLE of linux/netfilter_ipv4.h: before routing, after connection tracking. */
  readonly priority: -150;
  readonly rules: readonly FirewallRule[];
}

/** A table of our own. */
export interface FirewallTable {
  readonly name: string;
  readonly chains: readonly FirewallChain[];
}

/** A kernel setting: `net.ipv4.conf.eth0.accept_local` and the value it needs. */
export interface Sysctl {
  readonly name: string;
  readonly value: string;
}

export interface Plan {
  /** Printed as the article has it: bare iptables rules, outside a chain of our own. */
  readonly seed: boolean;
  readonly families: readonly Family[];
  readonly routes: readonly LocalRoute[];
  readonly ipRules: readonly IpRule[];
  readonly firewall: FirewallTable;
  readonly sysctls: readonly Sysctl[];
}

/** The name of the firewall table, and of the iptables chain; `tproxy` is a keyword of nft. */
const firewallName = "tproxyd";

/** Turns an intent into what the kernel needs for it. Pure: the same intent, the same plan. */
export function makePlan(intent: Intent): Plan {
  const { families, table, priority, tag: protocol } = intent;
  // The article's rule compares the whole mark; a mask leaves the other bits to other programs.
  const mark = intent.seed ? { ...intent.mark, mask: fullMask } : intent.mark;
  return {
    seed: intent.seed,
    families,
    routes: families.map((family) => ({
      family,
      destination: everyAddress(family),
      device: "lo",
      table,
      protocol,
    })),
    ipRules: families.map((family) => ({ family, priority, mark, table, protocol })),
    firewall: {
      name: firewallName,
      chains: [
        {
          name: "prerouting",
          type: "filter",
          hook: "prerouting",
          priority: -150,
          rules: families.flatMap((family) =>
            intent.protocols.map((name) => makeRule(intent, family, name)),
          ),
        },
      ],
    },
    sysctls: [],
  };
}

function everyAddress(family: Family): Cidr {
  return { family, bytes: new Uint8Array(family === 4 ? 4 : 16), prefix: 0 };
}

function makeRule(intent: Intent, family: Family, protocol: Protocol): FirewallRule {
  const matches: Match[] = [];
  if (intent.interfaces.length > 0) matches.push({ kind: "interface", names: intent.interfaces });
  matches.push({ kind: "protocol", protocol });
  const sources = restrict(intent.sources, family);
  if (sources.length > 0) matches.push({ kind: "source", networks: sources });
  const destinations = restrict(intent.destinations, family);
  if (destinations.length > 0) matches.push({ kind: "destination", networks: destinations });
  if (intent.destinations.length === 0) matches.push(notOurs(family));
  const ranges = mergeRanges(intent.ports);
  if (ranges.length > 0) matches.push({ kind: "destination-port", ranges });
  // The mark comes first: with no listener the packet then stays marked and the connection fails.
  // Unmarked it would go on to its destination past the proxy.
  const statements: Statement[] = [{ kind: "mark", mark: intent.mark }];
  if (intent.toPort !== undefined) statements.push({ kind: "tproxy", port: intent.toPort });
  return { family, matches, statements };
}

function notOurs(family: Family): Match {
  const not: AddressType[] = ["local", "broadcast", "anycast", "multicast"];
  return {
    kind: "destination-type",
    not: family === 4 ? not : not.filter((type) => type !== "broadcast"),
  };
}

/**
 * The networks of one family, each once and none inside another (nft refuses overlaps in a set);
 * none at all if they amount to every address.
 */
function restrict(networks: readonly Cidr[], family: Family): readonly Cidr[] {
  const own = networks.filter((network) => network.family === family);
  if (own.some((network) => network.prefix === 0)) return [];
  return own.filter(
    (network, i) =>
      !own.some(
        (other, k) => cidrContains(other, network) && (other.prefix < network.prefix || k < i),
      ),
  );
}

/** Sorted ranges that neither overlap nor touch. */
function mergeRanges(ranges: readonly PortRange[]): readonly PortRange[] {
  const merged: PortRange[] = [];
  for (const range of ranges.toSorted((a, b) => a.from - b.from)) {
    const last = merged.at(-1);
    if (last === undefined || range.from > last.to + 1) merged.push(range);
    else if (range.to > last.to) merged[merged.length - 1] = { from: last.from, to: range.to };
  }
  return merged;
}

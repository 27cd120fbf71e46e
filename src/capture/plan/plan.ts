/**
 * The kernel objects that an Intent needs: ip rules, routes, firewall rules and sysctls, as
 * data. The same value is printed, applied, checked and removed.
 */

import { NF_IP_PRI_MANGLE, NF_IP_PRI_NAT_DST } from "../../../ffi/netlink/constants.ts";
import type { Port } from "../../../ffi/types.ts";
import type { Address, Family } from "../../net/address.ts";
import type { Cidr } from "../../net/cidr.ts";
import { isPrefix } from "../../net/interface.ts";
import { fullMask, type MaskedMark } from "../../net/mark.ts";
import { listedNetworksMax } from "./contradictions.ts";
import type { FirewallChain } from "./firewall-chain.ts";
import type { AddressType, FirewallRule, Match, Statement } from "./firewall-rule.ts";
import type { FlowObject } from "./flow-rule.ts";
import type { Intent, Protocol } from "./intent.ts";
import { aggregate } from "./networks.ts";
import { besideNat, errorRules, mergeRanges, replyPathRules } from "./reply-path.ts";

export type {
  AddressType,
  FirewallRule,
  Match,
  Statement,
} from "./firewall-rule.ts";

/** A rule of the routing policy database: the table routes packets that have all of this. */
export interface IpRule {
  readonly family: Family;
  readonly priority: number | undefined;
  readonly mark?: MaskedMark;
  /** The source address. */
  readonly from?: Address;
  /** The interface a packet comes in by: `lo` for all that this host itself sends. */
  readonly iif?: string;
  readonly ipProtocol?: Protocol;
  readonly sourcePort?: Port;
  readonly table: number;
  /** Marks the rule as ours (FRA_PROTOCOL). */
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

/** The comment of a rule in the kernel: whose it is, and what for. */
export function ruleComment(
  table: Pick<FirewallTable, "name" | "setup">,
  rule: FirewallRule,
): string {
  const { purpose, service } = rule;
  return `${table.setup ?? table.name}: ${purpose}${service === undefined ? "" : ` ${service}`}`;
}

/** A set of networks that rules of the table look up. */
export interface NetworkSet {
  readonly name: string;
  readonly family: Family;
  readonly networks: readonly Cidr[];
}

/** A table of our own. */
export interface FirewallTable {
  readonly name: string;
  readonly sets: readonly NetworkSet[];
  readonly chains: readonly FirewallChain[];
  /** The maps, time-outs and flowtables of the kernel path. */
  readonly objects?: readonly FlowObject[];
  /** The set-up that it belongs to, by which rules are named; undefined: its own name. */
  readonly setup?: string;
  /** What the next process finds at it: see `kernel-path/identity.ts`. */
  readonly userData?: Uint8Array;
}

/** A kernel setting: `net.ipv4.conf.eth0.accept_local` and the value it needs. */
export interface Sysctl {
  /** With `/` between the parts, as interfaces have `.` in their names. */
  readonly name: string;
  readonly value: string;
  /** When it is needed, and why: one line. */
  readonly reason: string;
}

/** The route that another host needs so that its replies to spoofed addresses come back here. */
export interface Backend {
  readonly address: Address;
  readonly port: Port | undefined;
  readonly protocols: readonly Protocol[];
  readonly table: number;
  readonly priority: number | undefined;
  readonly protocol: number | undefined;
}

export interface Plan {
  /** Printed as the article has it: bare iptables rules, outside a chain of our own. */
  readonly seed: boolean;
  readonly families: readonly Family[];
  readonly routes: readonly LocalRoute[];
  readonly ipRules: readonly IpRule[];
  readonly firewall: FirewallTable;
  /** A table that nobody owns, so that it stays when the process has ended. */
  readonly behind?: FirewallTable;
  readonly sysctls: readonly Sysctl[];
  /** Whether the sysctls are to be set; otherwise they are only named. */
  readonly setsSysctls: boolean;
  /** For other hosts: printed, never applied here. */
  readonly backends: readonly Backend[];
}

/** Turns an intent into what the kernel needs for it. Pure: the same intent, the same plan. */
export function makePlan(intent: Intent): Plan {
  const { families, table, priority, tag: protocol } = intent;
  // The article's rule compares the whole mark; a mask leaves the other bits to other programs.
  const mark = intent.seed ? { ...intent.mark, mask: fullMask } : intent.mark;
  const routed = intent.redirect ? [] : families;
  const sets = new Sets();
  const base = [
    preroutingChain(intent, sets),
    ...(intent.local ? [outputChain(intent, sets)] : []),
  ];
  const chains = besideNat([intent], base);
  return {
    seed: intent.seed,
    families,
    routes: routed.map((family) => ({
      family,
      destination: everyAddress(family),
      device: "lo",
      table,
      protocol,
    })),
    ipRules: [
      ...routed.map((family) => ({ family, priority, mark, table, protocol })),
      ...backendRules(intent),
    ],
    firewall: { name: intent.tableName, sets: sets.all, chains },
    sysctls: sysctlsOf(intent),
    setsSysctls: intent.sysctl,
    backends: intent.backends
      .filter(({ here }) => !here)
      .map(({ address, port }) => ({
        ...{ address, port, protocols: intent.protocols, table, priority, protocol },
      })),
  };
}

/**
 * A backend on this host answers a spoofed client by the routes to that client, so the answer would
 * leave this host. The plan's table delivers it here. It is never asked for answers to this host's
 * own addresses: the table `local` comes first.
 */
function backendRules({ backends, protocols, priority, table, tag }: Intent): IpRule[] {
  return backends
    .filter(({ here }) => here)
    .flatMap(({ address, port }) => {
      const { family } = address;
      const rule = { family, priority, from: address, iif: "lo", table, protocol: tag };
      if (port === undefined) return [rule];
      return protocols.map((ipProtocol) => ({ ...rule, ipProtocol, sourcePort: port }));
    });
}

function everyAddress(family: Family): Cidr {
  return { family, bytes: new Uint8Array(family === 4 ? 4 : 16), prefix: 0 };
}

/** The sets of a table. A long list of networks is one set, which several rules may look up. */
class Sets {
  readonly #sets = new Map<string, NetworkSet>();

  get all(): readonly NetworkSet[] {
    return [...this.#sets.values()];
  }

  /** The condition that an address is in a list, or none if the list is of every address. */
  match(
    kind: "source" | "destination",
    name: string,
    list: readonly Cidr[],
    family: Family,
  ): readonly Match[] {
    const set = `${name}${family}`;
    const networks = this.#sets.get(set)?.networks ?? aggregate(list, family);
    if (networks.length === 0 || networks[0]?.prefix === 0) return [];
    if (networks.length <= listedNetworksMax) return [{ kind, networks }];
    this.#sets.set(set, { name: set, family, networks });
    return [{ kind, networks, set }];
  }
}

/** This host's own addresses and those that are nobody's alone. */
function notOurs(family: Family): Match {
  const not: AddressType[] = ["local", "broadcast", "anycast", "multicast"];
  return {
    kind: "destination-type",
    not: family === 4 ? not : not.filter((type) => type !== "broadcast"),
  };
}

function preroutingChain(intent: Intent, sets: Sets): FirewallChain {
  const { families, protocols, redirect } = intent;
  const captured = intent.captures ? families : [];
  const rules = [
    // These may come from, and go to, what is bypassed.
    ...families.flatMap((family) => replyPathRules(intent, family)),
    ...families.flatMap((family) => errorRules(intent, family)),
    ...families.flatMap((family) => returnedRules(intent, family)),
    ...families.flatMap((family) => leaveRules(intent, family)),
    ...families.flatMap((family) => bypassRules(intent, family, sets)),
    ...captured.flatMap((family) =>
      protocols.flatMap((protocol) => captureRules(intent, family, protocol, sets)),
    ),
  ];
  const base = { name: "prerouting", hook: "prerouting", rules } as const;
  return redirect
    ? { ...base, type: "nat", priority: NF_IP_PRI_NAT_DST }
    : { ...base, type: "filter", priority: NF_IP_PRI_MANGLE };
}

function leaveRules({ leaves = [] }: Intent, family: Family): FirewallRule[] {
  return leaves.map((mark) => ({
    ...{ family, purpose: "bypass", matches: [{ kind: "flow-mark", mark }] },
    statements: [{ kind: "return" }],
  }));
}

/** One rule, or one for all interfaces with a name of their own and one for each `eth*`. */
function captureRules(
  intent: Intent,
  family: Family,
  protocol: Protocol,
  sets: Sets,
): FirewallRule[] {
  const named = intent.interfaces.filter((name) => !isPrefix(name));
  const prefixes = intent.interfaces.filter(isPrefix).map((name) => [name]);
  const groups = [...(named.length > 0 || prefixes.length === 0 ? [named] : []), ...prefixes];
  return groups.map((names): FirewallRule => {
    const matches = captureMatches(intent, family, protocol, sets);
    if (names.length > 0) matches.unshift({ kind: "interface", names });
    if (intent.destinations.length === 0) matches.push(notOurs(family));
    matches.push(...portMatch(intent));
    return { family, purpose: "capture", matches, statements: deliver(intent, family) };
  });
}

/**
 * Traffic of this host's programs. A packet that gets the mark is routed anew, to lo, and is then
 * in prerouting like one that arrives.
 */
function outputChain(intent: Intent, sets: Sets): FirewallChain {
  const { families, protocols, redirect } = intent;
  const rules = [
    ...families.flatMap((family) => guardRules(intent, family)),
    ...families.flatMap((family) => bypassRules(intent, family, sets)),
    ...families.flatMap((family) =>
      protocols.map((protocol): FirewallRule => {
        const matches = captureMatches(intent, family, protocol, sets);
        // Whatever is captured, what this host sends to itself is its own affair.
        matches.push(notOurs(family), ...portMatch(intent));
        const statements: Statement[] = redirect
          ? deliver(intent, family)
          : [{ kind: "mark", mark: intent.mark }];
        return { family, purpose: "capture", matches, statements };
      }),
    ),
  ];
  const base = { name: "output", hook: "output", rules } as const;
  return redirect
    ? { ...base, type: "nat", priority: NF_IP_PRI_NAT_DST }
    : { ...base, type: "route", priority: NF_IP_PRI_MANGLE };
}

function captureMatches(intent: Intent, family: Family, protocol: Protocol, sets: Sets): Match[] {
  return [
    { kind: "protocol", protocol },
    ...sets.match("source", "src", intent.sources, family),
    ...sets.match("destination", "dst", intent.destinations, family),
  ];
}

function portMatch({ ports }: Intent): readonly Match[] {
  const ranges = mergeRanges(ports);
  return ranges.length === 0 ? [] : [{ kind: "destination-port", ranges }];
}

/** The statements for a packet that is captured where it arrives. */
function deliver(intent: Intent, family: Family): Statement[] {
  const { toPort: port, toAddresses, mark, redirect } = intent;
  if (redirect && port !== undefined) return [{ kind: "redirect", port }];
  // The mark comes first: with no listener the packet then stays marked and the connection fails.
  // Unmarked it would go on to its destination past the proxy.
  const marking: Statement = { kind: "mark", mark };
  if (port === undefined) return [marking];
  const address = toAddresses.find((each) => each.family === family);
  return [marking, address ? { kind: "tproxy", port, address } : { kind: "tproxy", port }];
}

function bypassRules({ bypass }: Intent, family: Family, sets: Sets): readonly FirewallRule[] {
  const matches = sets.match("destination", "bypass", bypass, family);
  if (matches.length === 0) return [];
  return [{ family, purpose: "bypass", matches, statements: [{ kind: "return" }] }];
}

/** Rules that exempt the proxy's own packets and replies to connections from other hosts. */
function guardRules({ guards }: Intent, family: Family): readonly FirewallRule[] {
  const { mark, uids, gids, cgroups } = guards;
  const matches: Match[] = [
    ...(mark === undefined ? [] : [{ kind: "mark", mark } as const]),
    ...uids.map((id) => ({ kind: "user", id }) as const),
    ...gids.map((id) => ({ kind: "group", id }) as const),
    ...cgroups.map((path) => ({ kind: "cgroup", path }) as const),
    { kind: "reply" },
  ];
  const statements = [{ kind: "return" }] as const;
  return matches.map((match) => ({ family, purpose: "guard", matches: [match], statements }));
}

/**
 * What the output chain has marked comes in by lo, whatever interfaces are captured: it is handed
 * to the listener and not looked at again. Without TPROXY the mark alone has delivered it.
 */
function returnedRules(intent: Intent, family: Family): readonly FirewallRule[] {
  if (!intent.local || intent.redirect || intent.toPort === undefined) return [];
  const handing = deliver(intent, family).filter(({ kind }) => kind === "tproxy");
  return intent.protocols.map((protocol) => ({
    family,
    purpose: "local",
    matches: [
      { kind: "interface", names: ["lo"] },
      { kind: "mark", mark: intent.mark },
      { kind: "protocol", protocol },
    ],
    statements: [...handing, { kind: "return" }],
  }));
}

/**
 * fib_validate_source() (net/ipv4/fib_frontend.c) looks up the way back to the client, with the
 * packet's mark where src_valid_mark is set: our table then answers that the client is this host.
 */
function sysctlsOf(intent: Intent): readonly Sysctl[] {
  const { seed, redirect, families, interfaces, captures, replyPath, backends, sysctl } = intent;
  if (seed || redirect || !families.includes(4)) return [];
  const isAny = captures && (interfaces.length === 0 || interfaces.some(isPrefix));
  // By which interface replies come is known of a backend that is named, and only to the system.
  const isOpen = replyPath && !backends.some(({ address }) => address.family === 4);
  if (sysctl && (isAny || isOpen)) return [acceptLocal("all")];
  return interfaces.filter((name) => name !== "lo" && !isPrefix(name)).map(acceptLocal);
}

/** The setting that lets an interface accept packets whose source our table calls local. */
export function acceptLocal(name: string): Sysctl {
  return {
    name: `net/ipv4/conf/${name}/accept_local`,
    value: "1",
    reason:
      "Needed where net.ipv4.conf.*.src_valid_mark is 1, as Tailscale sets it: without it the " +
      "kernel drops what is captured and says nothing.",
  };
}

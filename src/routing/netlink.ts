/**
 * The steps of a Plan as netlink messages: what the printed commands do, for a program to do
 * itself. Pure; the messages of one step go out by one socket of the protocol it names.
 */

import { AF_INET, AF_INET6, IFNAMSIZ, IPPROTO_TCP, IPPROTO_UDP } from "../../ffi/constants.ts";
import * as nl from "../../ffi/netlink/constants.ts";
import { newChain } from "../../ffi/netlink/nftables/chain.ts";
import {
  counter,
  type Expression,
  fibType,
  immediate,
  lookup,
  meta,
  payload,
  tproxy,
} from "../../ffi/netlink/nftables/expressions.ts";
import { newFirewallRule } from "../../ffi/netlink/nftables/rule.ts";
import {
  intervalElements,
  type KeyRange,
  type NamedSet,
  newElements,
  newSet,
  type SetElement,
  TYPE_INET_SERVICE,
  TYPE_IP6ADDR,
  TYPE_IPADDR,
} from "../../ffi/netlink/nftables/set.ts";
import * as nft from "../../ffi/netlink/nftables/statements.ts";
import { deleteTable, newTable } from "../../ffi/netlink/nftables/table.ts";
import { deleteRoute, newRoute, type Route } from "../../ffi/netlink/route.ts";
import { deleteRule, newRule, type Rule } from "../../ffi/netlink/rule.ts";
import { HOST_ORDER, type Message, NETWORK_ORDER } from "../../ffi/netlink/wire.ts";
import { addressBits, type Cidr } from "../net/cidr.ts";
import type {
  AddressType,
  FirewallChain,
  FirewallRule,
  FirewallTable,
  IpRule,
  LocalRoute,
  Match,
  Statement,
} from "./plan.ts";
import type { Step } from "./steps.ts";

/** One step, ready to send. */
export type StepMessages =
  /** Each is a request of its own on a NETLINK_ROUTE socket. */
  | { readonly protocol: "route"; readonly messages: readonly Message[] }
  /** All of them are one batch on a NETLINK_NETFILTER socket: carried out all or none. */
  | { readonly protocol: "netfilter"; readonly messages: readonly Message[] };

/** What a Plan leaves to the place where it is applied. */
export interface NetlinkOptions {
  /** The index of an interface. */
  readonly interfaceIndex: (name: string) => number;
  /** Whether firewall rules count what they match. */
  readonly counters: boolean;
}

/** nft(8)'s numbers of data types (`enum datatypes` of its datatype.h), for its listings only. */
const TYPE_FIB_ADDR = 38;
const TYPE_IFNAME = 41;

const nfproto = { 4: nl.NFPROTO_IPV4, 6: nl.NFPROTO_IPV6 } as const;
const addressFamily = { 4: AF_INET, 6: AF_INET6 } as const;
const ipProtocol = { tcp: IPPROTO_TCP, udp: IPPROTO_UDP } as const;
const addressTypes: Readonly<Record<AddressType, number>> = {
  local: nl.RTN_LOCAL,
  broadcast: nl.RTN_BROADCAST,
  anycast: nl.RTN_ANYCAST,
  multicast: nl.RTN_MULTICAST,
};

/** The messages of one step. Adding what is there is EEXIST, removing what is not an error too. */
export function stepMessages(step: Step, options: NetlinkOptions): StepMessages {
  const adds = step.action === "add";
  switch (step.kind) {
    case "route": {
      const route = routeOf(step.route, adds, options.interfaceIndex(step.route.device));
      return { protocol: "route", messages: [adds ? newRoute(route) : deleteRoute(route)] };
    }
    case "rule": {
      const rule = ruleOf(step.rule);
      return { protocol: "route", messages: [adds ? newRule(rule) : deleteRule(rule)] };
    }
    case "firewall": {
      const { table } = step;
      const reference = { family: nl.NFPROTO_INET, name: table.name };
      const messages = adds ? tableMessages(table, options.counters) : [deleteTable(reference)];
      return { protocol: "netfilter", messages };
    }
  }
}

function routeOf(route: LocalRoute, adds: boolean, oif: number): Route {
  const { family, destination, table } = route;
  const untagged = adds ? nl.RTPROT_BOOT : nl.RTPROT_UNSPEC;
  const base = {
    family: addressFamily[family],
    type: nl.RTN_LOCAL,
    table,
    protocol: route.protocol ?? untagged,
    oif,
  };
  if (destination.prefix === 0) return base;
  return { ...base, destination: { address: destination.bytes, length: destination.prefix } };
}

function ruleOf({ family, table, mark, priority, protocol }: IpRule): Rule {
  return {
    family: addressFamily[family],
    table,
    mark: mark.value,
    mask: mark.mask,
    ...(priority === undefined ? {} : { priority }),
    ...(protocol === undefined ? {} : { protocol }),
  };
}

function tableMessages(table: FirewallTable, counters: boolean): Message[] {
  const inet = { family: nl.NFPROTO_INET, table: table.name };
  const sets = new AnonymousSets(inet);
  const messages = [newTable({ family: inet.family, name: table.name })];
  for (const chain of table.chains) {
    messages.push(newChain({ ...inet, name: chain.name, base: baseOf(chain) }));
    for (const rule of chain.rules) {
      const expressions = ruleExpressions(rule, sets, counters);
      // The sets of a rule have to be there before it.
      messages.push(...sets.take(), newFirewallRule({ ...inet, chain: chain.name, expressions }));
    }
  }
  return messages;
}

function baseOf({ type, priority }: FirewallChain) {
  return { type, hook: nl.NF_INET_PRE_ROUTING, priority, policy: nl.NF_ACCEPT };
}

function ruleExpressions(rule: FirewallRule, sets: AnonymousSets, counters: boolean): Expression[] {
  return [
    ...nft.family(nfproto[rule.family]),
    ...rule.matches.flatMap((match) => matchExpressions(match, rule, sets)),
    ...(counters ? [counter()] : []),
    ...rule.statements.flatMap((statement) => statementExpressions(statement, rule)),
  ];
}

function matchExpressions(
  match: Match,
  rule: FirewallRule,
  sets: AnonymousSets,
): readonly Expression[] {
  switch (match.kind) {
    case "interface":
      return interfaceExpressions(match.names, sets);
    case "protocol":
      return nft.protocol(ipProtocol[match.protocol]);
    case "source":
      return networkExpressions("source", match.networks, rule, sets);
    case "destination":
      return networkExpressions("destination", match.networks, rule, sets);
    case "destination-type":
      return typeExpressions(match.not, sets);
    case "destination-port":
      return portExpressions(match.ranges, sets);
  }
}

function interfaceExpressions(names: readonly string[], sets: AnonymousSets): Expression[] {
  const [first, second] = names;
  if (first !== undefined && second === undefined) return [...nft.inputInterface(first)];
  const elements = names.map((name) => {
    const key = new Uint8Array(IFNAMSIZ);
    key.set(new TextEncoder().encode(name));
    return { key };
  });
  return [meta(nl.NFT_META_IIFNAME), lookup(sets.hostOrder(TYPE_IFNAME, IFNAMSIZ, elements))];
}

function networkExpressions(
  side: nft.Side,
  networks: readonly Cidr[],
  { family }: FirewallRule,
  sets: AnonymousSets,
): readonly Expression[] {
  const [first, second] = networks;
  if (first !== undefined && second === undefined) {
    return nft.address(side, { address: first.bytes, length: first.prefix });
  }
  const type = family === 4 ? TYPE_IPADDR : TYPE_IP6ADDR;
  const set = sets.ranges(type, addressBits(family) / 8, networks.map(rangeOf));
  return nft.addressInSet(side, nfproto[family], set);
}

function rangeOf({ bytes, prefix }: Cidr): KeyRange {
  const last = bytes.map((byte, i) => byte | (0xff >> Math.min(Math.max(prefix - 8 * i, 0), 8)));
  return { first: bytes, last };
}

/** Any type but these. */
function typeExpressions(types: readonly AddressType[], sets: AnonymousSets): Expression[] {
  const elements = types.map((type) => ({ key: hostOrder32(addressTypes[type]) }));
  const set = sets.hostOrder(TYPE_FIB_ADDR, 4, elements);
  return [fibType(nl.NFTA_FIB_F_DADDR), lookup(set, nl.NFT_LOOKUP_F_INV)];
}

function portExpressions(
  ranges: readonly { from: number; to: number }[],
  sets: AnonymousSets,
): readonly Expression[] {
  const [first, second] = ranges;
  if (first !== undefined && second === undefined) {
    return nft.ports("destination", [first.from, first.to]);
  }
  const keys = ranges.map(({ from, to }) => ({ first: port(from), last: port(to) }));
  const load = payload(nl.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
  return [load, lookup(sets.ranges(TYPE_INET_SERVICE, 2, keys))];
}

function statementExpressions(statement: Statement, { family }: FirewallRule) {
  if (statement.kind === "mark") {
    return nft.setMark(statement.mark.value, statement.mark.mask);
  }
  // Without an address the kernel takes the incoming interface's; `nft` writes it `tproxy ip to`.
  return [immediate(port(statement.port)), tproxy(nfproto[family], false)];
}

type SetKind = Pick<NamedSet, "keyType" | "keyLength" | "hostOrder"> & { readonly flags: number };

/** The unnamed sets of one batch: each is made just before the only rule that looks it up. */
class AnonymousSets {
  readonly #inet: { readonly family: number; readonly table: string };
  #last = 0;
  #messages: Message[] = [];

  constructor(inet: { readonly family: number; readonly table: string }) {
    this.#inet = inet;
  }

  /** A set of ranges of addresses or ports. */
  ranges(keyType: number, keyLength: number, ranges: readonly KeyRange[]) {
    const kind = { keyType, keyLength, flags: nl.NFT_SET_INTERVAL };
    return this.#make(kind, intervalElements(ranges));
  }

  /** A set of single keys in host order. */
  hostOrder(keyType: number, keyLength: number, elements: readonly SetElement[]) {
    return this.#make({ keyType, keyLength, flags: 0, hostOrder: true }, elements);
  }

  #make(kind: SetKind, elements: readonly SetElement[]) {
    const flags = nl.NFT_SET_ANONYMOUS | nl.NFT_SET_CONSTANT | kind.flags;
    // The kernel puts a number for %d; within the batch the id tells sets apart.
    const set = { ...this.#inet, name: "__set%d", id: ++this.#last };
    this.#messages.push(newSet({ ...set, ...kind, flags }), ...newElements(set, elements));
    return set;
  }

  /** The messages since the last call. */
  take(): Message[] {
    const messages = this.#messages;
    this.#messages = [];
    return messages;
  }
}

function port(value: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(2));
  view.setUint16(0, value, NETWORK_ORDER);
  return new Uint8Array(view.buffer);
}

function hostOrder32(value: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, value, HOST_ORDER);
  return new Uint8Array(view.buffer);
}

/**
 * The steps of a Plan as netlink messages: what the printed commands do, for a program to do
 * itself. Pure; the messages of one step go out by one socket of the protocol it names.
 */

import { AF_INET, AF_INET6 } from "../../../ffi/constants.ts";
import * as nl from "../../../ffi/netlink/constants.ts";
import { newChain } from "../../../ffi/netlink/nftables/chain.ts";
import { newNetworkElements } from "../../../ffi/netlink/nftables/network-elements.ts";
import { newFirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import { newSet, TYPE_IP6ADDR, TYPE_IPADDR } from "../../../ffi/netlink/nftables/set.ts";
import { deleteTable, newTable } from "../../../ffi/netlink/nftables/table.ts";
import { deleteRoute, newRoute, type Route } from "../../../ffi/netlink/route.ts";
import { deleteRule, newRule, type Rule } from "../../../ffi/netlink/rule.ts";
import { defined, type Message } from "../../../ffi/netlink/wire.ts";
import { addressBits } from "../../net/cidr.ts";
import { type FirewallChain, hooks } from "./firewall-chain.ts";
import { flowObjectMessages } from "./flow-netlink.ts";
import { AnonymousSets, ipProtocols, ruleExpressions } from "./netlink-rules.ts";
import {
  type FirewallTable,
  type IpRule,
  type LocalRoute,
  type NetworkSet,
  ruleComment,
} from "./plan.ts";
import type { Step } from "./steps.ts";

/** One step, ready to send. */
export type StepMessages =
  /** Each is a request of its own on a NETLINK_ROUTE socket. */
  | { readonly protocol: "route"; readonly messages: readonly Message[] }
  /** All of them are one batch on a NETLINK_NETFILTER socket: carried out all or none. */
  | { readonly protocol: "netfilter"; readonly messages: readonly Message[] };

/** The values of a Plan that only the host where it is applied can give. */
export interface NetlinkOptions {
  /** The index of an interface. */
  readonly interfaceIndex: (name: string) => number;
  /** Whether firewall rules count what they match. */
  readonly counters: boolean;
  /** The number of a control group: of the inode of its folder. For plans that guard by one. */
  readonly cgroupId?: (path: string) => bigint;
}

const addressFamily = { 4: AF_INET, 6: AF_INET6 } as const;

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
      const messages = adds ? tableMessages(table, options) : [deleteTable(reference)];
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

function ruleOf(rule: IpRule): Rule {
  const { family, table, mark, from, iif, ipProtocol, sourcePort, priority, protocol } = rule;
  return defined({
    family: addressFamily[family],
    table,
    priority,
    protocol,
    mark: mark?.value,
    mask: mark?.mask,
    source: from && { address: from.bytes, length: addressBits(family) },
    iif,
    ipProtocol: ipProtocol && ipProtocols[ipProtocol],
    sourcePorts: sourcePort && ([sourcePort, sourcePort] as const),
  });
}

function tableMessages(table: FirewallTable, options: NetlinkOptions): Message[] {
  const inet = { family: nl.NFPROTO_INET, table: table.name };
  const anonymous = new AnonymousSets(inet);
  const { name, userData } = table;
  const messages = [newTable(defined({ family: inet.family, name, userData }))];
  for (const set of table.sets) messages.push(...setMessages(inet, set));
  for (const object of table.objects ?? []) messages.push(...flowObjectMessages(inet, object));
  for (const chain of table.chains) {
    messages.push(newChain(defined({ ...inet, name: chain.name, base: baseOf(chain) })));
    for (const rule of chain.rules) {
      const expressions = ruleExpressions(rule, anonymous, options);
      const comment = ruleComment(table, rule);
      // The sets of a rule have to be there before it.
      messages.push(
        ...anonymous.take(),
        newFirewallRule({ ...inet, chain: chain.name, expressions, comment }),
      );
    }
  }
  return messages;
}

function setMessages(inet: { family: number; table: string }, set: NetworkSet): Message[] {
  const reference = { ...inet, name: set.name };
  const keyType = set.family === 4 ? TYPE_IPADDR : TYPE_IP6ADDR;
  const keyLength = addressBits(set.family) / 8;
  const flags = nl.NFT_SET_INTERVAL;
  return [
    newSet({ ...reference, keyType, keyLength, flags }),
    ...newNetworkElements(reference, set.networks),
  ];
}

function baseOf({ type, hook, priority, isCalled }: FirewallChain) {
  if (isCalled) return undefined;
  return { type, hook: hooks[hook].number, priority, policy: nl.NF_ACCEPT };
}

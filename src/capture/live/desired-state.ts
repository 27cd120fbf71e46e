/**
 * The kernel objects of a Plan, in a form that can be compared with the existing ones: ip rules,
 * routes and firewall tables. Pure.
 *
 * The form is decoded from the very messages that apply the Plan, as that of the live system is
 * from the kernel's dumps. So there is no second description of a Plan that could disagree.
 */

import {
  NFNL_SUBSYS_NFTABLES,
  NFT_MSG_NEWCHAIN,
  NFT_MSG_NEWRULE,
  NFT_MSG_NEWSET,
  NFT_MSG_NEWSETELEM,
  NFT_MSG_NEWTABLE,
  NFTA_SET_ELEM_LIST_SET,
  NFTA_SET_ELEM_LIST_SET_ID,
  RTM_NEWROUTE,
  RTM_NEWRULE,
} from "../../../ffi/netlink/constants.ts";
import { nftAttributes } from "../../../ffi/netlink/nftables/batch.ts";
import { type Chain, decodeChain } from "../../../ffi/netlink/nftables/chain.ts";
import { decodeFirewallRule, type FirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import {
  decodeElements,
  decodeSet,
  type NamedSet,
  type SetElement,
} from "../../../ffi/netlink/nftables/set.ts";
import { decodeTable, type Table } from "../../../ffi/netlink/nftables/table.ts";
import { decodeRoute, type Route } from "../../../ffi/netlink/route.ts";
import { decodeRule, type Rule } from "../../../ffi/netlink/rule.ts";
import type { Message } from "../../../ffi/netlink/wire.ts";
import { type NetlinkOptions, stepMessages } from "../plan/netlink.ts";
import type { Plan } from "../plan/plan.ts";
import { applySteps } from "../plan/steps.ts";

/** A set with what is in it. */
export interface FilledSet extends NamedSet {
  readonly elements: readonly SetElement[];
}

/** A firewall table with all that is in it. */
export interface TableContents {
  readonly table: Table;
  readonly chains: readonly (Chain & { readonly rules: readonly FirewallRule[] })[];
  readonly sets: readonly FilledSet[];
}

/** A rule or a route, and the message that makes it. */
export type RoutingPart =
  | { readonly kind: "rule"; readonly rule: Rule; readonly message: Message }
  | { readonly kind: "route"; readonly route: Route; readonly message: Message };

/** The objects that a Plan needs. */
export interface DesiredState {
  /** In the order in which they are made. */
  readonly routing: readonly RoutingPart[];
  readonly firewall: TableContents;
  /** One batch that makes the firewall's table. */
  readonly firewallMessages: readonly Message[];
  /** Those of the table that stays behind, where the Plan has one. */
  readonly behindMessages?: readonly Message[];
}

/** The parts of a Plan. @throws what `interfaceIndex` and `cgroupId` throw */
export function partsOf(
  plan: Plan,
  interfaceIndex: NetlinkOptions["interfaceIndex"],
  cgroupId: NonNullable<NetlinkOptions["cgroupId"]> = () => 0n,
): DesiredState {
  // Without counters, as the printed script has it: both make the same table.
  const options = { interfaceIndex, cgroupId, counters: false };
  const routing: RoutingPart[] = [];
  const firewallMessages: Message[] = [];
  for (const step of applySteps(plan)) {
    const { protocol, messages } = stepMessages(step, options);
    if (protocol === "netfilter") firewallMessages.push(...messages);
    else routing.push(...messages.map(routingPart));
  }
  const parts = { routing, firewall: tableContents(firewallMessages), firewallMessages };
  if (plan.behind === undefined) return parts;
  const step = { action: "add", kind: "firewall", table: plan.behind } as const;
  return { ...parts, behindMessages: stepMessages(step, options).messages };
}

function routingPart(message: Message): RoutingPart {
  switch (message.type) {
    case RTM_NEWRULE:
      return { kind: "rule", rule: decodeRule(message.body), message };
    case RTM_NEWROUTE:
      return { kind: "route", route: decodeRoute(message.body), message };
    default:
      throw new Error(`${message.operation} in the steps of a plan`);
  }
}

/** The type of an nf_tables message: NFT_MSG_* without the subsystem. */
export function nftType({ type }: Pick<Message, "type">): number | undefined {
  return type >> 8 === NFNL_SUBSYS_NFTABLES ? type & 0xff : undefined;
}

/** The table that a batch makes. */
function tableContents(messages: readonly Message[]): TableContents {
  let table: Table | undefined;
  const chains: (Chain & { rules: FirewallRule[] })[] = [];
  const sets: (FilledSet & { readonly messages: Message[] })[] = [];
  for (const message of messages) {
    switch (nftType(message)) {
      case NFT_MSG_NEWTABLE:
        table = decodeTable(message.body);
        break;
      case NFT_MSG_NEWCHAIN:
        chains.push({ ...decodeChain(message.body), rules: [] });
        break;
      case NFT_MSG_NEWRULE: {
        const rule = decodeFirewallRule(message.body);
        chains.find(({ name }) => name === rule.chain)?.rules.push(rule);
        break;
      }
      case NFT_MSG_NEWSET:
        sets.push(lazySet(decodeSet(message.body)));
        break;
      case NFT_MSG_NEWSETELEM:
        setOf(message, sets)?.messages.push(message);
        break;
    }
  }
  if (table === undefined) throw new Error("a plan without a firewall table");
  return { table, chains, sets };
}

/** A set whose elements are decoded when they are asked for: of long lists that takes its time. */
function lazySet(set: NamedSet): FilledSet & { readonly messages: Message[] } {
  let elements: readonly SetElement[] | undefined;
  const messages: Message[] = [];
  return {
    ...set,
    messages,
    get elements() {
      elements ??= messages.flatMap(({ body }) => decodeElements(body));
      return elements;
    },
  };
}

/** The set that a message of elements is for: by id within a batch, by name otherwise. */
export function setOf<T extends NamedSet>({ body }: Message, sets: readonly T[]): T | undefined {
  const { attributes } = nftAttributes(body);
  const id = attributes.be32(NFTA_SET_ELEM_LIST_SET_ID);
  const wanted = attributes.string(NFTA_SET_ELEM_LIST_SET);
  return sets.find((set) => (id ? set.id === id : set.name === wanted));
}

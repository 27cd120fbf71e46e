/** Where chains of the firewall see packets: their types and hooks, as data. Pure. */

import {
  NF_INET_FORWARD,
  NF_INET_LOCAL_IN,
  NF_INET_LOCAL_OUT,
  NF_INET_POST_ROUTING,
  NF_INET_PRE_ROUTING,
} from "../../../ffi/netlink/constants.ts";
import type { FirewallRule } from "./firewall-rule.ts";

/**
 * The hooks of a host by nft's names: the kernel's number, the built-in chain of iptables, and
 * words for when a packet passes it. A plan may use any of them.
 */
export const hooks = {
  prerouting: { number: NF_INET_PRE_ROUTING, builtIn: "PREROUTING", when: "Before routing" },
  input: { number: NF_INET_LOCAL_IN, builtIn: "INPUT", when: "On the way in" },
  forward: { number: NF_INET_FORWARD, builtIn: "FORWARD", when: "On the way through" },
  output: { number: NF_INET_LOCAL_OUT, builtIn: "OUTPUT", when: "On the way out" },
  postrouting: { number: NF_INET_POST_ROUTING, builtIn: "POSTROUTING", when: "After routing" },
} as const;
export type HookName = keyof typeof hooks;

/**
 * The types of chains by nf_tables' names. Each has the table of iptables for such rules, and the
 * number of its built-in chains. Type `route` routes a packet anew when its mark changes.
 */
export const chainTypes = {
  filter: { table: "mangle", builtInChains: 5 },
  route: { table: "mangle", builtInChains: 5 },
  nat: { table: "nat", builtInChains: 4 },
} as const;
export type ChainType = keyof typeof chainTypes;

/** A base chain: in iptables a chain of our own to which the hook's built-in chain jumps. */
export interface FirewallChain {
  readonly name: string;
  readonly type: ChainType;
  readonly hook: HookName;
  /** Ascending, NF_IP_PRI_*: where among the chains of the hook. iptables has one for a table. */
  readonly priority: number;
  /** It has no place at the hook itself: rules of the hook's base chain jump to it. */
  readonly isCalled?: true;
  readonly rules: readonly FirewallRule[];
}

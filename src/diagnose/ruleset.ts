/** All of nf_tables that a packet may meet. Pure. */

import type { Chain } from "../../ffi/netlink/nftables/chain.ts";
import type { FirewallRule } from "../../ffi/netlink/nftables/rule.ts";
import type { KeyRange } from "../../ffi/netlink/nftables/set.ts";

/** A chain with its rules. */
export interface RuledChain extends Chain {
  readonly rules: readonly FirewallRule[];
}

/** All of nf_tables that a packet may meet. */
export interface Ruleset {
  readonly chains: readonly RuledChain[];
  /** Elements by `setKey`; absent for sets that could not be read as ranges. */
  readonly sets: ReadonlyMap<string, readonly KeyRange[]>;
}

/** The name of a set of a table, for `Ruleset.sets`. */
export function setKey(family: number, table: string, name: string): string {
  return `${family} ${table} ${name}`;
}

/**
 * The table that stays behind the services of the kernel path, so that new connections are refused
 * once their own table is gone. Pure.
 *
 * It is there from the start, and its chains see packets behind the services' rules: what these
 * have taken has a mark of the kernel path, and is left alone. Its nat chain keeps the translation
 * of established connections going.
 */

import { NF_IP_PRI_NAT_DST } from "../../../ffi/netlink/constants.ts";
import type { Mark } from "../../../ffi/types.ts";
import type { FirewallChain } from "../plan/firewall-chain.ts";
import type { FirewallRule, Match } from "../plan/firewall-rule.ts";
import type { FirewallTable } from "../plan/plan.ts";
import { flowMarkMask } from "./intent.ts";

const unmarked: Match = { kind: "flow-mark", mark: { value: 0 as Mark, mask: flowMarkMask } };

/** The table beside `table`. */
export function closedTable(table: FirewallTable, anchor: FirewallChain): FirewallTable {
  const { name, sets, chains } = table;
  const refusing = chains.filter(({ name }) => name === "prerouting" || name === "output");
  return {
    ...{ name: `${name}_closed`, setup: name, sets },
    chains: [
      ...refusing.map((chain) => ({
        ...{ ...chain, type: "filter" as const, priority: NF_IP_PRI_NAT_DST + 2 },
        rules: chain.rules.filter(({ purpose }) => purpose === "no upstream").map(closed),
      })),
      anchor,
    ],
  };
}

function closed(rule: FirewallRule): FirewallRule {
  return { ...rule, purpose: "closed", matches: [unmarked, ...rule.matches] };
}

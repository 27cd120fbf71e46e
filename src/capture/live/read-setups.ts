/** Reads all set-ups of tproxy in the kernel, of every process. */

import { NFPROTO_IPV4, NFPROTO_IPV6 } from "../../../ffi/netlink/constants.ts";
import type { Chain } from "../../../ffi/netlink/nftables/chain.ts";
import {
  decodeFirewallRule,
  dumpFirewallRules,
  type FirewallRule,
} from "../../../ffi/netlink/nftables/rule.ts";
import type { Table } from "../../../ffi/netlink/nftables/table.ts";
import type { Mark } from "../../../ffi/types.ts";
import { compatMatches, isOurRule, legacyMarkWrites, xtComment } from "./foreign-marks.ts";
import type { Kernel } from "./kernel.ts";
import { setupOf } from "./names.ts";
import { marksOf, type Setup, setupFrom } from "./setups.ts";

/** Those in these tables of family inet, and those that the scripts for iptables have made. */
export function readSetups(
  kernel: Kernel,
  tables: readonly Table[],
  chains: readonly Chain[],
): Setup[] {
  return [...tableSetups(kernel, tables, chains), ...scriptSetups(kernel, chains)];
}

/** The rules of a chain. @throws NetlinkError, WireError */
export function firewallRules(kernel: Kernel, { family, table, name }: Chain): FirewallRule[] {
  const reference = { family, table, chain: name };
  return kernel.netfilter.dump(dumpFirewallRules(reference), decodeFirewallRule);
}

/**
 * Told by the comments of their rules. Only a table with a chain named as ours are is looked into:
 * others may have very many rules.
 */
function tableSetups(kernel: Kernel, all: readonly Table[], chains: readonly Chain[]): Setup[] {
  const named = Map.groupBy(all, (table) => setupOf(table.name));
  return [...named].flatMap(([name, tables]) => {
    const rules = tables.flatMap((table) =>
      chains
        .filter((chain) => chain.family === table.family && chain.table === table.name)
        .filter((chain) => chain.base !== undefined && /^(prerouting|output)$/.test(chain.name))
        .flatMap((chain) => firewallRules(kernel, chain)),
    );
    const ours = rules.filter(({ comment }) => comment?.startsWith(`${name}: `));
    return ours.length === 0 ? [] : [setupFrom(name, tables, ours)];
  });
}

const ownChain = /^tproxyd[A-Za-z0-9_-]*$/;

/** Told by the same comments, in chains of iptables of either kind. */
function scriptSetups(kernel: Kernel, chains: readonly Chain[]): Setup[] {
  const nft = chains
    .filter(({ family }) => [NFPROTO_IPV4, NFPROTO_IPV6].includes(family))
    .filter(({ name, base }) => base === undefined && ownChain.test(name))
    .flatMap((chain) => firewallRules(kernel, chain))
    .map((rule) => ({
      comment: xtComment(compatMatches(rule.expressions)),
      marks: marksOf([rule]),
    }));
  const legacy = kernel.legacy().map((rule) => ({
    comment: xtComment(rule.matches),
    marks: legacyMarkWrites(rule).flatMap(({ families, mask, value = 0 }) =>
      families.map((family) => ({ family, mark: { value: value as Mark, mask } })),
    ),
  }));
  const ours = [...nft, ...legacy].filter(({ comment }) => isOurRule(comment));
  const named = Map.groupBy(ours, ({ comment }) => comment?.replace(/: .*/, "") ?? "");
  return [...named].map(([name, rules]) => ({
    ...{ name, tables: [], bitsRead: 0, draining: false },
    marks: rules.flatMap(({ marks }) => marks),
  }));
}

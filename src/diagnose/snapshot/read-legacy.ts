/** Reads the tables of iptables' older kind, which netlink does not show. I/O, and no judgement. */

import { readFileSync } from "node:fs";
import { AF_INET, AF_INET6 } from "../../../ffi/constants.ts";
import { readLegacyBlock } from "../../../ffi/xtables.ts";
import type { Family } from "../../net/address.ts";
import { legacyChains } from "./legacy-table.ts";
import type { RuledChain } from "./ruleset.ts";

/** The readable tables, and the names of the others. */
export interface LegacyTables {
  readonly chains: readonly RuledChain[];
  readonly unread: readonly string[];
}

/** Reads those that exist; no module is loaded for it. Without CAP_NET_ADMIN none can be read. */
export function readLegacy(): LegacyTables {
  const chains: RuledChain[] = [];
  const unread = new Set<string>();
  for (const family of [4, 6] as const) {
    for (const table of tableNames(family)) {
      const read = readTable(family, table);
      if (read === undefined) unread.add(table);
      else chains.push(...read);
    }
  }
  return { chains, unread: [...unread] };
}

function tableNames(family: Family): readonly string[] {
  const file = family === 4 ? "ip_tables_names" : "ip6_tables_names";
  try {
    return readFileSync(`/proc/thread-self/net/${file}`, "latin1").split("\n").filter(Boolean);
  } catch (error) {
    const isAbsent = error instanceof Error && "code" in error && error.code === "ENOENT";
    // Unreadable: there may be rules, where a capture has its own as well.
    return isAbsent ? [] : ["mangle"];
  }
}

function readTable(family: Family, table: string): RuledChain[] | undefined {
  const block = readLegacyBlock(family === 4 ? AF_INET : AF_INET6, table);
  try {
    return block && legacyChains(family, table, block);
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

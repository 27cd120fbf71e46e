/** Reads all of nf_tables of the thread's namespace. I/O, and no judgement. */

import { EPERM, SyscallError } from "../../../ffi/errno.ts";
import {
  NETLINK_NETFILTER,
  NFPROTO_UNSPEC,
  NFT_TABLE_F_DORMANT,
} from "../../../ffi/netlink/constants.ts";
import { decodeChain, dumpChains } from "../../../ffi/netlink/nftables/chain.ts";
import {
  type ChainReference,
  decodeFirewallRule,
  dumpFirewallRules,
  type FirewallRule,
} from "../../../ffi/netlink/nftables/rule.ts";
import {
  decodeElements,
  decodeSet,
  dumpElements,
  dumpSets,
} from "../../../ffi/netlink/nftables/set.ts";
import { decodeTable, dumpTables, type Table } from "../../../ffi/netlink/nftables/table.ts";
import { NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import { WireError } from "../../../ffi/netlink/wire.ts";
import { type RuledChain, type Ruleset, type SetContents, setContents, setKey } from "./ruleset.ts";

/**
 * All chains and sets but those of dormant tables, which see no packet. Undefined without
 * CAP_NET_ADMIN; empty in a kernel without nf_tables.
 */
export function readRuleset(): Ruleset | undefined {
  using netfilter = NetlinkSocket.open(NETLINK_NETFILTER);
  try {
    const tables = netfilter
      .dump(dumpTables(NFPROTO_UNSPEC), decodeTable)
      .filter(({ flags = 0 }) => (flags & NFT_TABLE_F_DORMANT) === 0);
    const isAwake = (family: number, table: string) =>
      tables.some((each) => each.family === family && each.name === table);
    const chains = netfilter
      .dump(dumpChains(NFPROTO_UNSPEC), decodeChain)
      .filter(({ family, table }) => isAwake(family, table))
      .map((chain): RuledChain => {
        const reference = { family: chain.family, table: chain.table, chain: chain.name };
        return { ...chain, rules: readRules(netfilter, reference) };
      });
    return { chains, sets: readSets(netfilter, tables) };
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    return Number(error.errno) === EPERM ? undefined : { chains: [], sets: new Map() };
  }
}

/** The rules of a chain; one that cannot be decoded stands for all, and its effect is not known. */
function readRules(netfilter: NetlinkSocket, chain: ChainReference): FirewallRule[] {
  try {
    return netfilter.dump(dumpFirewallRules(chain), decodeFirewallRule);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    const expressions = [{ kind: "other", name: "unreadable", data: new Uint8Array() } as const];
    return [{ ...chain, expressions }];
  }
}

function readSets(
  netfilter: NetlinkSocket,
  tables: readonly Table[],
): ReadonlyMap<string, SetContents> {
  const sets = new Map<string, SetContents>();
  for (const { family, name: table } of tables) {
    for (const set of attempt(() => netfilter.dump(dumpSets(family, table), decodeSet)) ?? []) {
      const elements = attempt(() => netfilter.dump(dumpElements(set), decodeElements).flat());
      if (elements !== undefined) {
        sets.set(setKey(family, table, set.name), setContents(set, elements));
      }
    }
  }
  return sets;
}

/** Returns the result of `make`; undefined if the kernel refuses, or the reply is malformed. */
function attempt<T>(make: () => T): T | undefined {
  try {
    return make();
  } catch (error) {
    if (error instanceof SyscallError || error instanceof WireError) return undefined;
    throw error;
  }
}

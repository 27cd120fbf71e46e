/** Reads what is in the kernel of all that a Plan is about. */

import { AF_INET, AF_INET6 } from "../../../ffi/constants.ts";
import { EAFNOSUPPORT, ENOENT, EOPNOTSUPP, SyscallError } from "../../../ffi/errno.ts";
import {
  NF_INET_LOCAL_OUT,
  NF_INET_PRE_ROUTING,
  NFPROTO_INET,
  NFPROTO_NETDEV,
  NFPROTO_UNSPEC,
} from "../../../ffi/netlink/constants.ts";
import { decodeLink, dumpLinks } from "../../../ffi/netlink/link.ts";
import { type Chain, decodeChain, dumpChains } from "../../../ffi/netlink/nftables/chain.ts";
import type { FirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import {
  decodeElements,
  decodeSet,
  dumpElements,
  dumpSets,
} from "../../../ffi/netlink/nftables/set.ts";
import { decodeTable, dumpTables, type Table } from "../../../ffi/netlink/nftables/table.ts";
import { decodeRoute, dumpRoutes, type Route } from "../../../ffi/netlink/route.ts";
import { decodeRule, dumpRules, type Rule } from "../../../ffi/netlink/rule.ts";
import { WireError } from "../../../ffi/netlink/wire.ts";
import type { TableContents } from "./desired-state.ts";
import {
  compatMatches,
  isOurRule,
  legacyMarkWrites,
  type MarkWrite,
  markWrites,
  xtComment,
} from "./foreign-marks.ts";
import type { Kernel } from "./kernel.ts";
import { isOurName } from "./names.ts";
import { firewallRules, readSetups } from "./read-setups.ts";
import type { Setup } from "./setups.ts";

/** The live system, as far as it matters. */
export interface CurrentState {
  /** Every ip rule of both families. */
  readonly rules: readonly Rule[];
  /** The routes of the tables that were asked for, and those with the tag in any table. */
  readonly routes: readonly Route[];
  /** The table of the name that was asked for. */
  readonly firewall: TableContents | undefined;
  /** It and those beside it, of family inet. */
  readonly tables: readonly Table[];
  /** The names of all tables of family inet. */
  readonly tableNames: readonly string[];
  /** Every chain of every table: who else is here. */
  readonly chains: readonly Chain[];
  /** The names of the interfaces. */
  readonly interfaces: readonly string[];
  /** Set-ups of this program under other names, those made by its scripts included. */
  readonly others: readonly Setup[];
  /** Marks that firewall rules of others set; none while our own table is held. */
  readonly markWrites: readonly MarkWrite[];
}

/** Selects the objects to read. */
export interface Selector {
  readonly tables: readonly number[];
  /** The protocol number of rules and routes; undefined when they have none. */
  readonly tag: number | undefined;
  /** The firewall table's name. */
  readonly name: string;
}

/**
 * Reads it. A firewall table that belongs to this process is as it made it, and may be long: with
 * `isOwn` it is left out.
 * @throws NetlinkError EPERM without CAP_NET_ADMIN, SyscallError
 */
export function readCurrentState(kernel: Kernel, question: Selector, isOwn = false): CurrentState {
  const { tag, name } = question;
  const families = [AF_INET, AF_INET6];
  const all = kernel.netfilter
    .dump(dumpTables(NFPROTO_INET), decodeTable)
    .filter((table) => table.family === NFPROTO_INET);
  const tables = all.filter((table) => isOurName(table.name, name));
  const chains = kernel.netfilter.dump(dumpChains(NFPROTO_UNSPEC), decodeChain);
  const own = tables.find((table) => table.name === name);
  const isOthers = ({ family, table }: Chain) =>
    family !== NFPROTO_INET || !tables.some((each) => each.name === table);
  return {
    rules: families.flatMap((family) =>
      unlessAbsent(() => kernel.route.dump(dumpRules(family), decodeRule)),
    ),
    routes: families.flatMap((family) => [
      ...new Set(question.tables).values().flatMap((table) => tableRoutes(kernel, family, table)),
      ...(tag === undefined ? [] : taggedRoutes(kernel, family, tag)).filter(
        ({ table }) => !question.tables.includes(table),
      ),
    ]),
    firewall: own === undefined || isOwn ? undefined : readTable(kernel, own, chains),
    tables,
    chains,
    tableNames: all.map((table) => table.name),
    others: readSetups(
      kernel,
      all.filter((table) => !tables.includes(table)),
      chains,
    ),
    markWrites: isOwn ? [] : foreignWrites(kernel, chains.filter(isOthers)),
    interfaces: kernel.route.dump(dumpLinks(), decodeLink).map((link) => link.name),
  };
}

/** Hooks at which a packet's route is still open: before, a mark decides about it. */
const hooksBeforeRouting: readonly number[] = [NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT];

function foreignWrites(kernel: Kernel, chains: readonly Chain[]): MarkWrite[] {
  const writes = chains.flatMap((chain) => {
    const isLate =
      chain.base !== undefined &&
      chain.family !== NFPROTO_NETDEV &&
      !hooksBeforeRouting.includes(chain.base.hook);
    return foreignRules(kernel, chain)
      .flatMap(markWrites)
      .filter(({ to }) => to === "connection" || !isLate);
  });
  const legacy = kernel.legacy().filter(({ matches }) => !isOurRule(xtComment(matches)));
  return [...writes, ...legacy.flatMap(legacyMarkWrites)];
}

/** Those that this program has not made. What cannot be decoded is left to doctor. */
function foreignRules(kernel: Kernel, chain: Chain): FirewallRule[] {
  try {
    return firewallRules(kernel, chain).filter(({ comment, expressions }) => {
      return !isOurRule(comment ?? xtComment(compatMatches(expressions)));
    });
  } catch (error) {
    if (error instanceof WireError) return [];
    throw error;
  }
}

/**
 * Whether a routing table has any route, but for those with the protocol number `except`; `family`
 * is AF_INET or AF_INET6. @throws SyscallError
 */
export function hasRoutes(kernel: Kernel, family: number, table: number, except?: number): boolean {
  return tableRoutes(kernel, family, table).some(({ protocol }) => protocol !== except);
}

function tableRoutes(kernel: Kernel, family: number, table: number): Route[] {
  // Kernels before 4.20 list all tables.
  const routes = unlessAbsent(() => kernel.route.dump(dumpRoutes(family, table), decodeRoute));
  return routes.filter((route) => route.table === table);
}

function taggedRoutes(kernel: Kernel, family: number, tag: number): Route[] {
  const message = dumpRoutes(family, undefined, tag);
  const routes = unlessAbsent(() => kernel.route.dump(message, decodeRoute));
  return routes.filter(({ protocol }) => protocol === tag);
}

/** ENOENT: a table that never had a route. The others: a kernel without the family. */
const absentErrnos: readonly number[] = [ENOENT, EAFNOSUPPORT, EOPNOTSUPP];

function unlessAbsent<T>(read: () => T[]): T[] {
  try {
    return read();
  } catch (error) {
    if (error instanceof SyscallError && absentErrnos.includes(error.errno)) return [];
    throw error;
  }
}

function readTable(kernel: Kernel, table: Table, chains: readonly Chain[]): TableContents {
  const { netfilter } = kernel;
  const { family, name } = table;
  const sets = netfilter.dump(dumpSets(family, name), decodeSet);
  return {
    table,
    chains: chains
      .filter((chain) => chain.family === family && chain.table === name)
      .map((chain) => ({ ...chain, rules: firewallRules(kernel, chain) })),
    sets: sets.map((set) => ({
      ...set,
      elements: netfilter.dump(dumpElements(set), decodeElements).flat(),
    })),
  };
}

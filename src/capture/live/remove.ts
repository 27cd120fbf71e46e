/**
 * Takes back what a Plan, or any set-up of this program, has put in place. The firewall goes first,
 * so that capture ends before the routes that it needs do. What is already gone is no error.
 */

import { ENOENT, SyscallError } from "../../../ffi/errno.ts";
import { NFPROTO_INET } from "../../../ffi/netlink/constants.ts";
import { deleteTable, type Table } from "../../../ffi/netlink/nftables/table.ts";
import { deleteRoute, type Route } from "../../../ffi/netlink/route.ts";
import { deleteRule, type Rule } from "../../../ffi/netlink/rule.ts";
import type { Message } from "../../../ffi/netlink/wire.ts";
import { heldTable, isOurs } from "./conflicts.ts";
import type { CurrentState } from "./current-state.ts";
import type { DesiredState } from "./desired-state.ts";
import { describePart, ownRouting, ownSetup, taggedRouting, taggedRules } from "./differences.ts";
import type { Kernel } from "./kernel.ts";
import { leftTables } from "./left-tables.ts";
import { isOurName } from "./names.ts";
import { type LivePart, neededBy, type Setup } from "./setups.ts";

/** The set-up to remove. */
export interface RemoveOptions {
  /** The protocol number of rules and routes of this program. */
  readonly tag: number | undefined;
  /**
   * Every set-up but those that stay, and all that bears the tag and that these do not need;
   * otherwise one set-up, with what no other needs.
   */
  readonly everything: boolean;
}

/** The removed objects, a line for each. */
export interface Removed {
  readonly changes: readonly string[];
  /** A table of our name that is not ours, and was left alone. */
  readonly foreign: boolean;
  /** Set-ups that this program cannot remove: a running process or iptables has them. */
  readonly stays: readonly Setup[];
  /** Rules and routes with the tag that no set-up needs, and that are of none that was removed. */
  readonly left: readonly string[];
}

/** Removes it. @throws NetlinkError EPERM for a table that another process owns, SyscallError */
export function removeParts(
  kernel: Kernel,
  parts: DesiredState,
  live: CurrentState,
  { tag, everything }: RemoveOptions,
): Removed {
  const { name } = parts.firewall.table;
  const foreign = live.firewall !== undefined && !isOurs(live.firewall, parts.firewall);
  const own = foreign ? live.tables.filter((table) => table.name !== name) : live.tables;
  const setup = ownSetup(live);
  const setups = [...(setup === undefined || foreign ? [] : [setup]), ...live.others];
  const stays = setups.filter(({ tables }) => tables.length === 0 || isHeld(tables));
  const tables = [
    ...(everything && isHeld(own) ? [] : own),
    ...(everything ? live.others : [])
      .filter((each) => !stays.includes(each))
      .flatMap((each) => each.tables),
  ];
  if (tables.length > 0) kernel.netfilter.batch(tables.map(deleteTable));
  const left = new Set(leftTables(tables));
  const leftText = (table: Table) => (left.has(table) ? ", which a process had left" : "");
  const remaining = everything ? stays : live.others;
  const isNeeded = neededBy(remaining, taggedRules(live, tag));
  const unneeded = taggedRouting(live, tag).filter((part) => !isNeeded(part));
  const routing = everything ? unneeded : ownRouting(parts, live, tag);
  removeRouting(kernel, routing);
  const removed = new Set(routing.map(entryOf));
  return {
    changes: [
      ...tables.map((table) => `- table inet ${table.name}${leftText(table)}`),
      ...routing.map((part) => `- ${describePart(part)}`),
    ],
    foreign,
    stays,
    left: unneeded.filter((part) => !removed.has(entryOf(part))).map(describePart),
  };
}

function entryOf(part: LivePart): Rule | Route {
  return part.kind === "rule" ? part.rule : part.route;
}

function isHeld(tables: readonly Table[]): boolean {
  return heldTable({ tables }) !== undefined;
}

/** Deletes the table of this name and those beside it, as far as they are there. */
export function deleteTables({ tables }: Pick<CurrentState, "tables">, name: string): Message[] {
  return tables
    .filter((table) => isOurName(table.name, name))
    .map((table) => deleteTable({ family: NFPROTO_INET, name: table.name }));
}

/** ESRCH: the kernel's error for a route that does not exist. */
const goneErrnos: readonly number[] = [ENOENT, 3];

/** Removes rules and routes in this order; one that is gone is no error. @throws NetlinkError */
export function removeRouting(kernel: Kernel, parts: readonly LivePart[]): void {
  for (const part of parts) {
    try {
      kernel.route.request(part.kind === "rule" ? deleteRule(part.rule) : routeRemoval(part.route));
    } catch (error) {
      if (!(error instanceof SyscallError) || !goneErrnos.includes(error.errno)) throw error;
    }
  }
}

/**
 * The request to delete a route. A dump also has flags (RTNH_F_LINKDOWN, …) that show its state: a
 * request must not have them.
 */
function routeRemoval({ flags: _, ...route }: Route): Message {
  return deleteRoute(route);
}

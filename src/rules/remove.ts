/**
 * Takes back what a Plan, or any set-up of this program, has put in place. The firewall goes first,
 * so that capture ends before the routes that it needs do. What is already gone is no error.
 */

import { ENOENT, SyscallError } from "../../ffi/errno.ts";
import { NFPROTO_INET } from "../../ffi/netlink/constants.ts";
import { deleteTable } from "../../ffi/netlink/nftables/table.ts";
import { deleteRoute, type Route } from "../../ffi/netlink/route.ts";
import { deleteRule } from "../../ffi/netlink/rule.ts";
import type { Message } from "../../ffi/netlink/wire.ts";
import { isOurs } from "./conflicts.ts";
import { describePart, type LivePart, plannedRouting, taggedRouting } from "./differences.ts";
import type { Kernel } from "./kernel.ts";
import type { Live } from "./live.ts";
import { isOurName } from "./names.ts";
import type { Parts } from "./parts.ts";

/** What is taken back. */
export interface RemoveOptions {
  /** The protocol number of rules and routes of this program. */
  readonly tag: number | undefined;
  /** Every set-up, and all that bears the tag; otherwise what is exactly the Plan's. */
  readonly everything: boolean;
}

/** What was removed: a line for each. */
export interface Removed {
  readonly changes: readonly string[];
  /** A table of our name that is not ours, and was left alone. */
  readonly foreign: boolean;
}

/** Removes it. @throws NetlinkError EPERM for a table that another process owns, SyscallError */
export function removeParts(
  kernel: Kernel,
  parts: Parts,
  live: Live,
  { tag, everything }: RemoveOptions,
): Removed {
  const { name } = parts.firewall.table;
  const foreign = live.firewall !== undefined && !isOurs(live.firewall, parts.firewall);
  const tables = [
    ...live.tables.filter((table) => !(foreign && table.name === name)),
    ...(everything ? live.others.map(({ table }) => table) : []),
  ];
  if (tables.length > 0) kernel.netfilter.batch(tables.map(deleteTable));
  const routing = everything ? taggedRouting(live, tag) : plannedRouting(parts, live);
  removeRouting(kernel, routing);
  return {
    changes: [
      ...tables.map((table) => `- table inet ${table.name}`),
      ...routing.map((part) => `- ${describePart(part)}`),
    ],
    foreign,
  };
}

/** Deletes the table of this name and those beside it, as far as they are there. */
export function deleteTables({ tables }: Pick<Live, "tables">, name: string): Message[] {
  return tables
    .filter((table) => isOurName(table.name, name))
    .map((table) => deleteTable({ family: NFPROTO_INET, name: table.name }));
}

/** ESRCH: how the kernel answers for a route that is not there. */
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

/** The flags of a dump (RTNH_F_LINKDOWN, …) say how a route is, and are none to look it up by. */
function routeRemoval({ flags: _, ...route }: Route): Message {
  return deleteRoute(route);
}

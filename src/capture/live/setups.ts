/**
 * The set-ups of this program on a host, and which ip rules and routes are whose. Pure.
 *
 * Rules and routes have no owner that the kernel would know. A set-up is its firewall table, which
 * the kernel shows with all that is in it, for as long as it captures anything. The marks that its
 * rules set lead to the ip rules that ask for them, and these to the table of the routes.
 * An object with our protocol number that belongs to no set-up is left over from a killed process.
 */

import { AF_INET6 } from "../../../ffi/constants.ts";
import type { FirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import type { Table } from "../../../ffi/netlink/nftables/table.ts";
import type { Route } from "../../../ffi/netlink/route.ts";
import type { Rule } from "../../../ffi/netlink/rule.ts";
import type { Family } from "../../net/address.ts";
import { fullMask, type MaskedMark } from "../../net/mark.ts";
import { familiesOf, markBitsReadBy, markSetBy } from "./marking.ts";
import { isDraining } from "./names.ts";

/** A set-up as its firewall rules show it. */
export interface Setup {
  /** The name of its firewall table, or of its chain where iptables has made it. */
  readonly name: string;
  /** The firewall table and those beside it; none where iptables has made it. */
  readonly tables: readonly Table[];
  /** The marks that its rules set, once for each family. */
  readonly marks: readonly FamilyMark[];
  /** Bits of marks that its rules read, its own mark's among them. */
  readonly bitsRead: number;
  /** Its process lets open connections end, and captures nothing new. */
  readonly draining: boolean;
}

/** A mark that packets of one family get. */
export interface FamilyMark {
  readonly family: Family;
  readonly mark: MaskedMark;
}

/** A live rule or route. */
export type LivePart =
  | { readonly kind: "rule"; readonly rule: Rule }
  | { readonly kind: "route"; readonly route: Route };

/** The set-up of these tables and of the rules in them. */
export function setupFrom(
  name: string,
  tables: readonly Table[],
  rules: readonly FirewallRule[],
): Setup {
  return {
    name,
    tables,
    marks: marksOf(rules),
    bitsRead: rules.reduce((bits, rule) => bits | markBitsReadBy(rule), 0),
    draining: isDraining(name),
  };
}

/** The marks that rules give packets, once for each family. */
export function marksOf(rules: readonly FirewallRule[]): FamilyMark[] {
  const marks = new Map<string, FamilyMark>();
  for (const rule of rules) {
    const mark = markSetBy(rule);
    if (mark === undefined) continue;
    for (const family of familiesOf(rule)) marks.set(markKey(family, mark), { family, mark });
  }
  return [...marks.values()];
}

/**
 * Tells which of the live rules and routes these set-ups need: of `rules`, those with our protocol
 * number, the ones that ask for their marks; the routes of the tables that these name; and rules
 * without a mark (for a backend on this host) that have the priority and the table of one that is
 * needed. What two set-ups need is needed by both.
 */
export function neededBy(
  setups: readonly Pick<Setup, "marks">[],
  rules: readonly Rule[],
): (part: LivePart) => boolean {
  const marks = new Set(
    setups.flatMap(({ marks }) => marks.map(({ family, mark }) => markKey(family, mark))),
  );
  const isMarked = (rule: Rule) =>
    rule.mark !== undefined && marks.has(markKey(familyOf(rule), markOf(rule)));
  const marked = rules.filter(isMarked);
  const tables = new Set(marked.map(tableKey));
  const places = new Set(marked.map(placeKey));
  return (part) => {
    if (part.kind === "route") return tables.has(tableKey(part.route));
    if (part.rule.mark !== undefined) return isMarked(part.rule);
    return places.has(placeKey(part.rule));
  };
}

/** Those of `rules` that ask for a set-up's marks. */
export function rulesOf({ marks }: Pick<Setup, "marks">, rules: readonly Rule[]): readonly Rule[] {
  const isNeeded = neededBy([{ marks }], rules);
  return rules.filter((rule) => rule.mark !== undefined && isNeeded({ kind: "rule", rule }));
}

function familyOf({ family }: { readonly family: number }): Family {
  return family === AF_INET6 ? 6 : 4;
}

function markOf({ mark = 0, mask = fullMask }: Rule): Pick<MaskedMark, "mask"> & { value: number } {
  return { value: mark, mask };
}

function markKey(family: Family, { value, mask }: { value: number; mask: number }): string {
  return `${family} ${value}/${mask}`;
}

function tableKey({ family, table }: { readonly family: number; readonly table: number }): string {
  return `${family} ${table}`;
}

function placeKey(rule: Rule): string {
  return `${tableKey(rule)} ${rule.priority}`;
}

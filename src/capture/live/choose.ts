/**
 * Fills in what a request leaves open of a set-up's name, mark, table and priority, so that it gets
 * in nobody's way. Pure, but for what it asks about routes.
 */

import type { Mark } from "../../../ffi/types.ts";
import type { MaskedMark } from "../../net/mark.ts";
import type { Intent } from "../plan/intent.ts";
import type { IntentRequest } from "../plan/request.ts";
import { markConflicts } from "./conflicts.ts";
import type { CurrentState } from "./current-state.ts";
import { ownSetup, taggedRules } from "./differences.ts";
import { neededBy, rulesOf, type Setup } from "./setups.ts";

/** The identity of a set-up. */
export interface Identity {
  readonly tableName: string;
  readonly mark: MaskedMark;
  readonly table: number;
  readonly priority: number;
}

/** How to choose. */
export interface Choosing {
  /** The defaults, and what was asked for; the protocol number of our rules and routes. */
  readonly intent: Pick<Intent, "tableName" | "mark" | "table" | "priority" | "tag">;
  readonly request: Pick<IntentRequest, keyof Identity>;
  /** The system, read for the name that the request gives, or the default one. */
  readonly live: CurrentState;
  /**
   * `fresh`: a set-up beside all that are there, clear of other programs too. `named`: the set-up
   * of this name. What it has stays; otherwise it gets the defaults, unless a set-up of another
   * name has these.
   */
  readonly kind: "fresh" | "named";
  /** Whether a routing table has no routes but those with our protocol number. */
  readonly isFreeTable: (table: number) => boolean;
}

/** The default mark bit of a proxy's own sockets: no set-up's mark. */
export const guardBit = 0x2;

const tablesMax = 252;
const prioritiesMax = 32_000;

/** Chooses; what the request gives stays. */
export function chooseIdentity(choosing: Choosing): Identity {
  const { intent, request, live, kind } = choosing;
  const isFresh = kind === "fresh" && request.tableName === undefined;
  const tableName = isFresh ? freeName(intent.tableName, live) : intent.tableName;
  const own = ownSetup(live);
  const isOwn = own !== undefined && own.name === tableName;
  const others = [...live.others, ...(own === undefined || isOwn ? [] : [own])];
  const adopted = isOwn ? identityOf(own, taggedRules(live, intent.tag)) : {};
  const beside = surroundings(choosing, others);
  const ourselves = {
    ...beside,
    ...{ rules: [], interfaces: [], chains: [], markWrites: [], isFreeTable: () => true },
  };
  const pick = <T>(
    given: T | undefined,
    old: T | undefined,
    usual: T,
    candidates: Iterable<T>,
    isFree: (value: T, among: Surroundings) => boolean,
  ): T => {
    if (given !== undefined) return given;
    if (old !== undefined) return old;
    // A named set-up avoids tproxy's other set-ups; conflicts with other programs are reported.
    if (kind === "named" && isFree(usual, ourselves)) return usual;
    for (const candidate of candidates) if (isFree(candidate, beside)) return candidate;
    return usual;
  };
  const isFreeTable = (table: number, { rules, used, isFreeTable }: Surroundings) =>
    ![...rules, ...used].some((rule) => rule.table === table) && isFreeTable(table);
  const isFreePriority = (priority: number, { rules, used }: Surroundings) =>
    ![...rules, ...used].some((rule) => rule.priority === priority);
  const isFreeMark = (mark: MaskedMark, among: Surroundings) =>
    markConflicts(mark, [4, 6], among).length === 0;
  const { mark, table, priority = 100 } = intent;
  return {
    tableName,
    mark: pick(request.mark, adopted.mark, mark, marksFrom(mark), isFreeMark),
    table: pick(request.table, adopted.table, table, range(table, tablesMax), isFreeTable),
    priority: pick(
      request.priority,
      adopted.priority,
      priority,
      range(priority, prioritiesMax),
      isFreePriority,
    ),
  };
}

/** The bits of the marks that set-ups of other names give packets. */
export function markBits(live: CurrentState, tableName: string): number {
  const own = ownSetup(live);
  const others = [...live.others, ...(own === undefined || own.name === tableName ? [] : [own])];
  const marks = others.flatMap((setup) => setup.marks);
  return marks.reduce((bits, { mark }) => (bits | mark.mask) >>> 0, 0);
}

/** The other set-ups and rules on this host. */
interface Surroundings
  extends Pick<CurrentState, "rules" | "others" | "interfaces" | "chains" | "markWrites"> {
  /** The ip rules that set-ups of this program need which capture. */
  readonly used: CurrentState["rules"];
  readonly isFreeTable: Choosing["isFreeTable"];
}

function surroundings(
  { live, intent, isFreeTable }: Choosing,
  others: readonly Setup[],
): Surroundings {
  const { rules, interfaces, chains, markWrites } = live;
  const isUsed = neededBy(
    others.filter(({ draining }) => !draining),
    taggedRules(live, intent.tag),
  );
  return {
    rules: rules.filter(({ protocol }) => protocol !== intent.tag),
    others,
    interfaces,
    chains,
    markWrites,
    used: rules.filter((rule) => isUsed({ kind: "rule", rule })),
    isFreeTable,
  };
}

function identityOf(own: Setup, rules: CurrentState["rules"]): Partial<Identity> {
  const [rule] = rulesOf(own, rules);
  const mark = own.marks[0]?.mark;
  return {
    ...(mark === undefined ? {} : { mark }),
    ...(rule === undefined ? {} : { table: rule.table }),
    ...(rule?.priority === undefined ? {} : { priority: rule.priority }),
  };
}

/** The name, or the first one behind it that no table and no set-up has. */
export function freeName(
  usual: string,
  { tableNames, others }: Pick<CurrentState, "tableNames" | "others">,
): string {
  const taken = new Set([...tableNames, ...others.map(({ name }) => name)]);
  for (let number = 2, name = usual; ; name = `${usual}-${number++}`) {
    if (!taken.has(name)) return name;
  }
}

/** Single bits, without the one that marks packets of proxies themselves. */
function* marksFrom(usual: MaskedMark): Generator<MaskedMark> {
  yield usual;
  for (let bit = 0; bit < 32; bit++) {
    const value = (1 << bit) >>> 0;
    if (value !== usual.value && value !== guardBit) yield { value: value as Mark, mask: value };
  }
}

function* range(from: number, to: number): Generator<number> {
  for (let value = from; value <= to; value++) yield value;
}

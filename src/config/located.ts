/** Values of a file together with the places where they stand. */

import { Unusable } from "./kinds.ts";

/** A place in a text; both numbers count from 1. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

/** A value of a file, and where it stands. */
export type Located =
  | { readonly kind: "value"; readonly at: Position; readonly value: unknown }
  | { readonly kind: "list"; readonly at: Position; readonly items: Located[] }
  | { readonly kind: "table"; readonly at: Position; readonly entries: Map<string, Entry> };

/** A key of a table, with its value. */
export interface Entry {
  readonly at: Position;
  readonly value: Located;
}

/** What is wrong in a text. */
export interface TextProblem {
  readonly at: Position;
  readonly text: string;
}

/** What became of reading a text: a table if there is one, and what is wrong in it. */
export interface ReadText {
  readonly root: Located & { readonly kind: "table" };
  readonly problems: readonly TextProblem[];
}

/** Tables and lists in each other: more of them are no configuration. */
export const depthMax = 8;

/** What is wrong with a value below that. */
export const tooDeep = `is nested too deeply: give at most ${depthMax} levels`;

/** The first character of a text. */
export const start: Position = { line: 1, column: 1 };

/** A table that has nothing in it yet. */
export function emptyTable(at: Position): Located & { kind: "table" } {
  return { kind: "table", at, entries: new Map() };
}

/** Keys that an object of JavaScript cannot have like others: no setting is called so. */
export const specialKeys: ReadonlySet<string> = new Set(["__proto__", "constructor", "prototype"]);

/** The value without its places, and without special keys. */
export function plainValue(located: Located): unknown {
  if (located.kind === "value") return located.value;
  if (located.kind === "list") return located.items.map(plainValue);
  const value: Record<string, unknown> = {};
  for (const [key, entry] of located.entries) {
    if (!specialKeys.has(key)) value[key] = plainValue(entry.value);
  }
  return value;
}

/**
 * Where something stands: the key, or with `wanted` the value, at a path. Of what is not there it
 * is the place of the innermost thing around it.
 */
export function positionOf(
  root: Located,
  path: readonly (string | number)[],
  wanted: "key" | "value",
): Position {
  let at = root.at;
  let here: Located = root;
  for (const [i, step] of path.entries()) {
    // A value where a list belongs is its first item.
    if (typeof step === "number" && here.kind !== "list") continue;
    if (here.kind === "value") return at;
    if (here.kind === "list") {
      const item: Located | undefined = here.items[Number(step)];
      if (item === undefined) return at;
      [here, at] = [item, item.at];
    } else {
      const entry: Entry | undefined = here.entries.get(String(step));
      if (entry === undefined) return at;
      const isValue = wanted === "value" && path.slice(i + 1).every((s) => typeof s === "number");
      [here, at] = [entry.value, isValue ? entry.value.at : entry.at];
    }
  }
  return at;
}

/** What stands at a path; a value where a list belongs is its first item. */
export function inside(root: Located, path: readonly (string | number)[]): Located | undefined {
  let here: Located | undefined = root;
  for (const step of path) {
    if (here?.kind === "table" && typeof step === "string") here = here.entries.get(step)?.value;
    else if (here?.kind === "list") here = here.items[Number(step)];
    else if (typeof step === "string") return undefined;
  }
  return here;
}

/** A number with a fraction, a date and the like: what no setting takes. */
export function unusable(text: string): Unusable {
  return new Unusable(text);
}

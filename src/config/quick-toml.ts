/**
 * TOML as plain values, without their places: several times as fast as `readToml`, for files in
 * which nothing is wrong. Pure.
 */

import { parse } from "smol-toml";
import { depthMax, specialKeys } from "./located.ts";

/** Inline tables and escapes have more forms in TOML 1.1, which the parser reads, than in 1.0. */
const newerForms = /[{\\]/;

/**
 * The value that `readToml` has for the text. Undefined where anything in it needs a closer look:
 * errors, inline tables, escapes, numbers with fractions, dates, special keys, deep nesting.
 */
export function readQuickToml(text: string): Record<string, unknown> | undefined {
  if (newerForms.test(text)) return undefined;
  try {
    // BigInts distinguish integers from numbers with fractions.
    return plainTable(parse(text, { integersAsBigInt: true }), 0);
  } catch {
    // A syntax error, or more nesting than the stack can hold: `readToml` reports it.
    return undefined;
  }
}

/** A table of the parser as one of `plainValue`; undefined: it needs a closer look. */
function plainTable(table: object, depth: number): Record<string, unknown> | undefined {
  const result: Record<string, unknown> = {};
  for (const [key, each] of Object.entries(table)) {
    const value = specialKeys.has(key) ? undefined : plain(each, depth + 1);
    if (value === undefined) return undefined;
    result[key] = value;
  }
  return result;
}

function plain(value: unknown, depth: number): unknown {
  if (typeof value === "string" || typeof value === "boolean") return value;
  if (typeof value === "bigint") {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : undefined;
  }
  if (depth >= depthMax || typeof value !== "object" || value === null) return undefined;
  if (Array.isArray(value)) {
    const items = value.map((each) => plain(each, depth + 1));
    return items.includes(undefined) ? undefined : items;
  }
  // Tables have no prototype, dates do.
  return Object.getPrototypeOf(value) === null ? plainTable(value, depth) : undefined;
}

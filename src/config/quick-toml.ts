/**
 * TOML as plain values, without their places: several times as fast as `readToml`, for files in
 * which nothing is wrong. Pure.
 */

import { parse } from "smol-toml";
import { isTable } from "./kinds.ts";
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
    const root: Record<string, unknown> = parse(text, { integersAsBigInt: true });
    return isPlain(root, 0) ? root : undefined;
  } catch {
    // A syntax error, or more nesting than the stack can hold: `readToml` reports it.
    return undefined;
  }
}

/** Whether a table or list has plain values only. Turns its integers into numbers. */
function isPlain(parent: object, depth: number): boolean {
  if (depth >= depthMax) return false;
  const values = parent as Record<string, unknown>;
  for (const key in values) {
    if (specialKeys.has(key)) return false;
    const value = values[key];
    if (typeof value === "string" || typeof value === "boolean") continue;
    if (typeof value === "bigint") {
      values[key] = Number(value);
      if (!Number.isSafeInteger(values[key])) return false;
    } else if (!(Array.isArray(value) || isTable(value)) || !isPlain(value, depth + 1)) {
      // A number with a fraction, a date, or too deep.
      return false;
    }
  }
  return true;
}

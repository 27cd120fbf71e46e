/** The two languages of configurations. Pure. */

import { readJson } from "./json.ts";
import type { ReadText } from "./located.ts";
import { readQuickToml } from "./quick-toml.ts";
import { readToml } from "./toml.ts";

/** Whether a text is JSON: no TOML begins with a brace. */
export function isJson(text: string): boolean {
  return /^\s*\{/.test(text);
}

/** Reads a text of either language; nothing is thrown. */
export function readText(text: string): ReadText {
  return isJson(text) ? readJson(text) : readToml(text);
}

/**
 * The plain value of a text in which nothing is wrong; undefined where `readText` has to look:
 * then it finds problems, or values that no setting accepts.
 */
export function readQuickText(text: string): Record<string, unknown> | undefined {
  return isJson(text) ? undefined : readQuickToml(text);
}

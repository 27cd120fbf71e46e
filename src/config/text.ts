/** The two languages of configurations. Pure. */

import { readJson } from "./json.ts";
import type { ReadText } from "./located.ts";
import { readToml } from "./toml.ts";

/** Whether a text is JSON: no TOML begins with a brace. */
export function isJson(text: string): boolean {
  return /^\s*\{/.test(text);
}

/** Reads a text of either language; nothing is thrown. */
export function readText(text: string): ReadText {
  return isJson(text) ? readJson(text) : readToml(text);
}

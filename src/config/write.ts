/** Writes settings as TOML. Pure. */

import type { Written } from "./kinds.ts";
import { configurationKind, type Settings } from "./settings.ts";

/** What stands behind a line as a comment; undefined for nothing. */
export type LineNote = (path: readonly (string | number)[]) => string | undefined;

/** The text of a configuration file that has just these settings. */
export function writeToml(settings: Settings, note: LineNote = () => undefined): string {
  const written = configurationKind.write(settings) as WrittenTable;
  const lines = tableLines([], [], written, note);
  return `${lines.join("\n").replace(/^\n+/, "")}\n`;
}

type WrittenTable = { readonly [key: string]: Written };
type Path = readonly (string | number)[];

/** `keys` is the path without indices: the name of the table. */
function tableLines(path: Path, keys: readonly string[], table: WrittenTable, note: LineNote) {
  const lines: string[] = [];
  const inner: string[] = [];
  for (const [key, value] of Object.entries(table)) {
    const [here, name] = [
      [...path, key],
      [...keys, key],
    ];
    if (isTableList(value)) {
      for (const [i, each] of value.entries()) {
        inner.push("", `[[${name.map(keyText).join(".")}]]`);
        inner.push(...tableLines([...here, i], name, each, note));
      }
    } else if (isTable(value) && !isInline(value)) {
      inner.push("", `[${name.map(keyText).join(".")}]`, ...tableLines(here, name, value, note));
    } else {
      const comment = note(here);
      const behind = comment === undefined ? "" : `  # ${comment}`;
      lines.push(`${keyText(key)} = ${valueText(value)}${behind}`);
    }
  }
  return [...lines, ...inner];
}

function isTable(value: Written): value is WrittenTable {
  return typeof value === "object" && !Array.isArray(value);
}

function isTableList(value: Written): value is readonly WrittenTable[] {
  return Array.isArray(value) && value.length > 0 && value.every(isTable);
}

/** Whether a table's names are no settings, as of ports: it stands on one line. */
function isInline(table: WrittenTable): boolean {
  return Object.keys(table).some((key) => key === "default" || /^[0-9]+$/.test(key));
}

function valueText(value: Written): string {
  if (Array.isArray(value)) return `[${value.map(valueText).join(", ")}]`;
  if (typeof value === "string") return textOf(value);
  if (typeof value !== "object") return String(value);
  // In an object keys of digits are in front of all others.
  const entries = Object.entries(value);
  const [general, byPort] = [true, false].map((wanted) =>
    entries.filter(([key]) => (key === "default") === wanted),
  );
  const pairs = [...(general ?? []), ...(byPort ?? [])].map(
    ([key, each]) => `${keyText(key)} = ${valueText(each)}`,
  );
  return `{ ${pairs.join(", ")} }`;
}

/** A basic string, whose escapes are those of JSON; DEL has to be one as well. */
function textOf(text: string): string {
  return JSON.stringify(text).replaceAll("\x7f", "\\u007f");
}

function keyText(key: string): string {
  return /^[A-Za-z0-9_-]+$/.test(key) ? key : textOf(key);
}

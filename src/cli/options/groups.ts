/** The arrangement of a command's help: groups of options, and a usage of one line. */

import { group } from "@optique/core/constructs";
import type { Parser } from "@optique/core/parser";
import type { Usage } from "@optique/core/usage";

/** Puts the fields of a command into the group with this title. */
export function inGroup<Fields extends Readonly<Record<string, Parser<"sync", unknown, unknown>>>>(
  title: string,
  fields: Fields,
): Fields {
  const grouped: Record<string, Parser<"sync", unknown, unknown>> = {};
  for (const [name, field] of Object.entries(fields)) grouped[name] = group(title, field);
  return grouped as Fields;
}

/** The usage after the command, `[OPTIONS] [ADDR]:PORT...`, in place of all options. */
export function usageLine(line: string): Usage {
  return line.split(" ").map((value) => ({ type: "literal", value }));
}

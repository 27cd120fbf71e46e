/** How a command's help is arranged: options in groups, and a usage of one line. */

import { group } from "@optique/core/constructs";
import type { Parser } from "@optique/core/parser";
import type { Usage } from "@optique/core/usage";

/** The fields of a command, each shown in the group of this title. */
export function inGroup<Fields extends Readonly<Record<string, Parser<"sync", unknown, unknown>>>>(
  title: string,
  fields: Fields,
): Fields {
  const grouped: Record<string, Parser<"sync", unknown, unknown>> = {};
  for (const [name, field] of Object.entries(fields)) grouped[name] = group(title, field);
  return grouped as Fields;
}

/** What follows the command in its usage, `[OPTIONS] [ADDR]:PORT...`, instead of every option. */
export function usageLine(line: string): Usage {
  return line.split(" ").map((value) => ({ type: "literal", value }));
}

/** The options that choose connections and sessions, as the admin API has them. */

import { optional } from "@optique/core/modifiers";
import type { NonEmptyString } from "@optique/core/nonempty";
import { option } from "@optique/core/primitives";
import { ok } from "../../net/result.ts";
import { type FilterPart, filterParts, parseFilterPart } from "../../workers/row-filter.ts";
import { prose } from "../prose.ts";
import { inGroup } from "./groups.ts";
import { makeValue, type Value } from "./values.ts";

/** The text of a part of a filter, as it is sent on. */
function filterValue(part: FilterPart, metavar: NonEmptyString): Value<string> {
  return makeValue({
    metavar,
    placeholder: "",
    parse: (text) => {
      const parsed = parseFilterPart(part, text);
      return parsed.ok ? ok(text) : parsed;
    },
    format: (text) => text,
  });
}

export const filterFields = inGroup("Filter", {
  service: optional(
    option("--service", filterValue("service", "NAME"), { description: prose`Of this service.` }),
  ),
  pool: optional(
    option("--pool", filterValue("pool", "NAME"), { description: prose`To this pool.` }),
  ),
  upstream: optional(
    option("--upstream", filterValue("upstream", "NAME"), {
      description: prose`To this upstream, by its name or its address: ${"192.0.2.10:8080"}.`,
    }),
  ),
  client: optional(
    option("--client", filterValue("client", "CIDR"), {
      description: prose`From these addresses.`,
    }),
  ),
  original: optional(
    option("--original", filterValue("original", "CIDR[:PORT]"), {
      description: prose`Whose client wanted to go there: ${"192.0.2.0/24"}, ${":443"},
        ${"[2001:db8::/32]:443"}.`,
    }),
  ),
  state: optional(
    option("--state", filterValue("state", "STATE"), {
      description: prose`In this state: ${"header"}, ${"queued"}, ${"connecting"}, ${"relaying"},
        ${"half-closed"}; of UDP ${"unanswered"}, ${"answered"}, ${"confirmed"}.`,
    }),
  ),
  older: optional(
    option("--older", filterValue("older", "DURATION"), {
      description: prose`Open for at least this long.`,
    }),
  ),
  idle: optional(
    option("--idle", filterValue("idle", "DURATION"), {
      description: prose`Without data for at least this long.`,
    }),
  ),
});

/** The options of a filter as parameters of a request. */
export function filterParameters(
  options: Readonly<Partial<Record<FilterPart, string | undefined>>>,
): URLSearchParams {
  const parameters = new URLSearchParams();
  for (const part of filterParts) {
    const text = options[part];
    if (text !== undefined) parameters.set(part, text);
  }
  return parameters;
}

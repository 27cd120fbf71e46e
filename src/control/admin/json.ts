/** Plain data of ours as the API shows it: names with underscores, times as text. Pure. */

import { connectionFields, snakeCase } from "../../log/connection-lines.ts";
import type { OpenRow, Rows } from "../../workers/scan-requests.ts";

/** A copy of plain data: `startTime: 0` becomes `start_time: "1970-01-01T00:00:00.000Z"`. */
export function toJson(value: unknown, name = ""): unknown {
  if (Array.isArray(value)) return value.map((each) => toJson(each));
  if (typeof value === "object" && value !== null) {
    const fields = Object.entries(value).map(([key, each]) => [snakeCase(key), toJson(each, key)]);
    return Object.fromEntries(fields);
  }
  if (typeof value === "number" && /^time$|Time$|^since$/.test(name)) {
    return new Date(value).toISOString();
  }
  return value;
}

/** The rows of a query. */
export function rowsJson({ total, matched, rows }: Rows): object {
  return { total, matched, connections: rows.map(rowJson) };
}

function rowJson(row: OpenRow): object {
  const { event: _, ...fields } = connectionFields(row);
  const { service, pool, rate } = row;
  const rates = rate && {
    client_rate: Math.round(rate.client),
    upstream_rate: Math.round(rate.upstream),
  };
  return { id: row.id, service, pool, ...fields, ...rates };
}

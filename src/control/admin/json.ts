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

/** What rows need of a server's status: the names of upstreams. */
export interface NamedPools {
  readonly pools?: readonly {
    readonly name: string;
    readonly upstreams?: readonly {
      readonly name: string;
      readonly addresses?: readonly { readonly address: string }[];
    }[];
  }[];
}

/** The rows of a query, each with the name of its upstream where that is not its address. */
export function rowsJson({ total, matched, rows }: Rows, status: NamedPools): object {
  const names = upstreamNames(status);
  return {
    total,
    matched,
    connections: rows.map((row) => {
      const fields = rowJson(row);
      const { upstream = "" } = fields as { readonly upstream?: string };
      // An upstream without a port is known by its address alone.
      const host = upstream.replace(/:[0-9]+$/, "").replace(/^\[(.*)\]$/, "$1");
      const name = names.get(`${row.pool} ${upstream}`) ?? names.get(`${row.pool} ${host}`);
      return name === undefined ? fields : { ...fields, upstream_name: name };
    }),
  };
}

function upstreamNames({ pools = [] }: NamedPools): Map<string, string> {
  const names = new Map<string, string>();
  for (const { name: pool, upstreams = [] } of pools) {
    for (const { name, addresses = [] } of upstreams) {
      for (const { address } of addresses)
        if (address !== name) names.set(`${pool} ${address}`, name);
    }
  }
  return names;
}

function rowJson(row: OpenRow) {
  const { event: _, ...fields } = connectionFields(row);
  const { service, pool, rate } = row;
  const rates = rate && {
    client_rate: Math.round(rate.client),
    upstream_rate: Math.round(rate.upstream),
  };
  return { id: row.id, service, pool, ...fields, ...rates };
}

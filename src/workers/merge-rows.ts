/** Rows that several parts of a process have returned, as those of one query. Pure. */

import type { RowQuery, SortKey } from "./query.ts";
import type { OpenRow, Rows } from "./scan-requests.ts";

/** By what rows are sorted: the largest comes first. */
const keyOf: Readonly<Record<SortKey, (row: OpenRow) => number>> = {
  rate: ({ rate }) => (rate === undefined ? 0 : rate.client + rate.upstream),
  bytes: ({ clientBytes, upstreamBytes }) => clientBytes + upstreamBytes,
  age: ({ ms }) => ms,
  idle: ({ idleMs }) => idleMs,
};

/** The rows of all parts in the order of the query, at most its limit. */
export function mergeRows(
  parts: readonly Rows[],
  { sort, limit }: Pick<RowQuery, "sort" | "limit">,
): Rows {
  const sum = (of: (part: Rows) => number) => parts.reduce((total, part) => total + of(part), 0);
  const key = keyOf[sort];
  const rows = parts.flatMap((part) => part.rows).sort((a, b) => key(b) - key(a));
  return {
    total: sum(({ total }) => total),
    matched: sum(({ matched }) => matched),
    rows: rows.slice(0, limit),
  };
}

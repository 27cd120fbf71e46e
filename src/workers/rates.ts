/** How fast open connections and sessions are: two looks at the counts of each. Pure. */

import type { Rate } from "./query.ts";
import { rateStaleMs, rateWindowMs } from "./scan-limits.ts";

/** The last look at a row, and the rate that came of it. Times are in ms. */
export interface RateSample extends Rate {
  readonly at: number;
  readonly sent: number;
  readonly received: number;
}

/** A row whose rate is measured: it keeps its own sample. */
export interface Measured {
  readonly startedAt: number;
  readonly sent: number;
  readonly received: number;
  sample: RateSample | undefined;
}

/**
 * Looks at a row at `now`; returns its rate since the look before. A look that is too early
 * changes nothing. A young row was looked at, so to speak, when it began. Of an old one the first
 * look returns 0.
 */
export function measure(row: Measured, now: number): Rate {
  const { startedAt, sent, received } = row;
  const isYoung = now - startedAt < rateStaleMs;
  const before = row.sample ?? (isYoung ? { at: startedAt, sent: 0, received: 0 } : undefined);
  if (before === undefined) {
    row.sample = { at: now, sent, received, client: 0, upstream: 0 };
    return row.sample;
  }
  const ms = now - before.at;
  if (row.sample !== undefined && ms < rateWindowMs) return row.sample;
  const perSecond = 1000 / Math.max(ms, rateWindowMs);
  const client = (sent - before.sent) * perSecond;
  const upstream = (received - before.received) * perSecond;
  row.sample = { at: now, sent, received, client, upstream };
  return row.sample;
}

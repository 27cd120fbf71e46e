/**
 * What is asked of Workers about their open connections and sessions, and the rows that they
 * return: filtered, sorted and bounded in each Worker, merged by the main thread. Pure.
 */

import type { RecordBlock } from "./record-block.ts";
import type { RowFilter, RowNames } from "./row-filter.ts";

/** The largest comes first: the fastest, the largest, the oldest, the longest silent. */
export const sortKeys = ["rate", "bytes", "age", "idle"] as const;
export type SortKey = (typeof sortKeys)[number];

export interface RowQuery {
  readonly filter: RowFilter;
  readonly sort: SortKey;
  /** Rows that are returned at most, up to `queryRowsMax`. */
  readonly limit: number;
  /**
   * The rates of the rows are wanted. Unless they were within the last seconds, it takes
   * `rateWindowMs` to measure them.
   */
  readonly rates: boolean;
}

/** The connections and sessions that one Worker has to end. */
export type KillSelection =
  | { readonly kind: "filter"; readonly filter: RowFilter }
  /** By the middle part of their ids, and those of other processes by the whole text. */
  | { readonly kind: "ids"; readonly ids: readonly number[]; readonly known: readonly string[] };

/** Bytes in a second from a client to its upstream, and back. */
export interface Rate {
  readonly client: number;
  readonly upstream: number;
}

/** The fields of a row beside its record. */
export interface RowExtra extends RowNames {
  /** The key that rows are sorted by. */
  readonly key: number;
  readonly rate: Rate | undefined;
}

/** The rows that one Worker returns; both lists have the same order. */
export interface WorkerRows {
  /** Open connections and sessions, and those of them that match. */
  readonly total: number;
  readonly matched: number;
  /** The time that the Worker has spent on it, in ms. */
  readonly busyMs: number;
  readonly records: RecordBlock;
  readonly extras: readonly RowExtra[];
}

/**
 * Keeps the `limit` items with the largest keys, in their order; of equal keys those that came
 * first. Sorts once in `limit` items at most.
 */
export class Largest<T> {
  private readonly limit: number;
  private kept: { readonly key: number; readonly item: T }[] = [];
  /** Items with this key or a smaller one are not among the largest. */
  private floor = Number.NEGATIVE_INFINITY;

  constructor(limit: number) {
    this.limit = limit;
  }

  add(key: number, item: T): void {
    if (this.limit === 0 || key <= this.floor) return;
    this.kept.push({ key, item });
    if (this.kept.length >= 2 * this.limit) this.cut();
  }

  /** The items with their keys, the largest first. */
  items(): readonly { readonly key: number; readonly item: T }[] {
    this.cut();
    return this.kept;
  }

  private cut(): void {
    this.kept = this.kept.sort((a, b) => b.key - a.key).slice(0, this.limit);
    if (this.kept.length === this.limit) this.floor = this.kept.at(-1)?.key ?? this.floor;
  }
}

/** The counts that another process handed over with its services: part of their totals. */

import { type Counters, valuesOf } from "./counters.ts";
import { TALLY_VALUES } from "./tally.ts";

/** The counts of a service, as plain data. */
export interface Counted {
  readonly counters: Readonly<Partial<Counters>>;
  /** As long as a tally, or empty. */
  readonly tally: readonly number[];
}

export class InheritedCounts {
  /** By the number of a service. */
  private readonly all = new Map<number, Counted>();
  /** Of the process, by keys that its owner knows. */
  totals: Readonly<Record<string, number>> = {};

  /** Replaces what was counted for service number `id`. */
  set(id: number, counted: Counted): void {
    this.all.set(id, counted);
  }

  /** Numbers to be added to the counters of one service, or to the sum of all. */
  counters(id?: number): Float64Array[] {
    if (id === undefined) return [...this.all.values()].map(({ counters }) => valuesOf(counters));
    const found = this.all.get(id);
    return found === undefined ? [] : [valuesOf(found.counters)];
  }

  /** Numbers to be added to the tally of a service. */
  tally(id: number): Float64Array[] {
    const { tally = [] } = this.all.get(id) ?? {};
    if (tally.length === 0) return [];
    // Another release may have more places, or fewer.
    const values = new Float64Array(TALLY_VALUES);
    values.set(tally.slice(0, TALLY_VALUES));
    return [values];
  }
}

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
  /** By the name of a service, whose number another one may get. */
  private readonly all = new Map<string, Counted>();
  /** Of the process, by keys that its owner knows. */
  totals: Readonly<Record<string, number>> = {};

  /** Replaces what was counted for a service. */
  set(service: string, counted: Counted): void {
    this.all.set(service, counted);
  }

  /** Numbers to be added to the sum of all services, also of those that are gone. */
  sum(): Float64Array[] {
    return [...this.all.values()].map(({ counters }) => valuesOf(counters));
  }

  /** Numbers to be added to the counters of a service. */
  counters(service: string | undefined): Float64Array[] {
    const found = this.of(service);
    return found === undefined ? [] : [valuesOf(found.counters)];
  }

  /** Numbers to be added to the tally of a service. */
  tally(service: string | undefined): Float64Array[] {
    const { tally = [] } = this.of(service) ?? {};
    if (tally.length === 0) return [];
    // Another release may have more places, or fewer.
    const values = new Float64Array(TALLY_VALUES);
    values.set(tally.slice(0, TALLY_VALUES));
    return [values];
  }

  private of(service: string | undefined): Counted | undefined {
    return service === undefined ? undefined : this.all.get(service);
  }
}

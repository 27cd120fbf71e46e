/**
 * What the services of the kernel path have counted: now, before they were described otherwise or
 * removed, and in a process that has handed over to this one. Sums do not become less.
 */

import { COUNTER_VALUES, Counter, gauges, sumOf, valuesOf } from "../../workers/counters.ts";
import type { Counted } from "../../workers/inherited-counts.ts";
import { TALLY_VALUES } from "../../workers/tally.ts";
import { UPSTREAM_COUNTER_VALUES, UpstreamCounter } from "../../workers/upstream-board.ts";
import type { FlowWatch } from "./flow-watch.ts";

type Watch = Pick<FlowWatch, "figures" | "tally" | "slotOf">;

interface Counts {
  readonly counters: Float64Array;
  readonly tally: Float64Array;
}

export class CarriedCounts {
  /** By the name of a service: of watches that are closed, and of another process. */
  private readonly ended = new Map<string, Counts>();
  private readonly inherited = new Map<string, Counts>();
  /** The same of upstreams, by their slots on the board. */
  private readonly upstreams = new Map<number, Float64Array>();

  /** A service is watched no more. */
  retire(name: string, watch: Watch): void {
    const { counters } = watch.figures();
    const own = { counters: withoutGauges(counters), tally: watch.tally };
    const known = this.ended.get(name);
    this.ended.set(name, known === undefined ? own : sum([known, own]));
    for (const [slot, values] of slotsOf([watch])) {
      const before = this.upstreams.get(slot) ?? new Float64Array(UPSTREAM_COUNTER_VALUES);
      const total = sumOf(UPSTREAM_COUNTER_VALUES, [before, values]);
      for (const gauge of upstreamGauges) total[gauge] = 0;
      this.upstreams.set(slot, total);
    }
  }

  /** What another process has counted of a service up to now. */
  inherit(name: string, { counters, tally }: Counted): void {
    const ends = new Float64Array(TALLY_VALUES);
    // Another release may have other places.
    if (tally.length === TALLY_VALUES) ends.set(tally);
    this.inherited.set(name, { counters: valuesOf(counters), tally: ends });
  }

  /** What a service has counted in all. */
  of(name: string, watch: Watch | undefined): Counts {
    const now = watch && { counters: watch.figures().counters, tally: watch.tally };
    const all = [this.ended.get(name), this.inherited.get(name), now];
    return sum(all.filter((each) => each !== undefined));
  }

  /** Numbers that are to be added to the sum of all services. */
  all(watches: readonly Watch[]): Float64Array[] {
    const before = [...this.ended.values(), ...this.inherited.values()];
    return [
      ...before.map(({ counters }) => counters),
      ...watches.map((watch) => watch.figures().counters),
    ];
  }

  /** By slots of the board, what was counted of the upstreams. */
  bySlot(watches: readonly Watch[]): Map<number, Float64Array> {
    const now = slotsOf(watches);
    const slots = new Set([...this.upstreams.keys(), ...now.keys()]);
    return new Map(
      [...slots].map((slot) => {
        const all = [this.upstreams.get(slot), now.get(slot)].filter((each) => each !== undefined);
        return [slot, sumOf(UPSTREAM_COUNTER_VALUES, all)];
      }),
    );
  }
}

const { open, openSessions, backsOff } = UpstreamCounter;
const upstreamGauges = [open, openSessions, backsOff];

function slotsOf(watches: readonly Watch[]): Map<number, Float64Array> {
  const found = new Map<number, Float64Array>();
  for (const watch of watches) {
    for (const [key, values] of watch.figures().upstreams) {
      const slot = watch.slotOf(key);
      if (slot === undefined) continue;
      const known = found.get(slot);
      const total = known === undefined ? values : sumOf(UPSTREAM_COUNTER_VALUES, [known, values]);
      found.set(slot, total);
    }
  }
  return found;
}

function withoutGauges(counters: Float64Array): Float64Array {
  const copy = counters.slice();
  for (const name of gauges) copy[Counter[name]] = 0;
  return copy;
}

function sum(all: readonly Counts[]): Counts {
  return {
    counters: sumOf(
      COUNTER_VALUES,
      all.map(({ counters }) => counters),
    ),
    tally: sumOf(
      TALLY_VALUES,
      all.map(({ tally }) => tally),
    ),
  };
}

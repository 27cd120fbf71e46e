/** Reads tallies for tests: only what has happened, by its words. */

import { sumOf } from "../../src/workers/counters.ts";
import {
  connectPlace,
  durationPlace,
  endPlaces,
  type HistogramPlace,
  refusedSessionPlaces,
  TALLY_VALUES,
} from "../../src/workers/tally.ts";

/** What several tallies have counted together; each has TALLY_VALUES numbers. */
export function readTallies(all: readonly Float64Array[]) {
  const sum = sumOf(TALLY_VALUES, all);
  const counted = <T extends { readonly at: number }>(places: readonly T[]) =>
    places
      .map(({ at, ...rest }) => ({ ...rest, count: sum[at] as number }))
      .filter(({ count }) => count !== 0);
  return {
    ends: counted(endPlaces),
    refusedSessions: counted(refusedSessionPlaces),
    duration: histogramIn(sum, durationPlace),
    connect: histogramIn(sum, connectPlace),
  };
}

function histogramIn(values: Float64Array, { at, bounds }: HistogramPlace) {
  const total = at + bounds.length + 1;
  return { bounds, counts: [...values.subarray(at, total)], sum: values[total] as number };
}

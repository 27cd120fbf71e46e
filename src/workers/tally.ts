/**
 * How connections and sessions ended, and how long they took, counted for each service of a Worker
 * in memory that the main thread reads: one or two additions for a connection. Pure.
 */

import {
  type EndedBy,
  type EndReason,
  endedByList,
  endReasonCodes,
  endReasonList,
} from "./end-reason.ts";

/** Upper bounds of the classes of a histogram, in seconds; one more class has no bound. */
const durationBounds = [0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200] as const;
const connectBounds = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 3, 10,
] as const;

const protocols = ["tcp", "udp"] as const;

/** Each histogram has its classes, and behind them the sum in seconds. */
const ENDS = 0;
const REFUSED = ENDS + protocols.length * endedByList.length * endReasonList.length;
const DURATION = REFUSED + endReasonList.length;
const CONNECT = DURATION + durationBounds.length + 2;
/** How many numbers a tally has. */
export const TALLY_VALUES = CONNECT + connectBounds.length + 2;

/** How many connections or sessions ended in one way. */
export interface EndCount {
  readonly protocol: "tcp" | "udp";
  readonly by: EndedBy;
  readonly reason: EndReason;
  readonly count: number;
}

/** How many took how long. */
export interface Histogram {
  /** Upper bounds in seconds, rising. */
  readonly bounds: readonly number[];
  /** By class, and behind them of all that were longer: not cumulative. */
  readonly counts: readonly number[];
  /** Of all, in seconds. */
  readonly sum: number;
}

/** A copy of a tally. */
export interface TallyCounts {
  /** Only those that have happened. Connections that were rejected are among them. */
  readonly ends: readonly EndCount[];
  /** Sessions of UDP that never began. */
  readonly refusedSessions: readonly { readonly reason: EndReason; readonly count: number }[];
  /** How long connections of TCP lasted that were not rejected. */
  readonly duration: Histogram;
  /** How long it took to connect to upstreams over TCP. */
  readonly connect: Histogram;
}

/** The tally of one service in one Worker, which alone writes it. */
export class Tally {
  private readonly values: Float64Array;

  /** `values` has TALLY_VALUES numbers. */
  constructor(values: Float64Array) {
    this.values = values;
  }

  /** A connection or session has ended. */
  ended(protocol: "tcp" | "udp", by: EndedBy, reason: EndReason): void {
    const at = endPlace(protocols.indexOf(protocol), endedByList.indexOf(by), reason);
    this.values[at] = (this.values[at] as number) + 1;
  }

  /** A session of UDP was rejected before it began. */
  refusedSession(reason: EndReason): void {
    const at = REFUSED + endReasonCodes[reason];
    this.values[at] = (this.values[at] as number) + 1;
  }

  /** A connection of TCP has lasted so long. */
  lasted(ms: number): void {
    observe(this.values, DURATION, durationBounds, ms / 1000);
  }

  /** An upstream is connected after so long. */
  connected(ms: number): void {
    observe(this.values, CONNECT, connectBounds, ms / 1000);
  }
}

/** What several tallies have counted together; each has TALLY_VALUES numbers. */
export function readTallies(all: readonly Float64Array[]): TallyCounts {
  const sum = new Float64Array(TALLY_VALUES);
  for (const values of all) {
    for (let at = 0; at < TALLY_VALUES; at++)
      sum[at] = (sum[at] as number) + (values[at] as number);
  }
  return {
    ends: endsIn(sum),
    refusedSessions: endReasonList.flatMap((reason, code) => {
      const count = sum[REFUSED + code] as number;
      return count === 0 ? [] : [{ reason, count }];
    }),
    duration: histogramIn(sum, DURATION, durationBounds),
    connect: histogramIn(sum, CONNECT, connectBounds),
  };
}

function endPlace(protocol: number, by: number, reason: EndReason): number {
  return (
    ENDS + (protocol * endedByList.length + by) * endReasonList.length + endReasonCodes[reason]
  );
}

function observe(
  values: Float64Array,
  start: number,
  bounds: readonly number[],
  seconds: number,
): void {
  let place = 0;
  while (place < bounds.length && seconds > (bounds[place] as number)) place++;
  const total = start + bounds.length + 1;
  values[start + place] = (values[start + place] as number) + 1;
  values[total] = (values[total] as number) + seconds;
}

function endsIn(values: Float64Array): EndCount[] {
  const ends: EndCount[] = [];
  for (let at = ENDS; at < REFUSED; at++) {
    const count = values[at] as number;
    if (count === 0) continue;
    const pair = Math.floor((at - ENDS) / endReasonList.length);
    ends.push({
      protocol: protocols[Math.floor(pair / endedByList.length)] as "tcp" | "udp",
      by: endedByList[pair % endedByList.length] as EndedBy,
      reason: endReasonList[(at - ENDS) % endReasonList.length] as EndReason,
      count,
    });
  }
  return ends;
}

function histogramIn(values: Float64Array, start: number, bounds: readonly number[]): Histogram {
  const counts = [...values.subarray(start, start + bounds.length + 1)];
  return { bounds, counts, sum: values[start + bounds.length + 1] as number };
}

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
const DROPPED = CONNECT + connectBounds.length + 2;

/** Why datagrams are dropped, in the order of their places: words that programs compare. */
const dropReasons = [
  /** Their session was rejected. */
  "refused",
  /** The kernel has not named where they were sent to. */
  "no-destination",
  "hop-limit",
  /** Their sender may not speak the PROXY protocol, or does not. */
  "proxy-sender",
  "proxy-header",
  /** An answer cannot leave in the name of the original destination. */
  "unanswerable",
  /** The kernel has refused to send them. */
  "send-failed",
] as const;

export type DropReason = (typeof dropReasons)[number];

/** How many numbers a tally has. */
export const TALLY_VALUES = DROPPED + dropReasons.length;

/** Where one kind of end is counted in a tally. Connections that were rejected are among them. */
export interface EndPlace {
  readonly at: number;
  readonly protocol: "tcp" | "udp";
  readonly by: EndedBy;
  readonly reason: EndReason;
}

/** All kinds of ends, in the order of their places. */
export const endPlaces: readonly EndPlace[] = protocols.flatMap((protocol, i) =>
  endedByList.flatMap((by, j) =>
    endReasonList.map((reason) => ({ at: endPlace(i, j, reason), protocol, by, reason })),
  ),
);

/** Where sessions of UDP are counted that never began. */
export const refusedSessionPlaces: readonly Pick<EndPlace, "at" | "reason">[] = endReasonList.map(
  (reason, code) => ({ at: REFUSED + code, reason }),
);

/** Where datagrams are counted that were dropped. */
export const dropPlaces = dropReasons.map((reason, place) => ({ at: DROPPED + place, reason }));

/** Where a histogram is in a tally. */
export interface HistogramPlace {
  /** The counts by class begin here: not cumulative; behind them is the sum in seconds. */
  readonly at: number;
  /** Upper bounds in seconds, rising; one more class is without a bound. */
  readonly bounds: readonly number[];
}

/** How long connections of TCP lasted that were not rejected. */
export const durationPlace: HistogramPlace = { at: DURATION, bounds: durationBounds };
/** How long it took to connect to upstreams over TCP. */
export const connectPlace: HistogramPlace = { at: CONNECT, bounds: connectBounds };

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

  /** Datagrams were dropped. */
  dropped(reason: DropReason, datagrams: number): void {
    const at = DROPPED + dropReasons.indexOf(reason);
    this.values[at] = (this.values[at] as number) + datagrams;
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

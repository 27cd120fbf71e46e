/** The last five minutes in figures, so that a page that has just been opened has a past. */

import type { Counters } from "../../workers/counters.ts";

/** One sample a second. */
export const sampleMs = 1_000;
const samplesMax = 300;

/** The figures of one second: `[time, new, from clients, to clients, open]`. */
export type Sample = readonly [
  /** In ms since 1970. */
  time: number,
  /** New connections and sessions in a second. */
  begun: number,
  /** Bytes in a second. */
  fromClients: number,
  toClients: number,
  /** Open connections and sessions. */
  open: number,
];

/** The counters that are sampled. */
export type Counted = Pick<
  Counters,
  "accepted" | "active" | "sessions" | "activeSessions" | "clientBytes" | "upstreamBytes"
>;

/** A ring of samples. Pure: the time is handed in, in ms since 1970. */
export class History {
  private readonly ring: Sample[] = [];
  private before: { readonly time: number; readonly counters: Counted } | undefined;

  /** Adds what was counted since the last time. */
  push(time: number, counters: Counted): void {
    const { before } = this;
    this.before = { time, counters: { ...counters } };
    if (before === undefined || time <= before.time) return;
    const seconds = (time - before.time) / 1000;
    const rate = (name: keyof Counted) =>
      Math.max(0, counters[name] - before.counters[name]) / seconds;
    const open = counters.active + counters.activeSessions;
    const begun = rate("accepted") + rate("sessions");
    this.ring.push([time, begun, rate("clientBytes"), rate("upstreamBytes"), open]);
    if (this.ring.length > samplesMax) this.ring.shift();
  }

  /** The samples, the oldest first. */
  get samples(): readonly Sample[] {
    return this.ring;
  }
}

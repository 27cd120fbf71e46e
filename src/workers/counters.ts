/**
 * What the main thread and one Worker share: two 32-bit cells, the Worker's counters, and a map of
 * its open descriptors. The main thread reads them at any time without asking; both write the
 * cells, and the Worker alone writes the rest.
 */

import { descriptorsMax } from "../engine/limits.ts";

const CELLS = 2;
/** Batches that are not yet printed, and STOP: one cell, so that waiting for it misses neither. */
const PROGRESS = 0;
const STOP = 1 << 30;

/** What a Worker counts. One writer each, read by the main thread; doubles do not tear. */
export const Counter = {
  accepted: 0,
  active: 1,
  /** From clients, and to them. */
  clientBytes: 2,
  upstreamBytes: 3,
  datagrams: 4,
  failed: 5,
  upstreamFailures: 6,
  upstreamRests: 7,
  /** As many connections as may be, or no descriptors or memory for another. */
  atMaximum: 8,
  acceptFailures: 9,
  /** Pipes there are, and times that there was none to be had. */
  pipes: 10,
  pipesRefused: 11,
  sessions: 12,
  activeSessions: 13,
  expiredSessions: 14,
  evictedSessions: 15,
  refusedSessions: 16,
  failedSessions: 17,
  droppedDatagrams: 18,
  /** Connections and sessions that were our own ones, come back. */
  loops: 19,
  /** Lines of the log that were dropped: standard output took them too slowly. */
  lostLines: 20,
  /** Rejected for a limit of the client or lack of room, and evicted for others. */
  refusedConnections: 21,
  evictedConnections: 22,
  /** Sessions that have ended without an answer. */
  unansweredSessions: 23,
  /** Ended because TCP's memory was nearly used up and their readers had stalled. */
  stalledConnections: 24,
} as const;
export type CounterName = keyof typeof Counter;
export type Counters = Record<CounterName, number>;

const counterNames = Object.keys(Counter) as CounterName[];
/** What says how much there is now, not how much there has been. */
const gauges: readonly CounterName[] = ["active", "pipes", "activeSessions"];

const OPEN_FDS = CELLS * 4 + counterNames.length * 8;

export class SharedState {
  readonly memory: SharedArrayBuffer;
  /** By number: 1 for each descriptor that the Worker has made and not closed (`keepOpenFds`). */
  readonly descriptors: Uint8Array;
  private readonly cells: Int32Array;
  private readonly counters: Float64Array;

  /** Makes the state, or attaches to the `memory` that another thread made. */
  constructor(memory?: SharedArrayBuffer) {
    // Of the open-descriptor map only the pages that are written to become resident.
    this.memory = memory ?? new SharedArrayBuffer(OPEN_FDS + descriptorsMax);
    this.cells = new Int32Array(this.memory, 0, CELLS);
    this.counters = new Float64Array(this.memory, CELLS * 4, counterNames.length);
    this.descriptors = new Uint8Array(this.memory, OPEN_FDS, descriptorsMax);
  }

  /** Main thread: the Worker shall end. Follow it with a signal on the Worker's eventfd. */
  requestStop(): void {
    Atomics.or(this.cells, PROGRESS, STOP);
    Atomics.notify(this.cells, PROGRESS);
  }

  /** Worker: whether it shall end. */
  get stopping(): boolean {
    return (Atomics.load(this.cells, PROGRESS) & STOP) !== 0;
  }

  /** Batches that were sent and are not yet printed. */
  get outstanding(): number {
    return Atomics.load(this.cells, PROGRESS) & ~STOP;
  }

  /** Worker: a batch is about to be posted. Counted first: it may be printed before we go on. */
  sendBatch(): void {
    Atomics.add(this.cells, PROGRESS, 1);
  }

  /**
   * Worker: sleeps while `limit` batches are not yet printed, where no line may be lost: a slow
   * reader of standard output slows the traffic. A Worker that shall end does not wait.
   */
  awaitPrinted(limit: number): void {
    let progress = Atomics.load(this.cells, PROGRESS);
    // With STOP in the same cell a stop between this look and the sleep changes what is slept on.
    while (progress >= limit && (progress & STOP) === 0) {
      Atomics.wait(this.cells, PROGRESS, progress);
      progress = Atomics.load(this.cells, PROGRESS);
    }
  }

  /** Main thread: a batch has been printed. */
  batchPrinted(): void {
    Atomics.sub(this.cells, PROGRESS, 1);
    Atomics.notify(this.cells, PROGRESS);
  }

  /** Worker: adds to one of its counters. */
  count(counter: (typeof Counter)[CounterName], amount: number): void {
    this.counters[counter] = (this.counters[counter] as number) + amount;
  }

  /** A copy of all counters, from any thread. */
  snapshot(): Counters {
    const counters = {} as Counters;
    for (const name of counterNames) counters[name] = this.counters[Counter[name]] as number;
    return counters;
  }

  /** State for the Worker that takes the place of this one: it goes on counting, owning nothing. */
  successor(): SharedState {
    const next = new SharedState();
    next.counters.set(this.counters);
    for (const name of gauges) next.counters[Counter[name]] = 0;
    return next;
  }
}

/** The sum of what several Workers have counted. */
export function sumCounters(all: readonly Counters[]): Counters {
  const total = Object.fromEntries(counterNames.map((name) => [name, 0])) as Counters;
  for (const counters of all) for (const name of counterNames) total[name] += counters[name];
  return total;
}

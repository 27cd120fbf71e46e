/**
 * The facts about upstreams that all threads share: a memory with a slot for each address of each
 * upstream of each pool. The main thread writes states, weights and the starts of slow starts;
 * Workers read them when they pick. Each Worker writes counters in a row of its own, and the Worker
 * that checks upstreams writes the results of checks. Each cell has one writer. A number of 64 bits
 * does not tear, and a Worker that reads a state one pick late does no harm: so nothing is atomic
 * but the version, which the main thread raises after each change.
 */

import { upstreamSlotsMax } from "../engine/limits.ts";

/** The obstacles between new connections and an upstream, as bits of its state. */
export const UpstreamState = {
  /** The administrator drains it: open connections go on. */
  drained: 1,
  /** The administrator has taken it down. */
  adminDown: 2,
  /** A check has found it down. */
  checkDown: 4,
} as const;

/** The bits of an upstream whose open connections may be closed. */
const DOWN = UpstreamState.adminDown | UpstreamState.checkDown;

/** The counters of one upstream in one Worker. */
export const UpstreamCounter = {
  /** Attempts to connect. */
  connects: 0,
  /** Attempts that failed, by reason. */
  refused: 1,
  timeout: 2,
  unreachable: 3,
  reset: 4,
  /** This host could not try. */
  local: 5,
  /** Connections at this moment, those on their way included. */
  open: 6,
  /** From clients, and to them. */
  clientBytes: 7,
  upstreamBytes: 8,
  sessions: 9,
  openSessions: 10,
  /** 1 while the Worker has it back off. */
  backsOff: 11,
} as const;

export type UpstreamCounterName = keyof typeof UpstreamCounter;
export type UpstreamCounters = Record<UpstreamCounterName, number>;
export type ConnectFailure = "refused" | "timeout" | "unreachable" | "reset" | "local";

const counterNames = Object.keys(UpstreamCounter) as UpstreamCounterName[];
/** The counters of what is open now; the others count what has been. */
const gauges: readonly UpstreamCounterName[] = ["open", "openSessions", "backsOff"];
const COUNTERS = counterNames.length;
/** How many counters an upstream has. */
export const UPSTREAM_COUNTER_VALUES = COUNTERS;
/** The length of a Worker's row. */
const ROW = COUNTERS * upstreamSlotsMax;

/** The fields of an upstream that the checking Worker writes. */
export interface CheckCounts {
  readonly succeeded: number;
  readonly failed: number;
  /** The duration of the newest check; 0 before the first one. */
  readonly lastMs: number;
}

/** Fields of the results of checks: as long again for those of another process. */
const CHECKS = 3;
const CHECK_FIELDS = 2 * CHECKS * upstreamSlotsMax;
/** Where those of another process begin. */
const INHERITED_CHECKS = CHECKS * upstreamSlotsMax;

/** Words of 32 bits of a slot: its state, its weight. */
const SLOT_WORDS = 2;
const HEADER_WORDS = 2;
const RAMPS = (HEADER_WORDS + SLOT_WORDS * upstreamSlotsMax) * 4;
const CHECK_COUNTS = RAMPS + upstreamSlotsMax * 8;
const ROWS = CHECK_COUNTS + CHECK_FIELDS * 8;
/** Rows behind those of the Workers: of what the kernel carries, and of another process. */
const OTHER_ROWS = 2;

export class UpstreamBoard {
  /**
   * The memory of a board for so many Workers, with a row for what the kernel carries, and one for
   * what another process has counted. Pages that nobody writes cost nothing.
   */
  static memory(workers: number): SharedArrayBuffer {
    return new SharedArrayBuffer(ROWS + (workers + OTHER_ROWS) * ROW * 8);
  }

  readonly memory: SharedArrayBuffer;
  private readonly words: Int32Array;
  private readonly ramps: Float64Array;
  private readonly checks: Float64Array;
  private readonly rows: Float64Array;
  /** Where the row of this Worker begins. */
  private readonly row: number;

  /** Attaches to a memory; `row` is that of this Worker, from 0. */
  constructor(memory: SharedArrayBuffer, row = 0) {
    this.memory = memory;
    this.words = new Int32Array(memory, 0, HEADER_WORDS + SLOT_WORDS * upstreamSlotsMax);
    this.ramps = new Float64Array(memory, RAMPS, upstreamSlotsMax);
    this.checks = new Float64Array(memory, CHECK_COUNTS, CHECK_FIELDS);
    this.rows = new Float64Array(memory, ROWS);
    this.row = row * ROW;
  }

  /** Another number after each change of states and weights. */
  get version(): number {
    return this.words[0] as number;
  }

  /** Bits of `UpstreamState`; 0: nothing keeps new connections from it. */
  state(slot: number): number {
    return this.words[HEADER_WORDS + SLOT_WORDS * slot] as number;
  }

  /** Whether checks have found it down, as a state that has no other bit. */
  checkState(slot: number): number {
    return this.state(slot) & UpstreamState.checkDown;
  }

  weight(slot: number): number {
    return this.words[HEADER_WORDS + SLOT_WORDS * slot + 1] as number;
  }

  /** When its slow start began, by the clock of this thread; -Infinity: it has none. */
  rampFrom(slot: number): number {
    const from = this.ramps[slot] as number;
    return from === 0 ? Number.NEGATIVE_INFINITY : from - performance.timeOrigin;
  }

  /** Main thread: gives a slot to an upstream whose counters begin at 0. */
  reset(slot: number): void {
    this.words.fill(0, HEADER_WORDS + SLOT_WORDS * slot, HEADER_WORDS + SLOT_WORDS * (slot + 1));
    this.ramps[slot] = 0;
    for (const from of [0, INHERITED_CHECKS]) {
      this.checks.fill(0, from + CHECKS * slot, from + CHECKS * (slot + 1));
    }
    for (let at = COUNTERS * slot; at < this.rows.length; at += ROW) {
      this.rows.fill(0, at, at + COUNTERS);
    }
  }

  /** Main thread: writes the state and the weight of a slot. */
  set(slot: number, state: number, weight: number): void {
    this.words[HEADER_WORDS + SLOT_WORDS * slot] = state;
    this.words[HEADER_WORDS + SLOT_WORDS * slot + 1] = weight;
    Atomics.add(this.words, 0, 1);
  }

  /** Main thread: its share rises from now on. */
  ramp(slot: number): void {
    this.ramps[slot] = performance.timeOrigin + performance.now();
    Atomics.add(this.words, 0, 1);
  }

  /** Worker: adds to a counter. */
  count(slot: number, counter: number, amount: number): void {
    const at = this.row + COUNTERS * slot + counter;
    this.rows[at] = (this.rows[at] as number) + amount;
  }

  /** The sum of one counter of all Workers, from any thread. */
  sum(slot: number, counter: number): number {
    const { rows } = this;
    let sum = 0;
    for (let at = COUNTERS * slot + counter; at < rows.length; at += ROW) sum += rows[at] as number;
    return sum;
  }

  /** The sum of what all Workers have counted, from any thread. */
  counters(slot: number): UpstreamCounters {
    const sum = new Float64Array(COUNTERS);
    for (let at = COUNTERS * slot; at < this.rows.length; at += ROW) {
      for (let i = 0; i < COUNTERS; i++) {
        sum[i] = (sum[i] as number) + (this.rows[at + i] as number);
      }
    }
    const counters = {} as UpstreamCounters;
    for (const name of counterNames) counters[name] = sum[UpstreamCounter[name]] as number;
    return counters;
  }

  /** Main thread: replaces what another process, which this one takes over from, has counted. */
  inherit(slot: number, counters: Readonly<Record<string, number>>, checks: CheckCounts): void {
    const from = (this.workers + 1) * ROW + COUNTERS * slot;
    for (const name of counterNames) {
      // Workers of this process begin without a back-off of the other one's.
      const count = name === "backsOff" ? 0 : (counters[name] ?? 0);
      this.rows[from + UpstreamCounter[name]] = count;
    }
    const { succeeded, failed, lastMs } = checks;
    this.checks.set([succeeded, failed, lastMs], INHERITED_CHECKS + CHECKS * slot);
  }

  /** Main thread: the other process has ended, and has nothing open any more. */
  otherEnded(): void {
    this.clearGauges(this.workers + 1);
  }

  /** How many Workers have a row. */
  get workers(): number {
    return this.rows.length / ROW - OTHER_ROWS;
  }

  /** Main thread: what the kernel has carried to an upstream, by `UpstreamCounter`. */
  carried(slot: number, values: Float64Array): void {
    this.rows.set(values, this.workers * ROW + COUNTERS * slot);
  }

  /** Main thread: the Worker of a row has died, and nothing of it is open. */
  workerDied(row: number): void {
    this.clearGauges(row);
  }

  private clearGauges(row: number): void {
    const from = row * ROW;
    for (let slot = 0; slot < upstreamSlotsMax; slot++) {
      for (const name of gauges) this.rows[from + COUNTERS * slot + UpstreamCounter[name]] = 0;
    }
  }

  /** The Worker that checks: a check has ended. */
  checked(slot: number, succeeded: boolean, ms: number): void {
    const at = CHECKS * slot + (succeeded ? 0 : 1);
    this.checks[at] = (this.checks[at] as number) + 1;
    this.checks[CHECKS * slot + 2] = ms;
  }

  /** The checks of this process and of the one before it. */
  checkCounts(slot: number): CheckCounts {
    const own = this.checks.subarray(CHECKS * slot);
    const before = this.checks.subarray(INHERITED_CHECKS + CHECKS * slot);
    const sum = (field: number) => (own[field] as number) + (before[field] as number);
    return { succeeded: sum(0), failed: sum(1), lastMs: own[2] || (before[2] as number) };
  }
}

/** Whether an upstream in this state is down, not only drained. */
export function isDown(state: number): boolean {
  return (state & DOWN) !== 0;
}

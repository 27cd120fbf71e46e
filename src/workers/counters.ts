/**
 * The memory that the main thread and one Worker share: 32-bit cells, a block of counters and
 * a tally for each service of the Worker, and a map of its open descriptors. The main thread reads
 * them at any time without asking; both write the cells, and the Worker alone writes the rest.
 */

import { descriptorsMax, servicesMax } from "../engine/limits.ts";
import { type DropReason, TALLY_VALUES, Tally } from "./tally.ts";
import { TURN_CELLS, TurnTimes } from "./turn-times.ts";

const CELLS = 8;
/** Batches that are not yet printed, and STOP: one cell, so that waiting for it misses neither. */
const PROGRESS = 0;
const STOP = 1 << 30;
/** Odd while counts move from one block to another: a sum taken then would have them twice. */
const MOVES = 1;
/** How often a turn of the Worker was asked for, and the last of those that it has passed. */
const TURNS_ASKED = 2;
const TURNS_PASSED = 3;
/** The highest number of a block that was ever used: behind it all counts are 0. */
const LAST_BLOCK = 4;
/** Those of `TurnTimes`. */
const TURN_TIMES = 5;

/** The counters of a Worker: one writer each, read by the main thread; doubles do not tear. */
export const Counter = {
  accepted: 0,
  active: 1,
  /** From clients, and to them. */
  clientBytes: 2,
  upstreamBytes: 3,
  datagrams: 4,
  failed: 5,
  upstreamFailures: 6,
  upstreamBackOffs: 7,
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
  /** The part of `datagrams` that clients have sent, and upstreams: of `forward`. */
  clientDatagrams: 25,
  upstreamDatagrams: 26,
  /** The part of `active` that waits for a PROXY header, or for a place. */
  headerConnections: 27,
  queuedConnections: 28,
  /** The part of it that relays, and of that one the part of which a side has ended. */
  relayingConnections: 29,
  halfClosedConnections: 30,
} as const;
export type CounterName = keyof typeof Counter;
export type Counters = Record<CounterName, number>;

const counterNames = Object.keys(Counter) as CounterName[];
/** The counters of what is open now; the others count what has been. */
export const gauges: readonly CounterName[] = [
  ...(["active", "pipes", "activeSessions", "headerConnections"] as const),
  ...(["queuedConnections", "relayingConnections", "halfClosedConnections"] as const),
];

const BLOCK_BYTES = counterNames.length * 8;
/** Block 0 has what belongs to no service, and what removed services have counted. */
const BLOCKS = servicesMax + 1;
const TALLIES = CELLS * 4 + BLOCKS * BLOCK_BYTES;
const OPEN_FDS = TALLIES + BLOCKS * TALLY_VALUES * 8;

/** The counters of one service in one Worker, or of the Worker itself. */
export class CounterBlock {
  readonly tally: Tally;
  private readonly values: Float64Array;

  constructor(values: Float64Array, tally: Tally) {
    this.values = values;
    this.tally = tally;
  }

  /** Worker: adds to a counter. */
  count(counter: (typeof Counter)[CounterName], amount: number): void {
    this.values[counter] = (this.values[counter] as number) + amount;
  }

  /** Worker: datagrams of UDP were dropped. */
  dropped(reason: DropReason, datagrams: number): void {
    this.count(Counter.droppedDatagrams, datagrams);
    this.tally.dropped(reason, datagrams);
  }
}

export class SharedState {
  readonly memory: SharedArrayBuffer;
  /** By number: 1 for each descriptor that the Worker has made and not closed (`keepOpenFds`). */
  readonly descriptors: Uint8Array;
  private readonly cells: Int32Array;
  /** Of all blocks, one behind the other. */
  private readonly counters: Float64Array;
  /** The same of tallies. */
  private readonly tallies: Float64Array;
  /** By service: to make a view of shared memory takes as long as a hundred additions. */
  private readonly views: Float64Array[] = [];
  private readonly tallyViews: Float64Array[] = [];
  private readonly own: CounterBlock;

  /** Makes the state, or attaches to the `memory` that another thread made. */
  constructor(memory?: SharedArrayBuffer) {
    // Of it only the pages that are written to become resident.
    this.memory = memory ?? new SharedArrayBuffer(OPEN_FDS + descriptorsMax);
    this.cells = new Int32Array(this.memory, 0, CELLS);
    this.counters = new Float64Array(this.memory, CELLS * 4, BLOCKS * counterNames.length);
    this.tallies = new Float64Array(this.memory, TALLIES, BLOCKS * TALLY_VALUES);
    this.own = this.block(0);
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

  /** Main thread: the Worker shall pass a turn. Follow it with a signal on its eventfd. */
  askForTurn(): void {
    Atomics.add(this.cells, TURNS_ASKED, 1);
  }

  /** Worker: the last turn that was asked for. To be read before it looks for commands. */
  get askedTurn(): number {
    return Atomics.load(this.cells, TURNS_ASKED);
  }

  /** Worker: it has passed that turn, and carried out the commands that were sent before. */
  passTurn(turn: number): void {
    Atomics.store(this.cells, TURNS_PASSED, turn);
  }

  /** How long the Worker's turns take. */
  get turnTimes(): TurnTimes {
    return new TurnTimes(this.cells.subarray(TURN_TIMES, TURN_TIMES + TURN_CELLS));
  }

  /** Whether the Worker has passed a turn since the last one that was asked for. */
  get hasTurned(): boolean {
    return Atomics.load(this.cells, TURNS_PASSED) === Atomics.load(this.cells, TURNS_ASKED);
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

  /** The counters of service number `id`, from 1 to `servicesMax`. */
  block(id: number): CounterBlock {
    if (id > (this.cells[LAST_BLOCK] as number)) this.cells[LAST_BLOCK] = id;
    return new CounterBlock(this.values(id), new Tally(this.tallyOf(id)));
  }

  /** Worker: adds to a counter of its own, which is no service's. */
  count(counter: (typeof Counter)[CounterName], amount: number): void {
    this.own.count(counter, amount);
  }

  /** Worker: service number `id` is gone. Its counts stay in the sum, and its block is free. */
  retire(id: number): void {
    const { cells } = this;
    Atomics.add(cells, MOVES, 1);
    move(this.values(id), this.values(0));
    move(this.tallyOf(id), this.tallyOf(0));
    Atomics.add(cells, MOVES, 1);
  }

  /** A copy of the counters of one service, or the sum of all, from any thread. */
  snapshot(id?: number): Counters {
    return countersIn(this.read(id));
  }

  /** The same as numbers, for `sumValues`: those of one service are no copy. */
  read(id?: number): Float64Array {
    if (id !== undefined) return this.values(id);
    // A Worker moves counts now and then, in less than a microsecond.
    for (let attempt = 0; ; attempt++) {
      const moves = Atomics.load(this.cells, MOVES);
      const sum = this.sum();
      const isWhole = moves % 2 === 0 && Atomics.load(this.cells, MOVES) === moves;
      if (isWhole || attempt === snapshotAttemptsMax) return sum;
    }
  }

  /** How what service number `id` carried has ended, by the places of `tally.ts`: no copy. */
  tallyOf(id: number): Float64Array {
    this.tallyViews[id] ??= this.tallies.subarray(id * TALLY_VALUES, (id + 1) * TALLY_VALUES);
    return this.tallyViews[id] as Float64Array;
  }

  private sum(): Float64Array {
    const { counters } = this;
    const count = counterNames.length;
    const sum = counters.slice(0, count);
    const end = count * (1 + (this.cells[LAST_BLOCK] as number));
    for (let at = count; at < end; at++) {
      sum[at % count] = (sum[at % count] as number) + (counters[at] as number);
    }
    return sum;
  }

  private values(id: number): Float64Array {
    const count = counterNames.length;
    this.views[id] ??= this.counters.subarray(id * count, (id + 1) * count);
    return this.views[id] as Float64Array;
  }

  /** State for the Worker that takes the place of this one: it goes on counting, owning nothing. */
  successor(): SharedState {
    const next = new SharedState();
    for (let id = 0; id <= (this.cells[LAST_BLOCK] as number); id++) {
      next.block(id);
      const values = next.values(id);
      copy(this.values(id), values);
      copy(this.tallyOf(id), next.tallyOf(id));
      for (const name of gauges) if (values[Counter[name]] !== 0) values[Counter[name]] = 0;
    }
    return next;
  }
}

/** After so many a Worker has died in the middle, or is not run: what there is has to do. */
const snapshotAttemptsMax = 1_000;

/** Pages of blocks that nobody uses stay untouched. */
function copy(from: Float64Array, to: Float64Array): void {
  for (const [at, value] of from.entries()) if (value !== 0) to[at] = value;
}

/** Adds the numbers of one block to those of another, and clears them. */
function move(from: Float64Array, to: Float64Array): void {
  for (const [at, value] of from.entries()) if (value !== 0) to[at] = (to[at] as number) + value;
  from.fill(0);
}

const noCounters = Object.fromEntries(counterNames.map((name) => [name, 0])) as Counters;

function countersIn(values: Float64Array): Counters {
  const counters = { ...noCounters };
  for (const name of counterNames) counters[name] = values[Counter[name]] as number;
  return counters;
}

/** The sum of what several Workers have counted, each in as many numbers as there are counters. */
export function sumValues(all: readonly Float64Array[]): Counters {
  return countersIn(sumOf(counterNames.length, all));
}

/** The sums of several lists of `length` numbers, place by place. */
export function sumOf(length: number, all: readonly Float64Array[]): Float64Array {
  const total = new Float64Array(length);
  for (const values of all) {
    for (let at = 0; at < length; at++) {
      total[at] = (total[at] as number) + (values[at] as number);
    }
  }
  return total;
}

/** How many counters there are. */
export const COUNTER_VALUES = counterNames.length;

/** Counters as such numbers, 0 for what another release does not count. */
export function valuesOf(counters: Readonly<Partial<Counters>>): Float64Array {
  return Float64Array.from(counterNames, (name) => counters[name] ?? 0);
}

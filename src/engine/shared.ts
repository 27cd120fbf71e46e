/**
 * What the main thread and one Worker share: a few 32-bit cells and the Worker's counters. The
 * main thread reads them at any time without asking; only the cells below are written by both.
 */

const CELLS = 4;
const STOP = 0;
const OUTSTANDING = 1;

/** What a Worker counts. One writer each, read by the main thread; doubles do not tear. */
export const Counter = {
  accepted: 0,
  active: 1,
  received: 2,
  sent: 3,
  datagrams: 4,
  failed: 5,
  upstreamFailures: 6,
  upstreamRests: 7,
} as const;
export type CounterName = keyof typeof Counter;
export type Counters = Record<CounterName, number>;

const counterNames = Object.keys(Counter) as CounterName[];

export class SharedState {
  readonly memory: SharedArrayBuffer;
  private readonly cells: Int32Array;
  private readonly counters: Float64Array;

  /** Makes the state, or attaches to the `memory` that another thread made. */
  constructor(memory?: SharedArrayBuffer) {
    this.memory = memory ?? new SharedArrayBuffer(CELLS * 4 + counterNames.length * 8);
    this.cells = new Int32Array(this.memory, 0, CELLS);
    this.counters = new Float64Array(this.memory, CELLS * 4, counterNames.length);
  }

  /** Main thread: the Worker shall end. Follow it with a signal on the Worker's eventfd. */
  requestStop(): void {
    Atomics.store(this.cells, STOP, 1);
    Atomics.notify(this.cells, OUTSTANDING);
  }

  /** Worker: whether it shall end. */
  get stopping(): boolean {
    return Atomics.load(this.cells, STOP) === 1;
  }

  /**
   * Worker: counts a batch as sent, and sleeps while `limit` of them are not yet printed. So a
   * slow reader of standard output slows the traffic, and memory stays bounded.
   */
  batchSent(limit: number): void {
    let outstanding = Atomics.add(this.cells, OUTSTANDING, 1) + 1;
    while (outstanding >= limit && !this.stopping) {
      Atomics.wait(this.cells, OUTSTANDING, outstanding);
      outstanding = Atomics.load(this.cells, OUTSTANDING);
    }
  }

  /** Main thread: a batch has been printed. */
  batchPrinted(): void {
    Atomics.sub(this.cells, OUTSTANDING, 1);
    Atomics.notify(this.cells, OUTSTANDING);
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
}

/**
 * The longest turn of a Worker's loop in the last minutes, in memory that the main thread reads. A
 * turn delays everything that the Worker carries. One writer; the reader may be a turn late. Pure.
 */

/** How many cells of 32 bits it takes. */
export const TURN_CELLS = 3;

/** The number of the minute, its longest turn, and that of the minute before, in microseconds. */
const [WINDOW, LONGEST, BEFORE] = [0, 1, 2];

/** A scrape each minute, or more often, sees every long turn. */
const windowMs = 60_000;

export class TurnTimes {
  private readonly cells: Int32Array;
  /** When this window ends, on the clock of this thread, and its longest turn so far. */
  private windowEnd = Number.NEGATIVE_INFINITY;
  private longest = 0;

  /** `cells` are TURN_CELLS. */
  constructor(cells: Int32Array) {
    this.cells = cells;
  }

  /** Worker: a turn took `ms`, and ended at `end` by `performance.now()`. */
  note(ms: number, end: number): void {
    if (end >= this.windowEnd) this.turnOver(end);
    if (ms <= this.longest) return;
    this.longest = ms;
    this.cells[LONGEST] = Math.min(Math.ceil(ms * 1000), 0x7fffffff);
  }

  /** The longest turn, in ms, of this minute and the one before; `now` as `performance.now()`. */
  longestMs(now: number): number {
    const { cells } = this;
    const age = windowOf(now) - (cells[WINDOW] as number);
    const longest = cells[LONGEST] as number;
    if (age === 0) return Math.max(longest, cells[BEFORE] as number) / 1000;
    // A Worker without a turn meanwhile has not begun a new window.
    return age === 1 ? longest / 1000 : 0;
  }

  private turnOver(end: number): void {
    const { cells } = this;
    const window = windowOf(end);
    cells[BEFORE] = (cells[WINDOW] as number) === window - 1 ? (cells[LONGEST] as number) : 0;
    cells[LONGEST] = 0;
    cells[WINDOW] = window;
    this.longest = 0;
    this.windowEnd = (window + 1) * windowMs - performance.timeOrigin;
  }
}

/** The same number in all threads at the same time. */
function windowOf(now: number): number {
  return Math.floor((performance.timeOrigin + now) / windowMs);
}

/**
 * Moves open connections and sessions from the Workers of this process to another one, in batches:
 * frozen here, sent, taken over there, given up here, and only then served there. What the other
 * process refuses, or has not taken over when it ends, goes on here. So at any time at most one
 * process serves each.
 */

import type { Scheme } from "../../net/target.ts";
import type { FrozenRows, Packed } from "../../workers/moved.ts";

/** The Workers of this process; each of them is named by its place. */
export interface MovingWorkers {
  readonly count: number;
  /** Undefined: it is gone. */
  freeze(
    worker: number,
    protocol: Scheme,
    most: number,
    isFirst: boolean,
  ): Promise<FrozenRows | undefined>;
  settle(worker: number, left: readonly number[], kept: readonly number[]): void;
}

/** The other process. */
export interface MoveTarget {
  /** Sends a batch, which `Mover.adopted` is called for. */
  send(batch: number, rows: readonly Packed[], descriptors: readonly number[]): void;
  /** It may go on with what it has taken over of a batch. */
  begin(batch: number): void;
}

/** Those of a batch that stay here: the places in it, or all. */
type Refused = readonly number[] | "all";

/** So many have an edge for each socket in one turn of the loop that takes them over. */
const batchRows = 256;

export class Mover {
  private readonly workers: MovingWorkers;
  private readonly target: MoveTarget;
  /** By the number of the batch. */
  private readonly sent = new Map<number, (refused: Refused) => void>();
  private batches = 0;
  /** How many the other process has taken over. */
  moved = 0;
  private isOver = false;

  constructor(workers: MovingWorkers, target: MoveTarget) {
    this.workers = workers;
    this.target = target;
  }

  /** Moves all that can be moved now; settles once each is either there or goes on here. */
  async move(protocol: Scheme): Promise<void> {
    const workers = Array.from({ length: this.workers.count }, (_, worker) => worker);
    await Promise.all(workers.map((worker) => this.moveFrom(worker, protocol)));
  }

  /** The other process has these but for the places in `refused`. */
  adopted(batch: number, refused: readonly number[]): void {
    this.answer(batch, refused);
  }

  /** The other process is gone: what it has not taken over goes on here. */
  end(): void {
    this.isOver = true;
    for (const batch of [...this.sent.keys()]) this.answer(batch, "all");
  }

  private answer(batch: number, refused: Refused): void {
    const settle = this.sent.get(batch);
    this.sent.delete(batch);
    settle?.(refused);
  }

  /** While one batch is on its way the next one is frozen. */
  private async moveFrom(worker: number, protocol: Scheme): Promise<void> {
    let before = Promise.resolve();
    for (let isFirst = true; !this.isOver; isFirst = false) {
      const frozen = await this.workers.freeze(worker, protocol, batchRows, isFirst);
      if (frozen === undefined) break;
      const done = this.transfer(worker, frozen);
      await before;
      before = done;
      if (frozen.isLast) break;
    }
    await before;
  }

  private async transfer(
    worker: number,
    { numbers, rows, descriptors }: FrozenRows,
  ): Promise<void> {
    if (rows.length === 0) return;
    const { batch, refused: answer } = this.send(rows, descriptors);
    const refused = await answer;
    const kept = refused === "all" ? numbers : refused.map((place) => numbers[place] as number);
    const stays = new Set(kept);
    const left = numbers.filter((number) => !stays.has(number));
    this.workers.settle(worker, left, kept);
    this.moved += left.length;
    if (left.length > 0) this.target.begin(batch);
  }

  private send(
    rows: readonly Packed[],
    descriptors: readonly number[],
  ): { readonly batch: number; readonly refused: Promise<Refused> } {
    if (this.isOver) return { batch: 0, refused: Promise.resolve("all") };
    const batch = ++this.batches;
    const { promise, resolve } = Promise.withResolvers<Refused>();
    this.sent.set(batch, resolve);
    this.target.send(batch, rows, descriptors);
    return { batch, refused: promise };
  }
}

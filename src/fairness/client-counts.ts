/**
 * Counts the connections or sessions of each client at all Workers, in shared memory. Each Worker
 * writes only its own numbers, so there is no lock. The Worker that replaces a dead one begins with
 * none.
 *
 * A client has no entry of its own, but one cell in each of two rows, by keyed hashes; its number
 * is the smaller of the two. It is too large only if other clients share both cells, which nobody
 * can cause without the keys.
 */

import { PREFIX_WORDS } from "../engine/client-prefix.ts";

const ROWS = 2;
/** A power of two. */
const CELLS = 16_384;
const KEYS = ROWS * (PREFIX_WORDS + 1);

export class ClientCounts {
  private readonly keys: Uint32Array;
  /** By row, cell and Worker. */
  private readonly counts: Int32Array;
  private readonly workers: number;
  private readonly worker: number;

  /** Memory for `workers` Workers; `random` returns any 32-bit number. */
  static memory(workers: number, random: () => number): SharedArrayBuffer {
    const memory = new SharedArrayBuffer(4 * (KEYS + ROWS * CELLS * workers));
    new Uint32Array(memory, 0, KEYS).set(Array.from({ length: KEYS }, () => random() | 1));
    return memory;
  }

  /** The view of `worker`, from 0 to `workers - 1`, which has no member yet. */
  constructor(memory: SharedArrayBuffer, workers: number, worker: number) {
    this.keys = new Uint32Array(memory, 0, KEYS);
    this.counts = new Int32Array(memory, 4 * KEYS);
    this.workers = workers;
    this.worker = worker;
    for (let at = worker; at < this.counts.length; at += workers) this.counts[at] = 0;
  }

  /** The count of the client with this prefix at all Workers. */
  of(prefix: Uint32Array): number {
    let least = Number.POSITIVE_INFINITY;
    for (let row = 0; row < ROWS; row++) {
      const at = this.at(row, prefix);
      let sum = 0;
      for (let i = 0; i < this.workers; i++) sum += Atomics.load(this.counts, at + i);
      if (sum < least) least = sum;
    }
    return least;
  }

  /** Adds `change` to this Worker's count of the client. */
  change(prefix: Uint32Array, change: number): void {
    for (let row = 0; row < ROWS; row++) {
      Atomics.add(this.counts, this.at(row, prefix) + this.worker, change);
    }
  }

  private at(row: number, prefix: Uint32Array): number {
    const { keys } = this;
    const first = row * (PREFIX_WORDS + 1);
    let hash = keys[first + PREFIX_WORDS] as number;
    for (let i = 0; i < PREFIX_WORDS; i++) {
      hash = Math.imul(hash ^ (prefix[i] as number), keys[first + i] as number);
      hash ^= hash >>> 15;
    }
    return (row * CELLS + (hash & (CELLS - 1))) * this.workers;
  }
}

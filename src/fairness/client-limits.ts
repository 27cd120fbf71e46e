/** Applies the user's bounds on each client in one Worker. */

import { randomWord } from "../engine/random.ts";
import type { ClientBounds } from "../workers/protocol.ts";
import { ClientCounts } from "./client-counts.ts";
import { ClientRates } from "./client-rates.ts";

/** Bounds of one Worker that limit no client. */
export const unbounded: ClientBounds = {
  ...{ max: 0, counts: undefined, perSecond: 0, workers: 1, worker: 0 },
};

export class ClientLimits {
  private readonly max: number;
  private readonly counts: ClientCounts | undefined;
  private readonly rates: ClientRates | undefined;

  constructor({ max, counts, perSecond, workers, worker }: ClientBounds) {
    this.max = max;
    this.counts = counts && new ClientCounts(counts, workers, worker);
    // A client's connections are spread evenly over the Workers.
    if (perSecond > 0) this.rates = new ClientRates(perSecond / workers, randomWord);
  }

  /** Whether the client with this prefix may begin another one at `now` (ms); counts it if so. */
  mayBegin(prefix: Uint32Array, now: number): boolean {
    return this.rates?.take(prefix, now) ?? true;
  }

  /** Counts one more of the client at all Workers; false if the client is at its bound. */
  take(prefix: Uint32Array): boolean {
    if (this.counts === undefined) return true;
    if (this.counts.of(prefix) >= this.max) return false;
    this.counts.change(prefix, 1);
    return true;
  }

  /** Counts one that has begun in another process, whatever the bound. */
  takeMoved(prefix: Uint32Array): void {
    this.counts?.change(prefix, 1);
  }

  /** Uncounts one that has ended. */
  give(prefix: Uint32Array): void {
    this.counts?.change(prefix, -1);
  }
}

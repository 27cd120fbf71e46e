/** The bounds that a user sets for each client by itself, as one Worker heeds them. */

import { randomWord } from "../engine/random.ts";
import type { ClientBounds } from "../workers/protocol.ts";
import { ClientCounts } from "./client-counts.ts";
import { ClientRates } from "./client-rates.ts";

/** No bound of a client by itself, for one Worker. */
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

  /** Whether the client with this prefix may begin another now (ms); if so it is counted. */
  mayBegin(prefix: Uint32Array, now: number): boolean {
    return this.rates?.take(prefix, now) ?? true;
  }

  /** Counts one more of the client at all Workers; false if it has as many as it may have. */
  take(prefix: Uint32Array): boolean {
    if (this.counts === undefined) return true;
    if (this.counts.of(prefix) >= this.max) return false;
    this.counts.change(prefix, 1);
    return true;
  }

  /** One that was taken has ended. */
  give(prefix: Uint32Array): void {
    this.counts?.change(prefix, -1);
  }
}

/** What upstreams have counted, for a process that takes over: what has changed since last time. */

import type { HandedCounts } from "./handed.ts";
import type { PoolStates } from "./pool-states.ts";

export class CountReports {
  /** By slot, as text. */
  private readonly last = new Map<number, string>();

  /** The counts that have changed since the last call. */
  changed(pools: readonly PoolStates[]): HandedCounts[] {
    return pools.flatMap(({ pool, entries, board }) =>
      entries.flatMap(({ settings, addresses }) =>
        [...addresses].flatMap(([address, { slot }]): HandedCounts[] => {
          const [counters, checks] = [board.counters(slot), board.checkCounts(slot)];
          const text = JSON.stringify([counters, checks]);
          if (this.last.get(slot) === text) return [];
          this.last.set(slot, text);
          return [{ pool: pool.name, upstream: settings.name, address, counters, checks }];
        }),
      ),
    );
  }
}

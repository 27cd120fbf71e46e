/** How often Workers have died, and whether that was too often within the last seconds. */

import { workerDeathsMax, workerDeathsWindowMs } from "../engine/limits.ts";

export class Deaths {
  /** How many Workers have died. */
  count = 0;
  /** When, on the monotonic clock; the last ones only. */
  private readonly last: number[] = [];

  /** Notes a death; returns what to say of it if there have been too many. */
  add(error: string): string | undefined {
    const now = performance.now();
    this.count++;
    this.last.push(now);
    while (now - (this.last[0] as number) > workerDeathsWindowMs) this.last.shift();
    if (this.last.length <= workerDeathsMax) return undefined;
    const seconds = workerDeathsWindowMs / 1000;
    return `workers died ${this.last.length} times within ${seconds} s, the last of: ${error}`;
  }
}

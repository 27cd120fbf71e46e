/**
 * Whether an address is up, by what its checks have found. It takes several results in a row to
 * change that; while they come, checks come more often. Pure.
 */

import type { HealthCheck } from "../config/pool.ts";
import { hastyChecks } from "../engine/limits.ts";

export class HealthState {
  isUp: boolean;
  private readonly check: Pick<HealthCheck, "intervalMs" | "rise" | "fall" | "jitter">;
  /** Results in a row that speak against the state. */
  private contrary = 0;

  constructor(check: Pick<HealthCheck, "intervalMs" | "rise" | "fall" | "jitter">, isUp: boolean) {
    this.check = check;
    this.isUp = isUp;
  }

  /** Takes a result. Returns whether the state has changed. */
  note(succeeded: boolean): boolean {
    if (succeeded === this.isUp) {
      this.contrary = 0;
      return false;
    }
    this.contrary++;
    if (this.contrary < (this.isUp ? this.check.fall : this.check.rise)) return false;
    this.isUp = succeeded;
    this.contrary = 0;
    return true;
  }

  /** From one check to the next, in ms. `random` is from 0 to below 1. */
  delay(random: number): number {
    const { intervalMs, jitter } = this.check;
    const base = this.contrary > 0 ? intervalMs / hastyChecks : intervalMs;
    return base * (1 + (jitter / 100) * (2 * random - 1));
  }

  /** From the start to the first check: those of many upstreams do not come at once. */
  firstDelay(random: number): number {
    return (this.check.intervalMs / hastyChecks) * random;
  }
}

/**
 * Ends idle connections and sessions of the heaviest client sooner while nearly all places are
 * taken, so that others find a free place.
 */

import { sweepIntervalMs } from "./limits.ts";
import type { EventLoop } from "./loop.ts";
import { Timer } from "./timers.ts";

/** The holders of the places. */
export interface SweptPlaces {
  /** Whether nearly all places are taken. */
  readonly isNearlyFull: boolean;
  /** Ends what has been idle for a part of its time-out, a bounded number at once. */
  sweep(): void;
}

export class IdleSweep {
  private readonly loop: Pick<EventLoop, "now" | "timers">;
  private readonly places: SweptPlaces;
  private readonly timer = new Timer(() => this.fired());

  constructor(loop: Pick<EventLoop, "now" | "timers">, places: SweptPlaces) {
    this.loop = loop;
    this.places = places;
  }

  /** One more place is taken. */
  taken(): void {
    if (this.timer.slot < 0 && this.places.isNearlyFull) this.arm();
  }

  stop(): void {
    this.loop.timers.disarm(this.timer);
  }

  private fired(): void {
    this.places.sweep();
    if (this.places.isNearlyFull) this.arm();
  }

  private arm(): void {
    this.loop.timers.arm(this.timer, this.loop.now + sweepIntervalMs);
  }
}

/**
 * Upstreams that have never answered: of each it is told once. What answers from another port than
 * it was asked at, as TFTP does, is such a one, for the kernel gives a session nothing of that.
 * Bounded; pure.
 */

import { silentSessionsMax, silentUpstreamsMax } from "../../engine/limits.ts";

export class Unanswered {
  /** By upstream that has never answered: its sessions. */
  private readonly counts = new Map<string, number>();

  /** A session has had no answer for a while; whether that is to be told now. */
  silent(upstream: string): boolean {
    const count = this.counts.get(upstream) ?? 0;
    if (count === 0 && this.counts.size >= silentUpstreamsMax) return false;
    this.counts.set(upstream, count + 1);
    return count + 1 === silentSessionsMax;
  }

  /** It has answered. */
  answered(upstream: string): void {
    this.counts.delete(upstream);
  }

  get isEmpty(): boolean {
    return this.counts.size === 0;
  }
}

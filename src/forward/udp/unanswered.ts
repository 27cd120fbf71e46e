/**
 * Upstreams that have never answered; one warning for each. An upstream that answers from another
 * port, as TFTP does, is one of them: the kernel does not deliver such answers to a session's
 * connected socket. Bounded; pure.
 */

import { silentSessionsMax, silentUpstreamsMax } from "../../engine/limits.ts";

export class Unanswered {
  /** By upstream that has never answered: its sessions. */
  private readonly counts = new Map<string, number>();

  /** A session has had no answer for a while; returns whether to warn now. */
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

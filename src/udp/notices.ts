/** What is dropped, refused or done without: counted by reason, and said once in a while. */

import type { WorkerContext } from "../engine/context.ts";
import { noticeIntervalMs, noticesMax } from "../engine/limits.ts";
import { Timer } from "../engine/timers.ts";

export class Notices {
  private readonly context: WorkerContext;
  /** By reason: how often since it was last said. */
  private readonly counts = new Map<string, number>();
  private readonly timer = new Timer(() => this.sayAll());

  constructor(context: WorkerContext) {
    this.context = context;
  }

  /** Counts `amount` more of what `reason` says; the first is said at once, more in a summary. */
  count(reason: string, amount = 1): void {
    const before = this.counts.get(reason);
    if (before !== undefined) {
      this.counts.set(reason, before + amount);
      return;
    }
    if (this.counts.size >= noticesMax) return;
    this.context.report({ kind: "warning", text: reason });
    this.counts.set(reason, amount - 1);
    const { loop } = this.context;
    if (this.timer.slot < 0) loop.timers.arm(this.timer, loop.now + noticeIntervalMs);
  }

  /** Says what is left to say, and nothing more. */
  close(): void {
    this.context.loop.timers.disarm(this.timer);
    for (const [reason, count] of this.counts) this.say(reason, count);
    this.counts.clear();
  }

  private sayAll(): void {
    let isAny = false;
    for (const [reason, count] of this.counts) {
      this.say(reason, count);
      if (count > 0) isAny = true;
      this.counts.set(reason, 0);
    }
    // What has been quiet for so long is new when it comes again.
    if (!isAny) this.counts.clear();
    const { loop } = this.context;
    if (isAny) loop.timers.arm(this.timer, loop.now + noticeIntervalMs);
  }

  private say(reason: string, count: number): void {
    if (count > 0) this.context.report({ kind: "warning", text: `${reason} (${count} more)` });
  }
}

/** Reports everything that is open, a part in each turn of the loop, so that traffic goes on. */

import type { WorkerContext } from "./context.ts";
import { tableBatches, tablePauseMs, tableRowsPerTurn } from "./limits.ts";
import type { Recorded } from "./records.ts";
import { Timer } from "./timers.ts";

export class TableWalk {
  private readonly context: WorkerContext;
  private readonly rest: Iterator<Recorded>;
  private readonly lastId: number;
  private readonly timer = new Timer(() => this.step());
  private done = false;

  /** `open` is in the order of ids and may change; what is newer than `lastId` is left out. */
  constructor(context: WorkerContext, open: Iterable<Recorded>, lastId: number) {
    this.context = context;
    this.rest = open[Symbol.iterator]();
    this.lastId = lastId;
    this.step();
  }

  /** Everything has been reported. */
  get isDone(): boolean {
    return this.done;
  }

  private step(): void {
    const { context } = this;
    const { loop } = context;
    // A slow reader slows the table alone, for as long as the log leaves room.
    if (context.shared.outstanding >= tableBatches) {
      return loop.timers.arm(this.timer, loop.now + tablePauseMs);
    }
    for (let row = 0; row < tableRowsPerTurn; row++) {
      const { done, value } = this.rest.next();
      if (done === true || value.id > this.lastId) {
        this.done = true;
        return context.report({ kind: "tableEnd" });
      }
      context.record("open", value);
    }
    loop.defer(() => this.step());
  }
}

/** Reports everything that is open, a part in each turn of the loop, so that traffic goes on. */

import { tableBatches, tablePauseMs, tableRowsPerTurn } from "../engine/limits.ts";
import type { EventLoop } from "../engine/loop.ts";
import { Timer } from "../engine/timers.ts";
import type { WorkerEvent } from "./protocol.ts";
import type { Recorded } from "./records.ts";

/** What a service has open. */
export interface OpenRows {
  /** In the order of ids; it may change meanwhile. */
  readonly open: Iterable<Recorded>;
}

/** What a service with a name has open. */
interface NamedRows extends OpenRows {
  readonly name: string | undefined;
}

/** The Worker whose table it is. */
interface TableHost {
  readonly loop: EventLoop;
  /** Says how many batches are not yet printed. */
  readonly shared: { readonly outstanding: number };
  record(kind: "open", row: Recorded, service: string | undefined): void;
  report(event: WorkerEvent): void;
}

export class TableWalk {
  private readonly context: TableHost;
  private readonly rest: Iterator<readonly [row: Recorded, service: string | undefined]>;
  private readonly timer = new Timer(() => this.step());
  private done = false;

  /** Rows with an id above `lastId` are left out: they have begun after this moment. */
  constructor(context: TableHost, services: readonly NamedRows[], lastId: number) {
    this.context = context;
    this.rest = rowsOf(services, lastId);
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
      if (done === true) {
        this.done = true;
        return context.report({ kind: "tableEnd" });
      }
      context.record("open", ...value);
    }
    loop.defer(() => this.step());
  }
}

function* rowsOf(
  services: readonly NamedRows[],
  lastId: number,
): Generator<readonly [Recorded, string | undefined], undefined> {
  for (const { open, name } of services) {
    for (const row of open) {
      if (row.id > lastId) break;
      yield [row, name];
    }
  }
}

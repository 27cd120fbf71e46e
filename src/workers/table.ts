/** Reports everything that is open, a part in each turn of the loop, so that traffic goes on. */

import { tableBatches, tablePauseMs, tableRowsPerTurn } from "../engine/limits.ts";
import type { EventLoop } from "../engine/loop.ts";
import { Timer } from "../engine/timers.ts";
import type { Scheme } from "../net/target.ts";
import type { Frozen } from "./moved.ts";
import type { WorkerEvent } from "./protocol.ts";
import type { Measured } from "./rates.ts";
import type { Recorded } from "./records.ts";
import type { RowNames } from "./row-filter.ts";

/** A connection or session that is open. */
export type Open = Recorded & Measured;

/** The open connections and sessions of a service. */
export interface OpenRows {
  /** In the order of ids; it may change meanwhile. */
  readonly open: Iterable<Open>;
  readonly names: RowNames;
  /** Ends one of them: TCP with a reset to both sides. */
  kill(row: Open): void;
  readonly moves?: MovableRows;
}

/** Rows that may move to another process. */
export interface MovableRows {
  readonly protocol: Scheme;
  /** Undefined: it cannot move as it is now. Each one is settled by `thaw` or `leave` later. */
  freeze(row: Open): Frozen | undefined;
  /** It stays, and goes on. */
  thaw(row: Open): void;
  /** Another process has it. */
  leave(row: Open): void;
}

/** The same of a service with a name. */
interface NamedRows extends Pick<OpenRows, "open"> {
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
  private readonly rest: OpenWalk<NamedRows>;
  private readonly timer = new Timer(() => this.step());
  private done = false;

  /** Rows with an id above `lastId` are left out: they have begun after this moment. */
  constructor(context: TableHost, services: readonly NamedRows[], lastId: number) {
    this.context = context;
    this.rest = new OpenWalk(services, lastId);
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
      const open = this.rest.next();
      if (open === undefined) {
        this.done = true;
        return context.report({ kind: "tableEnd" });
      }
      context.record("open", open, this.rest.part?.name);
    }
    loop.defer(() => this.step());
  }
}

/** Goes through everything that is open, the rows of one part of a service after the other. */
export class OpenWalk<Part extends Pick<OpenRows, "open">> {
  /** The service of the last row. */
  part: Part | undefined;
  private readonly parts: Iterator<Part>;
  private readonly lastId: number;
  private rows: Iterator<Open> | undefined;

  /** Rows with an id above `lastId` are left out: they have begun after this moment. */
  constructor(parts: readonly Part[], lastId: number) {
    this.parts = parts.values();
    this.lastId = lastId;
  }

  /** The next row; undefined: there is none any more. */
  next(): Open | undefined {
    for (;;) {
      const row = this.rows?.next();
      if (row !== undefined && row.done !== true && row.value.id <= this.lastId) return row.value;
      const part = this.parts.next();
      if (part.done === true) return undefined;
      this.part = part.value;
      this.rows = part.value.open[Symbol.iterator]();
    }
  }
}

/** The Worker that checks upstreams: started with the first one that is to be checked. */

import type { HealthTarget } from "../../workers/health-task.ts";
import { WorkerPool } from "../../workers/pool.ts";
import type { WorkerEvent } from "../../workers/protocol.ts";

/** The listener for results. */
export interface HealthOwner {
  /** Checks have found the address in this slot up or down. */
  found(slot: number, isUp: boolean, reason: string): void;
  warn(text: string): void;
}

export class HealthChecks {
  private readonly workerEntry: URL;
  private readonly board: SharedArrayBuffer;
  private readonly owner: HealthOwner;
  private running: { readonly pool: WorkerPool; readonly id: number } | undefined;

  /** `workerEntry` is the entry of a Worker; `board` the memory of the board of upstreams. */
  constructor(workerEntry: URL, board: SharedArrayBuffer, owner: HealthOwner) {
    this.workerEntry = workerEntry;
    this.board = board;
    this.owner = owner;
  }

  /** Checks these from now on, and no others. */
  check(targets: readonly HealthTarget[]): void {
    if (this.running !== undefined) {
      this.running.pool.update(this.running.id, { targets });
    } else if (targets.length > 0) this.start(targets);
  }

  /** Ends the Worker. */
  stop(): void {
    this.running?.pool.stop();
    this.running = undefined;
  }

  private start(targets: readonly HealthTarget[]): void {
    const print = async (events: readonly WorkerEvent[]) => {
      for (const event of events) this.take(event);
    };
    const pool = new WorkerPool(print, { replaces: true });
    try {
      pool.start(this.workerEntry);
    } catch (error) {
      return this.owner.warn(`upstreams are not checked: ${messageOf(error)}`);
    }
    const id = pool.add([{ kind: "health", targets, board: this.board }]);
    this.running = { pool, id };
    pool.finished().catch((error) => {
      this.running = undefined;
      this.owner.warn(`upstreams are checked no more: ${messageOf(error)}`);
    });
  }

  private take(event: WorkerEvent): void {
    if (event.kind === "health") this.owner.found(event.slot, event.isUp, event.reason);
    if (event.kind === "warning") this.owner.warn(event.text);
    if (event.kind === "died") {
      this.owner.warn(`the thread that checks upstreams died (${event.error}), and begins again`);
    }
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

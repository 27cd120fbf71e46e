/** The Workers of a command, as the main thread sees them: started, listened to, stopped. */

import { Worker } from "node:worker_threads";
import { EFD_CLOEXEC, EFD_NONBLOCK } from "../../ffi/constants.ts";
import { check } from "../../ffi/errno.ts";
import * as sys from "../../ffi/sys.ts";
import { stopGraceMs } from "./limits.ts";
import type { Outcome, Task, WorkerEvent, WorkerInput, WorkerMessage } from "./protocol.ts";
import { type Counters, SharedState } from "./shared.ts";

/** Prints a batch; the Worker that sent it is held back until the promise is kept. */
export type EventPrinter = (events: readonly WorkerEvent[]) => Promise<void>;

interface Member {
  readonly worker: Worker;
  readonly shared: SharedState;
  readonly wakeFd: number;
  readonly outcome: Promise<Outcome>;
}

export class Crew {
  private readonly members: Member[] = [];
  private readonly print: EventPrinter;
  /** Batches are printed one after the other, in the order in which they came. */
  private printing: Promise<void> = Promise.resolve();

  constructor(print: EventPrinter) {
    this.print = print;
  }

  /** Starts a Worker at `entry` with `task`. It owns the task's descriptors from here on. */
  start(entry: URL, task: Task): void {
    const shared = new SharedState();
    const wakeFd = check(sys.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd");
    const input: WorkerInput = { task, wakeFd, memory: shared.memory };
    const worker = new Worker(entry, { workerData: input });
    const outcome = new Promise<Outcome>((resolve, reject) => {
      worker.on("message", (message: WorkerMessage) => {
        if (message.kind === "events") this.onEvents(shared, message.events);
        else resolve(message.outcome);
      });
      worker.on("error", reject);
      worker.on("exit", () => reject(new Error("a worker ended without saying why")));
    });
    this.members.push({ worker, shared, wakeFd, outcome });
  }

  /** Tells all Workers to end; `finished` then settles. */
  stop(): void {
    for (const { shared, wakeFd } of this.members) {
      shared.requestStop();
      sys.eventfdSignal(wakeFd);
    }
  }

  /**
   * Settles when every Worker has ended and everything has been printed.
   * @throws what a Worker threw.
   */
  async finished(): Promise<Outcome[]> {
    try {
      const outcomes = await Promise.all(this.members.map((member) => member.outcome));
      await this.printing;
      return outcomes;
    } finally {
      for (const { wakeFd } of this.members) sys.close(wakeFd);
    }
  }

  /** What all Workers have counted so far. */
  counters(): Counters {
    const total = new SharedState().snapshot();
    for (const { shared } of this.members) {
      const counters = shared.snapshot();
      for (const key of Object.keys(total) as (keyof Counters)[]) total[key] += counters[key];
    }
    return total;
  }

  /** How long `finished` may take after `stop` before the process ends without it. */
  readonly graceMs = stopGraceMs;

  private onEvents(shared: SharedState, events: readonly WorkerEvent[]): void {
    this.printing = this.printing
      .then(() => this.print(events))
      .finally(() => shared.batchPrinted());
  }
}

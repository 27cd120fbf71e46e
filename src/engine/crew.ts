/** The Workers of a command, as the main thread sees them: started, listened to, stopped. */

import { MessageChannel, type MessagePort, Worker } from "node:worker_threads";
import { EFD_CLOEXEC, EFD_NONBLOCK } from "../../ffi/constants.ts";
import { check } from "../../ffi/errno.ts";
import * as sys from "../../ffi/sys.ts";
import { stopGraceMs } from "./limits.ts";
import type {
  Command,
  Outcome,
  Task,
  WorkerEvent,
  WorkerInput,
  WorkerMessage,
} from "./protocol.ts";
import { type Counters, SharedState } from "./shared.ts";

/** Prints a batch; the Worker that sent it is held back until the promise is kept. */
export type EventPrinter = (events: readonly WorkerEvent[]) => Promise<void>;

interface Member {
  readonly worker: Worker;
  readonly shared: SharedState;
  readonly wakeFd: number;
  /** Our end of the Worker's mailbox. */
  readonly mailbox: MessagePort;
  readonly outcome: Promise<Outcome>;
}

export class Crew {
  private readonly members: Member[] = [];
  private readonly print: EventPrinter;
  /** Batches are printed one after the other, in the order in which they came. */
  private printing: Promise<void> = Promise.resolve();
  /** All Workers are gone, and the descriptors that would wake them. */
  private over = false;

  constructor(print: EventPrinter) {
    this.print = print;
  }

  /** Starts a Worker at `entry` with `task`. It owns the task's descriptors from here on. */
  start(entry: URL, task: Task): void {
    const shared = new SharedState();
    const wakeFd = check(sys.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd");
    const { port1: mailbox, port2: theirs } = new MessageChannel();
    const input: WorkerInput = { task, wakeFd, memory: shared.memory, mailbox: theirs };
    const worker = new Worker(entry, { workerData: input, transferList: [theirs] });
    const outcome = new Promise<Outcome>((resolve, reject) => {
      worker.on("message", (message: WorkerMessage) => {
        if (message.kind === "events") this.onEvents(shared, message.events);
        else resolve(message.outcome);
      });
      worker.on("error", reject);
      worker.on("exit", () => reject(new Error("a worker ended without saying why")));
    });
    this.members.push({ worker, shared, wakeFd, mailbox, outcome });
  }

  /**
   * Sends `command` to every Worker, whose service gets it (`Service.onCommand`) in its next turn:
   * at once, unless it waits for standard output. `command` is copied (structured clone). Never
   * blocks; for what changes now and then, not for each connection.
   */
  send(command: Command): void {
    if (this.over) return;
    for (const { mailbox, wakeFd } of this.members) {
      mailbox.postMessage(command);
      sys.eventfdSignal(wakeFd);
    }
  }

  /** Tells all Workers to end; `finished` then settles. */
  stop(): void {
    if (this.over) return;
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
      this.over = true;
      for (const { wakeFd, mailbox } of this.members) {
        mailbox.close();
        sys.close(wakeFd);
      }
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

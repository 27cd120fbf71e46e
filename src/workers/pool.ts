/**
 * The Workers of a command, as the main thread sees them: started, listened to, told things,
 * replaced when they die, stopped.
 */

import { stopGraceMs, workerDeathsMax, workerDeathsWindowMs } from "../engine/limits.ts";
import { type Counters, sumCounters } from "./counters.ts";
import { WorkerHandle, type WorkerHandleOwner } from "./handle.ts";
import type { Command, Outcome, Task, WorkerEvent } from "./protocol.ts";

/** Prints a batch; a Worker of which 64 batches wait for their promise drops lines, or waits. */
export type EventPrinter = (events: readonly WorkerEvent[]) => Promise<void>;

/** Workers could not be started, or died again and again: the message says of what. */
export class WorkerPoolError extends Error {}

export class WorkerPool implements WorkerHandleOwner {
  private readonly handles: WorkerHandle[] = [];
  private readonly print: EventPrinter;
  private readonly replaces: boolean;
  private readonly lossless: boolean;
  /** Batches are printed one after the other, in the order in which they came. */
  private printing: Promise<void> = Promise.resolve();
  private stopping = false;
  /** All Workers are gone, and the descriptors that would wake them. */
  private over = false;
  /** The newest command of each kind that describes a state. */
  private readonly standing = new Map<Command["kind"], Command>();
  /** Whose tables are on their way. */
  private readonly telling = new Set<WorkerHandle>();
  /** When Workers died, on the monotonic clock; the last ones only. */
  private readonly deaths: number[] = [];

  /**
   * With `replaces`, a Worker that dies is reported, its connections are reset, and another takes
   * its place on the same sockets, which have to be listening ones. Without, it ends the pool.
   * With `lossless`, a Worker waits for `print` where it would drop lines otherwise.
   */
  constructor(print: EventPrinter, { replaces = false, lossless = true } = {}) {
    this.print = print;
    this.replaces = replaces;
    this.lossless = lossless;
  }

  /**
   * Starts a Worker at `entry` with `task`. It owns the task's descriptors from here on.
   * @throws CrewError where the system allows no more threads
   */
  start(entry: URL, task: Task): void {
    const handle = new WorkerHandle(this, this.handles.length + 1, entry, task, this.lossless);
    this.handles.push(handle);
    startWorker(handle);
  }

  /**
   * Sends `command` to every Worker, whose service gets it (`Service.onCommand`) in its next turn:
   * at once, unless it waits for standard output. `command` is copied (structured clone). Never
   * blocks; for what changes now and then, not for each connection.
   */
  send(command: Command): void {
    if (this.over) return;
    if (command.kind !== "table") this.standing.set(command.kind, command);
    for (const handle of this.handles) handle.send(command);
  }

  /** Prints what is open, as services tell of it, and then the counters. One table at a time. */
  showTable(): void {
    if (this.over || this.telling.size > 0) return;
    for (const handle of this.handles) this.telling.add(handle);
    this.send({ kind: "table" });
  }

  /** Prints the counters of each Worker, and their sum. */
  showCounters(): void {
    const events = this.handles.map(countersOf);
    void this.say([...events, { kind: "counters", worker: 0, counters: this.counters() }]);
  }

  /** Tells all Workers to end; `finished` then settles. */
  stop(): void {
    this.stopping = true;
    if (this.over) return;
    for (const handle of this.handles) handle.stop();
  }

  /** For the exit of the process: what is still open then is reset. */
  abandon(): void {
    for (const handle of this.handles) handle.abandon();
  }

  /**
   * Settles when every Worker has ended and everything has been printed; between the two it calls
   * `ended`, after which nothing but a reader of standard output can hold it up.
   * @throws what a Worker threw; CrewError when they died again and again
   */
  async finished(ended: () => void = () => {}): Promise<Outcome[]> {
    try {
      const outcomes = await Promise.all(this.handles.map((handle) => handle.outcome));
      ended();
      await this.printing;
      return outcomes;
    } finally {
      this.over = true;
      for (const handle of this.handles) handle.close();
    }
  }

  /** What all Workers have counted so far. */
  counters(): Counters {
    return sumCounters(this.handles.map((handle) => handle.counters));
  }

  /** How long `finished` may take after `stop` before the process ends without it. */
  readonly graceMs = stopGraceMs;

  onEvents(handle: WorkerHandle, events: readonly WorkerEvent[], printed: () => void): void {
    void this.say(events).finally(printed);
    if (events.some(({ kind }) => kind === "tableEnd")) this.tableEnded(handle);
  }

  private say(events: readonly WorkerEvent[]): Promise<void> {
    this.printing = this.printing.then(() => this.print(events));
    return this.printing;
  }

  private tableEnded(handle: WorkerHandle): void {
    if (this.telling.delete(handle) && this.telling.size === 0) this.showCounters();
  }

  onDeath(handle: WorkerHandle, cause: Error, counters: Counters): void {
    if (this.over) return;
    if (!this.replaces) return handle.fail(cause);
    const { number: worker } = handle;
    const error = String(cause.message).split("\n", 1)[0] as string;
    const isTooOften = this.diedTooOften();
    const isReplaced = !this.stopping && !isTooOften;
    const { active: lost, activeSessions: lostSessions } = counters;
    const died = { kind: "died", worker, error, lost, lostSessions, isReplaced } as const;
    void this.say([died]);
    this.tableEnded(handle);
    if (this.stopping) return handle.settle();
    if (isTooOften) {
      const seconds = workerDeathsWindowMs / 1000;
      const often = `workers died ${this.deaths.length} times within ${seconds} s`;
      return handle.fail(new WorkerPoolError(`${often}, the last of: ${error}`));
    }
    try {
      startWorker(handle, this.standing.values());
    } catch (failed) {
      handle.fail(failed as Error);
    }
  }

  /** Notes a death; whether there have been too many within the last seconds. */
  private diedTooOften(): boolean {
    const now = performance.now();
    this.deaths.push(now);
    while (now - (this.deaths[0] as number) > workerDeathsWindowMs) this.deaths.shift();
    return this.deaths.length > workerDeathsMax;
  }
}

/** @throws CrewError */
function startWorker(handle: WorkerHandle, commands?: Iterable<Command>): void {
  try {
    handle.start(commands);
  } catch (error) {
    throw new WorkerPoolError(
      `Cannot start worker ${handle.number}: ${error instanceof Error ? error.message : error}: ` +
        "the system may allow no more threads (TasksMax=, LimitNPROC=, ulimit -u) or memory",
    );
  }
}

function countersOf({ number: worker, counters }: WorkerHandle): WorkerEvent {
  return { kind: "counters", worker, counters };
}

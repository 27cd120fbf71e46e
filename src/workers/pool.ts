/**
 * The Workers of a command, as the main thread sees them: started, given services, listened to,
 * replaced when they die, stopped. Each service runs in every Worker, on sockets of its own there.
 */

import { servicesMax, stopGraceMs, turnPollMs } from "../engine/limits.ts";
import type { Scheme } from "../net/target.ts";
import { COUNTER_VALUES, type Counters, sumOf, sumValues } from "./counters.ts";
import { Deaths } from "./deaths.ts";
import { WorkerHandle, type WorkerHandleOwner } from "./handle.ts";
import { type Counted, InheritedCounts } from "./inherited-counts.ts";
import type { MoveAnswer } from "./moved.ts";
import { PoolMoves } from "./pool-moves.ts";
import type { ForwardTask, Outcome, ServiceChange, Task, WorkerEvent } from "./protocol.ts";
import type { RowQuery } from "./query.ts";
import { type Rows, type ScanAnswer, ScanRequests, type Selection } from "./scan-requests.ts";
import { TALLY_VALUES } from "./tally.ts";

/** Prints a batch; a Worker of which 64 batches wait for their promise drops lines, or waits. */
export type EventPrinter = (events: readonly WorkerEvent[]) => Promise<void>;

/** Workers could not be started, or died again and again: the message names the cause. */
export class WorkerPoolError extends Error {}

/** A service that is on its way to its end. */
interface Removal {
  readonly left: Set<WorkerHandle>;
  readonly done: PromiseWithResolvers<void>;
}

/** Listeners that a service gives up in one Worker. */
export interface ReleasedSockets {
  readonly closed: readonly number[];
  readonly moved: readonly number[];
}

export interface PoolSettings {
  readonly replaces?: boolean;
  readonly lossless?: boolean;
  readonly died?: (worker: number) => void;
  /** The generation of the Workers of a process before this one; 0: there was none. */
  readonly generation?: number;
  /** Counters of this process besides its Workers, for the sum of all services. */
  readonly others?: () => readonly Float64Array[];
}

export class WorkerPool implements WorkerHandleOwner {
  private readonly handles: WorkerHandle[] = [];
  private readonly print: EventPrinter;
  private readonly replaces: boolean;
  private readonly lossless: boolean;
  /** Batches are printed one after the other, in the order in which they came. */
  private printing: Promise<void> = Promise.resolve();
  private stopping = false;
  private suspended: readonly Scheme[] = [];
  /** Counted by another process, which this one has taken over from. */
  readonly inherited = new InheritedCounts();
  /** All Workers are gone, and the descriptors that would wake them. */
  private over = false;
  private readonly died: (worker: number) => void;
  private readonly others: () => readonly Float64Array[];
  /** By number: names of services that run, or are on their way to their end. */
  private readonly names = new Map<number, string | undefined>();
  /** By number of a service that is removed: the Workers that still have it. */
  private readonly removals = new Map<number, Removal>();
  private readonly firstGeneration: number;
  /** Moves connections from or to another process. */
  readonly moves = new PoolMoves(() => this.handles);
  private readonly scans = new ScanRequests(() => this.handles.filter(({ hasEnded }) => !hasEnded));
  /** The Workers whose tables are on their way. */
  private readonly telling = new Set<WorkerHandle>();
  private readonly deaths = new Deaths();

  /**
   * With `replaces`, a Worker that dies is reported, its connections are reset, and another takes
   * its place on the same sockets, which have to be listening ones. Without, it ends the pool.
   * With `lossless`, a Worker waits for `print` where it would drop lines otherwise. `died` is
   * called for each Worker that has died, before another one takes its place.
   */
  constructor(
    print: EventPrinter,
    {
      replaces = false,
      lossless = true,
      died = () => {},
      others = () => [],
      generation = 0,
    }: PoolSettings = {},
  ) {
    this.firstGeneration = generation;
    this.print = print;
    this.died = died;
    this.others = others;
    this.replaces = replaces;
    this.lossless = lossless;
  }

  /**
   * Starts a Worker at `entry`, which waits for services.
   * @throws WorkerPoolError where the system allows no more threads
   */
  start(entry: URL): void {
    const { handles, lossless, firstGeneration } = this;
    const handle = new WorkerHandle(this, handles.length + 1, entry, lossless, firstGeneration);
    this.handles.push(handle);
    handle.suspend(this.suspended);
    startWorker(handle);
  }

  /**
   * Has the Workers run a service: each with one of `tasks`, whose descriptors it owns from here
   * on. A Worker begins in its next turn. Returns the number of the service.
   * @throws WorkerPoolError where there are as many as may be
   */
  add(tasks: readonly Task[]): number {
    let id = 1;
    while (this.names.has(id)) id++;
    if (id > servicesMax) throw new WorkerPoolError(`more than ${servicesMax} services`);
    const [first] = tasks;
    this.names.set(id, first?.kind === "forward" ? first.name : undefined);
    for (const [index, handle] of this.handles.entries()) {
      const task = tasks[index];
      if (task !== undefined && !this.over) handle.add(id, task);
    }
    return id;
  }

  /**
   * Has service number `id` give up listeners, for each Worker a list. Those of `moved` stay open
   * for another service.
   */
  release(id: number, lists: readonly ReleasedSockets[]): void {
    for (const [index, handle] of this.handles.entries()) {
      const { closed = [], moved = [] } = lists[index] ?? {};
      if (!this.over && closed.length + moved.length > 0) handle.release(id, closed, moved);
    }
  }

  /**
   * Has service number `id` go on by other tasks, in each Worker's next turn: with listeners that
   * it has, and with new ones, which it owns from here on. What is open stays, as far as `ends`
   * does not say otherwise.
   */
  replace(id: number, tasks: readonly ForwardTask[], ends: ServiceChange["ends"]): void {
    for (const [index, handle] of this.handles.entries()) {
      const task = tasks[index];
      if (task !== undefined && !this.over) handle.replace(id, task, ends);
    }
  }

  /** Changes service number `id` in every Worker, in its next turn. Never blocks. */
  update(id: number, change: ServiceChange): void {
    if (!this.over) for (const handle of this.handles) handle.update(id, change);
  }

  /**
   * Takes service number `id` away: it takes no new work, and what is open comes to its end.
   * Settles when no Worker has it any more, and its number may be given to another one.
   * Its connections may go on for `drainMs`, by default for the service's own time.
   */
  remove(id: number, drainMs?: number): Promise<void> {
    const known = this.removals.get(id);
    if (known !== undefined) return known.done.promise;
    if (this.over || !this.names.has(id)) return Promise.resolve();
    const left = new Set(this.handles.filter((handle) => handle.remove(id, drainMs)));
    const done = Promise.withResolvers<void>();
    this.removals.set(id, { left, done });
    this.settleRemoval(id);
    return done.promise;
  }

  /** Prints the open connections and sessions, then the counters. One table at a time. */
  showTable(): void {
    if (this.over || this.telling.size > 0) return;
    for (const handle of this.handles) this.telling.add(handle);
    for (const handle of this.handles) handle.send({ kind: "table" });
  }

  /** Prints the counters of each Worker, and their sum. */
  showCounters(): void {
    const events = this.handles.map(countersOf);
    void this.say([...events, { kind: "counters", worker: 0, counters: this.counters() }]);
  }

  /**
   * Has all services, also those that are added later, receive nothing new of these protocols until
   * a call leaves them out: no connections, and no datagrams at a listener. What is open goes on,
   * and what arrives waits in the queues of the sockets. Once `askForTurn` was called after it and
   * `allTurned` is true, all Workers do so.
   */
  suspend(protocols: readonly Scheme[]): void {
    this.suspended = protocols;
    if (!this.over) for (const handle of this.handles) handle.suspend(protocols);
  }

  /**
   * Settles once every Worker has passed a turn from now on, so has carried out all commands so
   * far, or after `timeoutMs`. Returns the numbers of the Workers that have not.
   */
  async turned(timeoutMs = Number.POSITIVE_INFINITY): Promise<readonly number[]> {
    if (this.over) return [];
    this.askForTurn();
    const end = performance.now() + timeoutMs;
    while (!this.allTurned && performance.now() < end) await Bun.sleep(turnPollMs);
    return this.handles.filter(({ hasTurned }) => !hasTurned).map(({ number }) => number);
  }

  /** Has every Worker pass a turn; `allTurned` is true once all have. */
  askForTurn(): void {
    if (!this.over) for (const handle of this.handles) handle.askForTurn();
  }

  /** Whether every Worker has passed a turn since the last `askForTurn`. */
  get allTurned(): boolean {
    return this.handles.every(({ hasTurned }) => hasTurned);
  }

  /** Returns rows of what is open. @throws ScanError */
  query(query: RowQuery): Promise<Rows> {
    return this.scans.query(query);
  }

  /** Ends connections and sessions; returns how many. @throws ScanError */
  kill(selection: Selection): Promise<number> {
    return this.scans.kill(selection);
  }

  /** Has all Workers end; `finished` then settles. */
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
   * @throws what a Worker threw; WorkerPoolError when they died again and again
   */
  async finished(ended: () => void = () => {}): Promise<Outcome[]> {
    try {
      const outcomes = await Promise.all(
        this.handles.map((handle) => handle.outcome.finally(() => this.gone(handle))),
      );
      ended();
      await this.printing;
      return outcomes;
    } finally {
      this.over = true;
      for (const handle of this.handles) handle.close();
    }
  }

  /** A Worker answers nothing any more. */
  private gone(handle: WorkerHandle): void {
    this.scans.gone(handle);
    this.moves.gone(handle);
  }

  /** The newest generation of its Workers. */
  get generation(): number {
    return Math.max(this.firstGeneration, ...this.handles.map(({ generation }) => generation));
  }

  /** The counts of all Workers so far, for all services or for one. */
  counters(id?: number): Counters {
    const own = this.handles.map((handle) => handle.read(id));
    if (id === undefined) return sumValues([...own, ...this.others(), ...this.inherited.sum()]);
    return sumValues([...own, ...this.inherited.counters(this.names.get(id))]);
  }

  /** Each Worker: its number, how often it has died, and its longest turn of the last minutes. */
  workers(): { number: number; deaths: number; longestTurnMs: number }[] {
    return this.handles.map(({ number, generation, longestTurnMs }) => {
      return { number, deaths: Math.max(0, generation - this.firstGeneration - 1), longestTurnMs };
    });
  }

  /** The counts of all Workers for service number `id`, by `Counter`. */
  values(id: number): Float64Array {
    const own = this.handles.map((handle) => handle.read(id));
    return sumOf(COUNTER_VALUES, [...own, ...this.inherited.counters(this.names.get(id))]);
  }

  /** How connections and sessions of service number `id` have ended, in all Workers. */
  tally(id: number): Float64Array {
    const own = this.handles.map((handle) => handle.tallyOf(id));
    return sumOf(TALLY_VALUES, [...own, ...this.inherited.tally(this.names.get(id))]);
  }

  /** All that was counted for service number `id`, for a process that takes it over. */
  counted(id: number): Counted {
    return { counters: this.counters(id), tally: [...this.tally(id)] };
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
    this.gone(handle);
    if (!this.replaces) return handle.fail(cause);
    const { number: worker } = handle;
    this.died(worker);
    const error = String(cause.message).split("\n", 1)[0] as string;
    const tooOften = this.deaths.add(error);
    const isReplaced = !this.stopping && tooOften === undefined;
    const { active: lost, activeSessions: lostSessions } = counters;
    const died = { kind: "died", worker, error, lost, lostSessions, isReplaced } as const;
    void this.say([died]);
    this.tableEnded(handle);
    if (this.stopping) return handle.settle();
    if (tooOften !== undefined) return handle.fail(new WorkerPoolError(tooOften));
    try {
      startWorker(handle);
    } catch (failed) {
      handle.fail(failed as Error);
    }
  }

  onAnswer(handle: WorkerHandle, request: number, answer: Partial<ScanAnswer>): void {
    this.scans.answered(handle, request, answer);
  }

  onMoved(request: number, answer: MoveAnswer): void {
    this.moves.answered(request, answer);
  }

  onRemoved(handle: WorkerHandle, id: number): void {
    this.removals.get(id)?.left.delete(handle);
    this.settleRemoval(id);
  }

  private settleRemoval(id: number): void {
    const removal = this.removals.get(id);
    if (removal === undefined || removal.left.size > 0) return;
    this.removals.delete(id);
    this.names.delete(id);
    removal.done.resolve();
  }
}

/** @throws WorkerPoolError */
function startWorker(handle: WorkerHandle): void {
  try {
    handle.start();
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

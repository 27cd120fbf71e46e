/** One place in a pool: its Worker, and when that one has died the next, on the same sockets. */

import { MessageChannel, type MessagePort, Worker } from "node:worker_threads";
import { EFD_CLOEXEC, EFD_NONBLOCK } from "../../ffi/constants.ts";
import { check } from "../../ffi/errno.ts";
import * as sys from "../../ffi/sys.ts";
import { outstandingBatches } from "../engine/limits.ts";
import type { Scheme } from "../net/target.ts";
import type { IdOrigin } from "./connection-id.ts";
import { type Counters, SharedState } from "./counters.ts";
import type { MoveAnswer } from "./moved.ts";
import {
  applyChange,
  type Command,
  type ConnectionEvent,
  type ForwardTask,
  type Outcome,
  ownTask,
  type ServedSocket,
  type ServiceChange,
  type Task,
  type WorkerEvent,
  type WorkerInput,
  type WorkerMessage,
} from "./protocol.ts";
import { readRecords, withRecords } from "./records.ts";
import type { ScanAnswer } from "./scan-requests.ts";
import { type Capacity, capacityOf, isEqual, taskChange } from "./task-change.ts";

/** How a handle reports to the pool. */
export interface WorkerHandleOwner {
  /** A batch of events; `printed` lets the Worker send another. */
  onEvents(handle: WorkerHandle, events: readonly WorkerEvent[], printed: () => void): void;
  /** Its Worker died of `cause`, having counted `counters`; all its descriptors are closed. */
  onDeath(handle: WorkerHandle, cause: Error, counters: Counters): void;
  /** Its Worker has answered a query or a kill. */
  onAnswer(handle: WorkerHandle, request: number, answer: Partial<ScanAnswer>): void;
  /** Its Worker has frozen or adopted what moves from one process to another. */
  onMoved(request: number, answer: MoveAnswer): void;
  /** Service number `id` is gone from it. */
  onRemoved(handle: WorkerHandle, id: number): void;
}

export class WorkerHandle {
  /** From 1, for people. */
  readonly number: number;
  private readonly owner: WorkerHandleOwner;
  private readonly entry: URL;
  /** By number, what each service runs with now. */
  private readonly services = new Map<number, Task>();
  /** By number, what the parts of each service were made for. */
  private readonly capacities = new Map<number, Capacity>();
  /** Services that its Worker has been told to remove, and has not. */
  private readonly removing = new Map<number, Task>();
  private readonly lossless: boolean;
  private readonly wakeFd: number;
  private readonly ending = Promise.withResolvers<Outcome>();
  private shared = new SharedState();
  /** How many Workers there have been in this place, those of processes before included. */
  generation: number;
  /** Listeners that its Worker was told to close, and may not have. */
  private readonly leaving = new Set<number>();
  /** Our end of the port for commands to the Worker. */
  private commandPort: MessagePort | undefined;
  /** Its services have ended. */
  hasEnded = false;
  private suspended: readonly Scheme[] = [];

  constructor(
    owner: WorkerHandleOwner,
    number: number,
    entry: URL,
    lossless: boolean,
    generation = 0,
  ) {
    this.generation = generation;
    this.owner = owner;
    this.number = number;
    this.entry = entry;
    this.lossless = lossless;
    this.wakeFd = check(sys.eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd");
  }

  /** How its services ended; rejected by `fail`. */
  get outcome(): Promise<Outcome> {
    return this.ending.promise;
  }

  /** Its counts for all services. */
  get counters(): Counters {
    return this.shared.snapshot();
  }

  /** Its counts for one service, or for all, for `sumValues`. */
  read(id?: number): Float64Array {
    return this.shared.read(id);
  }

  /** The longest turn of its Worker in the last one or two minutes, in ms. */
  get longestTurnMs(): number {
    return this.shared.turnTimes.longestMs(performance.now());
  }

  /** How what it carried for one service has ended, by the places of `tally.ts`. */
  tallyOf(id: number): Float64Array {
    return this.shared.tallyOf(id);
  }

  /** Starts a Worker, the first or the next one, with the services that there are. */
  start(): void {
    const { shared, wakeFd, lossless } = this;
    const origin = { worker: this.number, generation: ++this.generation };
    const { port1, port2: commandPort } = new MessageChannel();
    this.commandPort = port1;
    const input: WorkerInput = { wakeFd, memory: shared.memory, commandPort, lossless };
    const worker = new Worker(this.entry, { workerData: input, transferList: [commandPort] });
    let cause: unknown = "it ended without saying why";
    worker.on("message", (message: WorkerMessage) => {
      if (message.kind === "events") {
        return this.owner.onEvents(this, withRecords(message.events, origin), () =>
          shared.batchPrinted(),
        );
      }
      if (message.kind === "removed") return this.onRemoved(message.id);
      if (message.kind === "rows" || message.kind === "killed") {
        return this.owner.onAnswer(this, message.request, answerOf(message, origin));
      }
      if (message.kind === "frozen" || message.kind === "adopted") {
        return this.owner.onMoved(message.request, message);
      }
      this.hasEnded = true;
      this.ending.resolve(message.outcome);
    });
    worker.on("error", (error) => {
      cause = error;
    });
    worker.on("exit", () => {
      if (!this.hasEnded) this.onDeath(cause instanceof Error ? cause : new Error(String(cause)));
    });
    this.send({ kind: "suspend", protocols: this.suspended });
    for (const [id, task] of this.services) this.begin(id, task);
  }

  /** Has its services receive nothing new of these protocols, and everything of the others. */
  suspend(protocols: readonly Scheme[]): void {
    this.suspended = protocols;
    this.send({ kind: "suspend", protocols });
  }

  /** Has its Worker run a service. It owns the task's descriptors from here on. */
  add(id: number, task: Task): void {
    this.services.set(id, ownTask(task));
    this.begin(id, task);
  }

  private begin(id: number, task: Task): void {
    if (task.kind === "forward") this.capacities.set(id, capacityOf(task));
    if ("sockets" in task) this.give(task.sockets);
    this.send({ kind: "add", id, task });
  }

  /** Notes that its Worker has these sockets, until it closes them. */
  private give(sockets: readonly ServedSocket[]): void {
    for (const { fd } of sockets) {
      this.shared.descriptors[fd] = GIVEN;
      // It closed another one of this number.
      this.leaving.delete(fd);
    }
  }

  /** Has a service give up listeners; those that are moved are another service's from here on. */
  release(id: number, closed: readonly number[], moved: readonly number[]): void {
    const task = this.services.get(id);
    if (task?.kind !== "forward") return;
    const gone = new Set([...closed, ...moved]);
    const sockets = task.sockets.filter(({ fd }) => !gone.has(fd));
    this.services.set(id, { ...task, sockets });
    for (const fd of closed) this.leaving.add(fd);
    this.send({ kind: "release", id, closed, moved });
  }

  /** Has a service go on by `task`: its sockets are those that it has, and new ones. */
  replace(id: number, task: ForwardTask, ends: ServiceChange["ends"]): void {
    const before = this.services.get(id);
    const capacity = this.capacities.get(id);
    if (before?.kind !== "forward" || capacity === undefined) return;
    const { replaced, change, task: next, capacity: now } = taskChange(before, task, capacity);
    const isSame = replaced.length === 0 && ends === undefined && isEqual(before, next);
    this.services.set(id, ownTask(next));
    this.capacities.set(id, now);
    // Most services stay as they are when a configuration changes.
    if (isSame) return;
    this.give(next.sockets);
    this.send({ kind: "update", id, change: ends === undefined ? change : { ...change, ends } });
    this.send({ kind: "replace", id, task: next, replaced });
  }

  /** Changes a service. A Worker that takes this one's place is given it as it is then. */
  update(id: number, change: ServiceChange): void {
    const task = this.services.get(id);
    if (task === undefined) return;
    if (task.kind === "forward") applyChange(task, change);
    const { targets } = change;
    if (task.kind === "health" && targets) this.services.set(id, { ...task, targets });
    this.send({ kind: "update", id, change });
  }

  /**
   * Takes a service away; `WorkerHandleOwner.onRemoved` is called once it is gone. False if it is
   * not there. Its connections may go on for `drainMs`, by default for the service's own time.
   */
  remove(id: number, drainMs?: number): boolean {
    const task = this.services.get(id);
    if (task === undefined) return false;
    this.services.delete(id);
    this.removing.set(id, task);
    this.send({ kind: "remove", id, ...(drainMs === undefined ? {} : { drainMs }) });
    return true;
  }

  /** Sends a command, which is copied (structured clone), to its Worker. Never blocks. */
  send(command: Command): void {
    this.commandPort?.postMessage(command);
    sys.eventfdSignal(this.wakeFd);
  }

  /** Has its Worker pass a turn; `hasTurned` is true once it has. */
  askForTurn(): void {
    this.shared.askForTurn();
    sys.eventfdSignal(this.wakeFd);
  }

  /**
   * Whether its Worker has passed a turn since then, or has ended. One that waits for a slow reader
   * of standard output (lossless) does what it was asked to.
   */
  get hasTurned(): boolean {
    const { shared } = this;
    const mayWait = this.lossless && shared.outstanding >= outstandingBatches;
    return this.hasEnded || shared.hasTurned || mayWait;
  }

  /** Has the Worker end. */
  stop(): void {
    this.shared.requestStop();
    sys.eventfdSignal(this.wakeFd);
  }

  /** Ends the task as if its Worker had. */
  settle(): void {
    this.hasEnded = true;
    this.ending.resolve({ errno: 0, call: "", counters: this.counters });
  }

  fail(error: Error): void {
    this.ending.reject(error);
  }

  /** Once no Worker is left. The handle is not used again. */
  close(): void {
    this.commandPort?.close();
    sys.close(this.wakeFd);
  }

  /** The process ends now. Sends RST instead of FIN, so that no peer sees a clean end. */
  abandon(): void {
    for (const fd of openIn(this.shared.descriptors)) sys.setLinger(fd, true, 0);
  }

  private onDeath(cause: Error): void {
    const { counters, shared } = this;
    this.commandPort?.close();
    closeAll(shared.descriptors);
    // Nobody serves these sockets again. A number that the Worker closed may be another's by now.
    const gone = [...this.removing.values()].flatMap((task) =>
      "sockets" in task ? task.sockets.map(({ fd }) => fd) : [],
    );
    for (const fd of new Set([...gone, ...this.leaving])) {
      if (shared.descriptors[fd] === GIVEN) sys.close(fd);
    }
    this.leaving.clear();
    this.shared = shared.successor();
    for (const id of [...this.removing.keys()]) {
      this.shared.retire(id);
      this.onRemoved(id);
    }
    this.owner.onDeath(this, cause, counters);
  }

  private onRemoved(id: number): void {
    this.removing.delete(id);
    this.owner.onRemoved(this, id);
  }
}

/** The answer of a Worker, its records read. */
function answerOf(
  message: Extract<WorkerMessage, { kind: "rows" | "killed" }>,
  origin: IdOrigin,
): Partial<ScanAnswer> {
  if (message.kind === "killed") return { ended: message.ended };
  const { total, matched, busyMs, records, extras } = message.rows;
  const events = readRecords(records, origin);
  const rows = extras.map(({ key, ...extra }, index) => ({
    key,
    row: { ...(events[index] as ConnectionEvent), ...extra },
  }));
  return { total, matched, busyMs, rows };
}

/** Closes what a dead thread has left, connections with RST, so that no peer sees a clean end. */
function closeAll(openFds: Uint8Array): void {
  for (const fd of openIn(openFds)) {
    sys.setLinger(fd, true, 0);
    sys.close(fd);
  }
}

/** In the map of descriptors: one that the Worker was given, and has not made itself. */
const GIVEN = 2;

function* openIn(openFds: Uint8Array): Generator<number> {
  for (let fd = openFds.indexOf(1); fd >= 0; fd = openFds.indexOf(1, fd + 1)) yield fd;
}

/** One Worker: its loop, the services that it hosts, and what it reports to the main thread. */

import { gcAndSweep } from "bun:jsc";
import { receiveMessageOnPort } from "node:worker_threads";
import { EPOLLIN } from "../../ffi/constants.ts";
import { check } from "../../ffi/errno.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import {
  batchIntervalMs,
  eventBytesPerBatch,
  eventsPerBatch,
  failureLinesMax,
  lostLinesPauseMs,
  outstandingBatches,
  outstandingBatchesAgain,
  warningIntervalMs,
  warningKindsMax,
} from "../engine/limits.ts";
import { EventLoop, type Handler } from "../engine/loop.ts";
import { Timer } from "../engine/timers.ts";
import type { Scheme } from "../net/target.ts";
import { Counter, SharedState } from "./counters.ts";
import { endText, isRefusal } from "./end-reason.ts";
import { Moves } from "./moves.ts";
import {
  type Command,
  LogLevel,
  type Outcome,
  type Task,
  type WorkerEvent,
  type WorkerInput,
  type WorkerMessage,
} from "./protocol.ts";
import { type LineOptions, type RateLimitedLine, RateLimitedLog } from "./rate-limited-log.ts";
import type { RecordBlock } from "./record-block.ts";
import { type Recorded, type RecordKind, RecordWriter, recordsIn } from "./records.ts";
import { Scans } from "./scans.ts";
import {
  type EndRecord,
  type Service,
  ServiceContext,
  type ServiceHost,
} from "./service-context.ts";
import { type OpenRows, TableWalk } from "./table.ts";

/** A service that runs. */
interface Hosted {
  /** Undefined while it is being started. */
  service: Service | undefined;
  /** In the log. */
  readonly name: string | undefined;
  isRemoved: boolean;
}

export class WorkerContext implements Handler, ServiceHost {
  readonly loop: EventLoop;
  readonly shared: SharedState;
  private readonly input: WorkerInput;
  private readonly wakeFd: Fd;
  readonly post: (message: WorkerMessage) => void;
  private events: (WorkerEvent | RecordBlock)[] = [];
  /** Behind `events`: of connections, not yet among them. */
  private readonly records = new RecordWriter(eventsPerBatch);
  private eventBytes = 0;
  /** Lines dropped since that was last logged, and whether others are. */
  private lostLines = 0;
  private isDropping = false;
  private lastBatch = Number.NEGATIVE_INFINITY;
  private readonly rateLimited = new RateLimitedLog(warningIntervalMs, warningKindsMax);
  private readonly warningTimer = new Timer(() => this.logSummaries());
  private readonly batchTimer = new Timer(() => this.flush());
  private outcome: { errno: number; call: string } = { errno: 0, call: "" };
  private readonly start: (context: ServiceContext, task: Task) => Service;
  private readonly services = new Map<number, Hosted>();
  /** The id of the newest connection or session. */
  lastId = 0;
  private readonly scans: Scans;
  private readonly moves: Moves;
  private table: TableWalk | undefined;
  private isStopped = false;
  /** Protocols of which nothing new is received. */
  private suspended: readonly Scheme[] = [];

  /** `start` makes a service of a task; `post` sends a message to the main thread. */
  constructor(
    input: WorkerInput,
    post: (message: WorkerMessage) => void,
    start: (context: ServiceContext, task: Task) => Service,
  ) {
    this.input = input;
    this.start = start;
    this.shared = new SharedState(input.memory);
    // The epoll of the loop is the first that the main thread would have to close.
    sys.keepOpenFds(this.shared.descriptors);
    this.loop = new EventLoop();
    this.wakeFd = input.wakeFd as Fd;
    this.post = post;
    this.scans = new Scans(this);
    this.moves = new Moves(this);
    this.loop.onTurn = () => this.flushWhenDue();
    const { turnTimes } = this.shared;
    this.loop.onTurnEnd = (ms, end) => turnTimes.note(ms, end);
    // The runtime collects garbage when memory is asked for, and in the pauses of its own event
    // loop, which this thread has not: what a burst leaves would stay for good.
    this.loop.onQuiet = gcAndSweep;
    check(this.loop.add(this.wakeFd, EPOLLIN, this), "epoll_ctl", "eventfd");
  }

  /**
   * Runs the services that it is sent, until it is told to stop and all have ended, or until all
   * have ended by themselves. Posts what happened and how it ended.
   */
  run(): void {
    this.loop.run();
    this.logWarnings(this.rateLimited.rest());
    this.takeRecords();
    this.postEvents();
    const outcome: Outcome = { ...this.outcome, counters: this.shared.snapshot() };
    this.post({ kind: "done", outcome });
  }

  /** The open connections and sessions of all services. */
  rows(): readonly OpenRows[] {
    return [...this.services.values()].flatMap(({ service }) => service?.rows ?? []);
  }

  service(id: number): Service | undefined {
    return this.services.get(id)?.service;
  }

  nextId(): number {
    return ++this.lastId;
  }

  /**
   * Queues an event. After a silence it leaves at the end of the turn, so that who watches sees it
   * at once; what comes soon after leaves together, and whatever fills a batch.
   */
  report(event: WorkerEvent): void {
    this.takeRecords();
    this.events.push(event);
    if ("bytes" in event) this.eventBytes += event.bytes.length;
    const isFull = this.events.length >= eventsPerBatch || this.eventBytes >= eventBytesPerBatch;
    if (isFull) this.flush();
  }

  /**
   * Logs a warning. The first one of its kind is logged at once; what follows is counted, and a
   * line says how many there were, once an interval (`RateLimitedLog`).
   */
  warn(text: string, options: LineOptions = {}): void {
    if (this.rateLimited.admit(text, this.loop.now, options)) {
      this.report(warning({ text, service: options.service }));
    }
    this.awaitSummaries();
  }

  /**
   * Logs the end of a connection or session: every one where each is logged, and otherwise only
   * those that failed, of each kind of failure a few an interval and how many more there were.
   */
  recordEnd(connection: Recorded, { failed, logLevel, service }: EndRecord): void {
    const { protocol, end } = connection;
    if (end === undefined) return;
    const kind = isRefusal(end.reason) ? "refused" : "forwarded";
    if (logLevel >= LogLevel.info) return this.record(kind, connection, service);
    if (!failed || logLevel < LogLevel.warning) return;
    const text = `${protocol}: ${endText(end, protocol)}`;
    const isLogged = this.rateLimited.admit(text, this.loop.now, {
      burst: failureLinesMax,
      service,
    });
    if (isLogged) this.record(kind, connection, service);
    this.awaitSummaries();
  }

  /**
   * Logs a session that was rejected: of each reason a few an interval, whatever the level. Forged
   * datagrams cost their sender nothing, and a warning counts all of them.
   */
  recordRefused(session: Recorded, service: string | undefined): void {
    const kind = `refused ${session.protocol} ${session.end?.reason}`;
    const options = { burst: failureLinesMax, isCounted: false, service };
    if (this.rateLimited.admit(kind, this.loop.now, options)) {
      this.record("refused", session, service);
    }
    this.awaitSummaries();
  }

  /** Queues what there is to tell of a connection now, in its place among the events. */
  record(kind: RecordKind, connection: Recorded, service: string | undefined): void {
    this.records.add(kind, connection, this.loop.now, Date.now(), service);
    if (this.records.length >= eventsPerBatch) this.flush();
  }

  finished(id: number, errno: number, call: string): void {
    const hosted = this.services.get(id);
    if (hosted === undefined) return;
    this.services.delete(id);
    if (errno !== 0) this.outcome = { errno, call };
    if (hosted.isRemoved) {
      this.shared.retire(id);
      this.post({ kind: "removed", id });
    }
    // A Worker whose services were all taken away waits for others.
    if (this.services.size === 0 && (this.isStopped || !hosted.isRemoved)) this.loop.stop();
  }

  /** The main thread's signal: look for commands, and whether to stop. */
  onReady(): void {
    sys.eventfdDrain(this.wakeFd);
    const turn = this.shared.askedTurn;
    // This thread has no JavaScript event loop that turns: what was posted is fetched.
    for (;;) {
      const message = receiveMessageOnPort(this.input.commandPort);
      if (message === undefined) break;
      this.carryOut(message.message as Command);
    }
    this.shared.passTurn(turn);
    // Told once, whatever wakes it afterwards.
    if (!this.shared.stopping || this.isStopped) return;
    this.isStopped = true;
    if (this.services.size === 0) this.loop.stop();
    // One that was removed may have been given more time than there is now.
    for (const { service } of [...this.services.values()]) service?.stop();
  }

  private carryOut(command: Command): void {
    switch (command.kind) {
      case "add":
        return this.add(command.id, command.task);
      case "update":
        return this.services.get(command.id)?.service?.update?.(command.change);
      case "release": {
        const { id, closed, moved } = command;
        return this.services.get(id)?.service?.release?.(closed, moved);
      }
      case "replace":
        return this.services.get(command.id)?.service?.replace?.(command.task, command.replaced);
      case "remove":
        return this.remove(command.id, command.drainMs);
      case "suspend":
        return this.suspend(command.protocols);
      case "table":
        return this.showTable();
      case "query":
      case "kill":
        return this.scans.add(command);
      case "freeze":
      case "settle":
      case "adopt":
      case "begin":
        return this.moves.carryOut(command);
    }
  }

  private suspend(protocols: readonly Scheme[]): void {
    this.suspended = protocols;
    for (const { service } of this.services.values()) service?.suspend?.(protocols);
  }

  private add(id: number, task: Task): void {
    const name = "service" in task ? task.service : undefined;
    const hosted: Hosted = { service: undefined, name, isRemoved: false };
    // It may end while it starts.
    this.services.set(id, hosted);
    hosted.service = this.start(new ServiceContext(this, id, this.shared.block(id), name), task);
    if (this.suspended.length > 0) hosted.service.suspend?.(this.suspended);
  }

  private remove(id: number, drainMs?: number): void {
    const hosted = this.services.get(id);
    if (hosted === undefined || hosted.isRemoved) return;
    hosted.isRemoved = true;
    hosted.service?.stop(drainMs);
  }

  private showTable(): void {
    if (this.table?.isDone === false) return;
    const rows = [...this.services.values()].flatMap(({ service, name }) =>
      (service?.rows ?? []).map(({ open }) => ({ open, name })),
    );
    this.table = new TableWalk(this, rows, this.lastId);
  }

  private logSummaries(): void {
    this.logWarnings(this.rateLimited.take(this.loop.now));
    this.awaitSummaries();
  }

  private logWarnings(lines: readonly RateLimitedLine[]): void {
    for (const line of lines) this.report(warning(line));
  }

  private awaitSummaries(): void {
    if (this.warningTimer.slot >= 0) return;
    const { next } = this.rateLimited;
    if (next !== undefined) this.loop.timers.arm(this.warningTimer, next);
  }

  private takeRecords(): void {
    if (this.records.length > 0) this.events.push(this.records.take());
  }

  private flushWhenDue(): void {
    if (this.events.length === 0 && this.records.length === 0) return;
    const due = this.lastBatch + batchIntervalMs;
    if (this.loop.now >= due) this.flush();
    else if (this.batchTimer.slot < 0) this.loop.timers.arm(this.batchTimer, due);
  }

  /** Posts what is queued. A reader that is slow costs lines of the log, or (lossless) time. */
  private flush(): void {
    this.takeRecords();
    const { lossless } = this.input;
    if (!lossless && this.isBehind()) return this.dropLines();
    this.postEvents();
    if (lossless) this.shared.awaitPrinted(outstandingBatches);
  }

  private postEvents(): void {
    if (this.lostLines > 0) {
      this.events.unshift({ kind: "lost", lines: this.lostLines });
      this.lostLines = 0;
    }
    if (this.events.length === 0) return;
    this.loop.timers.disarm(this.batchTimer);
    this.lastBatch = this.loop.now;
    this.eventBytes = 0;
    const events = this.events;
    this.events = [];
    this.shared.sendBatch();
    this.post({ kind: "events", events });
  }

  /** Whether lines are dropped: from too many batches on until there are few again. */
  private isBehind(): boolean {
    const limit = this.isDropping ? outstandingBatchesAgain : outstandingBatches;
    this.isDropping = this.shared.outstanding >= limit;
    return this.isDropping;
  }

  /** All but what the main thread waits for. It is looked again soon whether the reader reads. */
  private dropLines(): void {
    const { loop, shared } = this;
    const kept = this.events.filter(({ kind }) => kind === "tableEnd");
    let lines = -kept.length;
    for (const event of this.events) lines += event.kind === "records" ? recordsIn(event) : 1;
    shared.count(Counter.lostLines, lines);
    this.lostLines += lines;
    this.eventBytes = 0;
    this.lastBatch = loop.now;
    this.events = kept;
    loop.timers.arm(this.batchTimer, loop.now + lostLinesPauseMs);
  }
}

function warning({ text, service }: RateLimitedLine): WorkerEvent {
  return service === undefined ? { kind: "warning", text } : { kind: "warning", text, service };
}

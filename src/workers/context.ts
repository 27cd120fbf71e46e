/** What a service running in a Worker has around it: the loop, the counters, the way to speak. */

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
import { Counter, SharedState } from "./counters.ts";
import { endText, isRefusal } from "./end-reason.ts";
import {
  type Command,
  LogLevel,
  type Outcome,
  type RecordBlock,
  type Task,
  type WorkerEvent,
  type WorkerInput,
  type WorkerMessage,
} from "./protocol.ts";
import { type LineOptions, RateLimitedLog } from "./rate-limited-log.ts";
import { type Recorded, type RecordKind, RecordWriter, recordsIn } from "./records.ts";

/** Something that runs on a loop until it is done or told to stop. */
export interface Service {
  /** Called once. Takes no new work and closes what is open; ends with `context.finish`. */
  stop(): void;
  /** Carries out what `WorkerPool.send` sent, between two events of the loop; must not block. */
  onCommand?(command: Command): void;
}

export class WorkerContext implements Handler {
  readonly loop: EventLoop;
  readonly shared: SharedState;
  private readonly input: WorkerInput;
  private readonly wakeFd: Fd;
  private readonly post: (message: WorkerMessage) => void;
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
  private service: Service | undefined;
  private isStopped = false;

  constructor(input: WorkerInput, post: (message: WorkerMessage) => void) {
    this.input = input;
    this.shared = new SharedState(input.memory);
    // The epoll of the loop is the first that the main thread would have to close.
    sys.keepOpenFds(this.shared.descriptors);
    this.loop = new EventLoop();
    this.wakeFd = input.wakeFd as Fd;
    this.post = post;
    this.loop.onTurn = () => this.flushWhenDue();
    // The runtime collects garbage when memory is asked for, and in the pauses of its own event
    // loop, which this thread has not: what a burst leaves would stay for good.
    this.loop.onQuiet = gcAndSweep;
    check(this.loop.add(this.wakeFd, EPOLLIN, this), "epoll_ctl", "eventfd");
  }

  /** Runs `start`'s service until it finishes; posts what happened and how it ended. */
  run(start: (context: WorkerContext, task: Task) => Service): void {
    this.service = start(this, this.input.task);
    this.loop.run();
    this.logWarnings(this.rateLimited.rest());
    this.takeRecords();
    this.postEvents();
    const outcome: Outcome = { ...this.outcome, counters: this.shared.snapshot() };
    this.post({ kind: "done", outcome });
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
      this.report({ kind: "warning", text });
    }
    this.awaitSummaries();
  }

  /**
   * Logs the end of a connection or session: every one where each is logged, and otherwise only
   * those that failed, of each kind of failure a few an interval and how many more there were.
   */
  recordEnd(connection: Recorded, failed: boolean, logLevel: number): void {
    const { protocol, end } = connection;
    if (end === undefined) return;
    const kind = isRefusal(end.reason) ? "refused" : "forwarded";
    if (logLevel >= LogLevel.info) return this.record(kind, connection);
    if (!failed || logLevel < LogLevel.warning) return;
    const text = `${protocol}: ${endText(end, protocol)}`;
    const isLogged = this.rateLimited.admit(text, this.loop.now, { burst: failureLinesMax });
    if (isLogged) this.record(kind, connection);
    this.awaitSummaries();
  }

  /** Queues what there is to tell of a connection now, in its place among the events. */
  record(kind: RecordKind, connection: Recorded): void {
    this.records.add(kind, connection, this.loop.now, Date.now());
    if (this.records.length >= eventsPerBatch) this.flush();
  }

  /** Ends the loop. `errno` and `call` say what failed, if anything. */
  finish(errno = 0, call = ""): void {
    this.outcome = { errno, call };
    this.loop.stop();
  }

  /** The main thread's signal: look for commands, and whether to stop. */
  onReady(): void {
    sys.eventfdDrain(this.wakeFd);
    // This thread has no JavaScript event loop that turns: what was posted is fetched.
    for (;;) {
      const message = receiveMessageOnPort(this.input.commandPort);
      if (message === undefined) break;
      this.service?.onCommand?.(message.message as Command);
    }
    // Told once, whatever wakes it afterwards.
    if (!this.shared.stopping || this.isStopped) return;
    this.isStopped = true;
    this.service?.stop();
  }

  private logSummaries(): void {
    this.logWarnings(this.rateLimited.take(this.loop.now));
    this.awaitSummaries();
  }

  private logWarnings(texts: readonly string[]): void {
    for (const text of texts) this.report({ kind: "warning", text });
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

/** The surroundings of a service in a Worker: the loop, counters of its own, the log. */

import type { EventLoop } from "../engine/loop.ts";
import type { Scheme } from "../net/target.ts";
import type { CounterBlock } from "./counters.ts";
import type { Packed } from "./moved.ts";
import {
  type ConnectionLog,
  type ForwardTask,
  LogLevel,
  type ServiceChange,
  type WorkerEvent,
} from "./protocol.ts";
import type { LineOptions } from "./rate-limited-log.ts";
import type { Recorded, RecordKind } from "./records.ts";
import type { OpenRows } from "./table.ts";

/** Something that runs on a loop until it is done or told to stop. */
export interface Service {
  /**
   * Takes no new work and closes what is open; ends with `context.finish`. `drainMs` is how long
   * open connections may go on, where they may. A second call may shorten that.
   */
  stop(drainMs?: number): void;
  /** Heeds new settings, between two events of the loop; must not block. */
  update?(change: ServiceChange): void;
  /** Receives nothing new of these protocols, until a call without them; what is open goes on. */
  suspend?(protocols: readonly Scheme[]): void;
  /** Gives up listeners: closes those of `closed`, and leaves those of `moved` open. */
  release?(closed: readonly number[], moved: readonly number[]): void;
  /** Accepts as `task` says from now on; open sessions of a `replaced` protocol end. */
  replace?(task: ForwardTask, replaced: readonly Scheme[]): void;
  /**
   * Takes over a connection or session of another process. It goes on once the function that this
   * returns is called; undefined: it cannot.
   */
  adopt?(packed: Packed, descriptors: readonly number[]): (() => void) | undefined;
  /** Its open connections and sessions, for the table. */
  readonly rows?: readonly OpenRows[];
}

/** How the end of a connection or session is logged. */
export interface EndRecord {
  readonly failed: boolean;
  /** Of `LogLevel`. */
  readonly logLevel: number;
  /** The service's name in the log. */
  readonly service: string | undefined;
}

/** The Worker that a service runs in. */
export interface ServiceHost {
  readonly loop: EventLoop;
  /** The number of the next connection or session, from 1: of no other one in this Worker. */
  nextId(): number;
  report(event: WorkerEvent): void;
  warn(text: string, options?: LineOptions): void;
  recordEnd(connection: Recorded, end: EndRecord): void;
  recordRefused(session: Recorded, service: string | undefined): void;
  record(kind: RecordKind, connection: Recorded, service: string | undefined): void;
  /** Service number `id` has ended; `errno` and `call` say what failed, if anything. */
  finished(id: number, errno: number, call: string): void;
}

export class ServiceContext {
  readonly loop: EventLoop;
  /** Its counters, in memory that the main thread reads. */
  readonly shared: CounterBlock;
  private readonly host: ServiceHost;
  private readonly id: number;
  /** Its name in the log; undefined: it has none. */
  private readonly name: string | undefined;
  /** How many have gone well, for the choice of a sample. */
  private wentWell = 0;

  constructor(host: ServiceHost, id: number, counters: CounterBlock, name?: string) {
    this.name = name;
    this.host = host;
    this.loop = host.loop;
    this.id = id;
    this.shared = counters;
  }

  /** The number of the next connection or session: of no other one in its Worker. */
  nextId(): number {
    return this.host.nextId();
  }

  /** Queues an event for the log (`WorkerContext.report`). */
  report(event: WorkerEvent): void {
    this.host.report(event);
  }

  /** Logs a warning; those of one kind are counted for an interval after the first one. */
  warn(text: string, options?: LineOptions): void {
    this.host.warn(text, this.name === undefined ? options : { ...options, service: this.name });
  }

  /** Logs that a connection or session begins, or that its upstream is reached. */
  recordProgress(kind: "accepted" | "reached", connection: Recorded, log: ConnectionLog): void {
    if (log.level < LogLevel.debug || log.connections !== "all") return;
    this.host.record(kind, connection, this.name);
  }

  /** Logs the end of a connection or session, as far as `log` wants it. */
  recordEnd(connection: Recorded, failed: boolean, log: ConnectionLog): void {
    if (log.connections === "none") return;
    if (!failed && (log.connections === "failed" || this.isSkipped(log))) return;
    this.host.recordEnd(connection, { failed, logLevel: log.level, service: this.name });
  }

  /** Logs a session that was rejected before it began (`WorkerContext.recordRefused`). */
  recordRefused(session: Recorded, { level, connections }: ConnectionLog): void {
    if (level < LogLevel.warning || connections === "none") return;
    this.host.recordRefused(session, this.name);
  }

  /** Whether one that went well is left out; at `debug` none is. */
  private isSkipped({ level, sample }: ConnectionLog): boolean {
    return sample > 1 && level < LogLevel.debug && this.wentWell++ % sample !== 0;
  }

  /** The service has ended and holds nothing. `errno` and `call` say what failed, if anything. */
  finish(errno = 0, call = ""): void {
    this.host.finished(this.id, errno, call);
  }
}

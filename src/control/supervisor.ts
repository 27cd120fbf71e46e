/** Runs Workers until they are done or the user stops them: what all commands share. */

import { SyscallError } from "../../ffi/errno.ts";
import { JoinedPorts, type JoinedPortsSettings } from "../diagnose/snapshot/joined-ports.ts";
import { CommandError, type StopReason } from "../errors.ts";
import type { Log } from "../log/log.ts";
import type { Counters } from "../workers/counters.ts";
import { WorkerPool, WorkerPoolError } from "../workers/pool.ts";
import type { Outcome, Task } from "../workers/protocol.ts";
import { refusedLines } from "../workers/refused-lines.ts";
import type { ProcessIo } from "./process-io.ts";
import { type Remaining, reducePrivileges } from "./reduce-privileges.ts";

/** How a run came to its end. */
export interface Served {
  readonly outcomes: readonly Outcome[];
  readonly counters: Counters;
  /** Undefined when the Workers ended by themselves. */
  readonly stoppedBy: StopReason | "timeout" | undefined;
}

/** How long a run may take, and its end. */
export interface SuperviseLimits {
  /** Tells the Workers to end after so long; 0 or absent: never. */
  readonly timeoutMs?: number;
  /** How long they may take for that, beyond a short time. */
  readonly drainTimeoutMs?: () => number;
  /** Called before the Workers are told to end. */
  readonly stopping?: () => void;
  /** Whether SIGUSR1 prints what is open, and not the counters alone. */
  readonly hasTable?: boolean;
}

export interface ServeLimits extends SuperviseLimits {
  /** Sockets that others may join, and the callback for when another program has. */
  readonly shared?: JoinedPortsSettings;
  /** What this process goes on with; absent: with all that it has. */
  readonly remaining?: Remaining;
}

/**
 * Starts one Worker for each task and waits for all of them, as `supervise` does.
 * @throws CommandError when Workers could not be started, or died again and again
 */
export async function serve(
  io: ProcessIo,
  tasks: readonly Task[],
  log: Pick<Log, "print" | "end" | "lossless">,
  limits: ServeLimits = {},
): Promise<Served> {
  const pool = new WorkerPool(log.print, { lossless: log.lossless });
  const ports = limits.shared && new JoinedPorts(limits.shared);
  // All is open by now, and Workers get what the main thread has.
  if (limits.remaining !== undefined) reducePrivileges(limits.remaining);
  // Before Workers begin: another program at the port gets their traffic from the start.
  ports?.watch();
  try {
    startWorkers(pool, tasks.length, io);
    warnOfRefused(tasks.slice(0, 1), log);
    pool.add(tasks);
    return await new Supervisor(io, pool, log, limits).finished();
  } finally {
    ports?.close();
  }
}

/** @throws CommandError where the system allows no more threads */
export function startWorkers(pool: WorkerPool, count: number, { workerEntry }: ProcessIo): void {
  try {
    for (let started = 0; started < count; started++) pool.start(workerEntry);
  } catch (error) {
    throw told(error);
  }
}

/** Logs the system calls that are refused here, and what is done without them. */
export function warnOfRefused(tasks: readonly Task[], { print }: Pick<Log, "print">): void {
  const lines = [...new Set(tasks.flatMap(refusedLines))];
  if (lines.length > 0) void print(lines.map((text) => ({ kind: "warning", text })));
}

/**
 * Waits for the Workers of a pool. SIGINT, SIGTERM, a reader of standard output that has gone, and
 * a time-out tell them to end; if they do not in time the process ends without them.
 */
export class Supervisor {
  private readonly io: ProcessIo;
  private readonly pool: WorkerPool;
  private readonly log: Pick<Log, "end">;
  private readonly limits: SuperviseLimits;
  private stoppedBy: Served["stoppedBy"];
  private grace: ReturnType<typeof setTimeout> | undefined;

  constructor(
    io: ProcessIo,
    pool: WorkerPool,
    log: Pick<Log, "end">,
    limits: SuperviseLimits = {},
  ) {
    this.io = io;
    this.pool = pool;
    this.log = log;
    this.limits = limits;
    const { hasTable = false } = limits;
    io.onExit(() => pool.abandon());
    io.onStop((reason) => this.stop(reason));
    io.onReport(() => (hasTable ? pool.showTable() : pool.showCounters()));
  }

  /** Tells the Workers to end. A second time it does nothing. */
  stop(reason: NonNullable<Served["stoppedBy"]>): void {
    const { limits, pool } = this;
    if (this.stoppedBy === undefined) limits.stopping?.();
    this.stoppedBy ??= reason;
    pool.stop();
    if (this.grace === undefined) this.leaveIn(pool.graceMs + (limits.drainTimeoutMs?.() ?? 0));
  }

  /**
   * Settles when all Workers have ended and all is printed.
   * @throws CommandError when they died again and again
   */
  async finished(): Promise<Served> {
    const { limits, pool, log } = this;
    const { timeoutMs = 0 } = limits;
    const deadline = timeoutMs > 0 ? setTimeout(() => this.stop("timeout"), timeoutMs) : undefined;
    try {
      const outcomes = await pool.finished(() => {
        if (this.stoppedBy === undefined) return;
        // Nothing drains any more: a reader that does not read is not waited for that long.
        this.leaveIn(pool.graceMs);
        log.end();
      });
      log.end();
      return { outcomes, counters: pool.counters(), stoppedBy: this.stoppedBy };
    } catch (error) {
      throw told(error);
    } finally {
      clearTimeout(deadline);
      clearTimeout(this.grace);
    }
  }

  private leaveIn(ms: number): void {
    clearTimeout(this.grace);
    this.grace = setTimeout(() => this.io.exit(1), ms);
  }
}

function told(error: unknown): unknown {
  return error instanceof WorkerPoolError ? new CommandError(error.message) : error;
}

/** The first failure among the outcomes, as an error; undefined if there is none. */
export function failure(outcomes: readonly Outcome[]): SyscallError | undefined {
  const failed = outcomes.find((outcome) => outcome.errno !== 0);
  return failed === undefined ? undefined : new SyscallError(failed.call, failed.errno);
}

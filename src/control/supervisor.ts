/** Runs Workers until they are done or the user stops them: what listen and bind share. */

import { SyscallError } from "../../ffi/errno.ts";
import { JoinedPorts, type JoinedPortsSettings } from "../diagnose/snapshot/joined-ports.ts";
import { CommandError, type StopReason } from "../errors.ts";
import type { Log } from "../log/log.ts";
import type { Counters } from "../workers/counters.ts";
import { WorkerPool, WorkerPoolError } from "../workers/pool.ts";
import type { Outcome, ServiceChange, Task } from "../workers/protocol.ts";
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
export interface ServeLimits {
  /** Tells the Workers to end after so long; 0 or absent: never. */
  readonly timeoutMs?: number;
  /** How long they may take for that, beyond a short time. */
  readonly drainTimeoutMs?: number;
  /** Called before the Workers are told to end. */
  readonly stopping?: (pool: Pick<WorkerPool, "counters">) => void;
  /** Called once all Workers are started; what it begins has to end by itself. */
  readonly started?: (update: (change: ServiceChange) => void) => void;
  /** Called when a Worker has died, before another one takes its place. */
  readonly died?: () => void;
  /** Whether another Worker takes the place of one that dies. */
  readonly replaces?: boolean;
  /** Whether SIGUSR1 prints what is open, and not the counters alone. */
  readonly hasTable?: boolean;
  /** Sockets that others may join, and who is told when another program has. */
  readonly shared?: JoinedPortsSettings;
  /** What this process goes on with; absent: with all that it has. */
  readonly remaining?: Remaining;
}

/**
 * Starts one Worker for each task and waits for all of them. SIGINT, SIGTERM, a reader of standard
 * output that has gone, and a time-out tell them to end; if they do not in time the process ends
 * without them.
 * @throws CommandError when Workers could not be started, or died again and again
 */
export async function serve(
  io: ProcessIo,
  tasks: readonly Task[],
  log: Pick<Log, "print" | "end" | "lossless">,
  limits: ServeLimits = {},
): Promise<Served> {
  const { timeoutMs = 0, drainTimeoutMs = 0, started, stopping, hasTable = false } = limits;
  const pool = new WorkerPool(log.print, { ...limits, lossless: log.lossless });
  let stoppedBy: Served["stoppedBy"];
  let grace: ReturnType<typeof setTimeout> | undefined;
  const leaveIn = (ms: number) => {
    clearTimeout(grace);
    grace = setTimeout(() => io.exit(1), ms);
  };
  const stop = (reason: NonNullable<Served["stoppedBy"]>) => {
    if (stoppedBy === undefined) stopping?.(pool);
    stoppedBy ??= reason;
    pool.stop();
    if (grace === undefined) leaveIn(pool.graceMs + drainTimeoutMs);
  };
  const ports = limits.shared && new JoinedPorts(limits.shared);
  const lines = tasks.slice(0, 1).flatMap(refusedLines);
  if (lines.length > 0) void log.print(lines.map((text) => ({ kind: "warning", text })));
  io.onExit(() => pool.abandon());
  // All is open by now, and Workers get what the main thread has.
  if (limits.remaining !== undefined) reducePrivileges(limits.remaining);
  // Before Workers begin: another program at the port gets their traffic from the start.
  ports?.watch();
  try {
    for (const _ of tasks) pool.start(io.workerEntry);
  } catch (error) {
    ports?.close();
    throw told(error);
  }
  const service = pool.add(tasks);
  started?.((change) => pool.update(service, change));
  io.onStop(stop);
  io.onReport(() => (hasTable ? pool.showTable() : pool.showCounters()));
  const deadline = timeoutMs > 0 ? setTimeout(() => stop("timeout"), timeoutMs) : undefined;
  try {
    const outcomes = await pool.finished(() => {
      if (stoppedBy === undefined) return;
      // Nothing drains any more: a reader that does not read is not waited for that long.
      leaveIn(pool.graceMs);
      log.end();
    });
    log.end();
    return { outcomes, counters: pool.counters(), stoppedBy };
  } catch (error) {
    throw told(error);
  } finally {
    ports?.close();
    clearTimeout(deadline);
    clearTimeout(grace);
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

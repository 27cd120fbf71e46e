/** Where a command meets the process: its output, its signals, its Workers' entry. Injectable. */

import { constants } from "node:os";
import { ignoresSignal } from "../diagnose/proc.ts";
import { flushMaxMs } from "../engine/limits.ts";
import { DescriptorSink } from "./descriptor-sink.ts";
import type { LogSink, Sink } from "./sink.ts";

export type { LogSink, Sink } from "./sink.ts";

/** What becomes of a log that cannot be written. */
export interface LostLog {
  /** Nobody reads it any more (EPIPE). Returns whether the command goes on without it. */
  closed(code: string): boolean;
  /** It cannot be written for now, as on a full disk: it is tried again and again. */
  failing(code: string): void;
}

export interface Edges {
  readonly stdout: LogSink;
  readonly stderr: Sink;
  /** The entry point of a Worker. */
  readonly workerEntry: URL;
  /**
   * From now on a full disk, or a slow reader, ends nothing: `lost` is told instead, and what is
   * not written is no failure of the command.
   */
  mayLoseOutput(lost: LostLog): void;
  /**
   * Settles when everything has been written. After a signal to stop it waits for a short time
   * only; meanwhile another one ends the process.
   */
  flush(): Promise<void>;
  /** Calls `stop` at SIGINT, at SIGTERM, and when nobody reads standard output any more. */
  onStop(stop: (reason: StopReason) => void): void;
  /**
   * Calls `hangup` at SIGHUP, which from then on does not end the process by itself; not where
   * nohup(1) has had it ignored.
   */
  onHangup(hangup: () => void): void;
  /** Calls `last` when the process ends by itself, in whatever way; it must not wait. */
  onExit(last: () => void): void;
  /** Calls `report` at SIGUSR1, which never ends the process. */
  onReport(report: () => void): void;
  /** Why standard output could not be written, as on a full disk; EPIPE is no failure. */
  outputFailure(): string | undefined;
  /** Ends the process at once, whatever is still open. */
  exit(status: number): never;
}

export type StopReason = "SIGINT" | "SIGTERM" | "EPIPE";

/** Exit statuses: what shells and service managers expect. */
export const exitStatus = {
  success: 0,
  failure: 1,
  usage: 2,
  hungUp: 129,
  interrupted: 130,
  brokenPipe: 141,
  terminated: 143,
} as const;

/** The status of work that was cut off, as a shell reports a death by that signal. */
export function cutOffStatus(reason: StopReason): number {
  if (reason === "SIGINT") return exitStatus.interrupted;
  return reason === "SIGTERM" ? exitStatus.terminated : exitStatus.brokenPipe;
}

/** The real process. */
export function processEdges(workerEntry: URL): Edges {
  let stopping: StopReason | undefined;
  let listener: ((reason: StopReason) => void) | undefined;
  const stop = (reason: StopReason) => {
    // Whoever asks twice does not want to wait.
    if (stopping !== undefined && reason !== "EPIPE") process.exit(cutOffStatus(reason));
    if (stopping !== undefined) return;
    stopping = reason;
    if (listener === undefined && outputFailure === undefined) process.exit(cutOffStatus(reason));
    listener?.(reason);
  };
  let outputFailure: string | undefined;
  let lost: LostLog | undefined;
  const stdout = new DescriptorSink(1, {
    closed(code) {
      if (lost?.closed(code)) return;
      if (code !== "EPIPE") outputFailure = code;
      // What cannot be written has no use for more of it either.
      stop("EPIPE");
    },
    failing: (code) => lost?.failing(code),
  });
  const stderr = new DescriptorSink(2, { closed() {}, failing() {} });
  stdout.other = stderr;
  stderr.other = stdout;
  process.on("SIGINT", () => stop("SIGINT"));
  process.on("SIGTERM", () => stop("SIGTERM"));
  let reporter = () => {};
  process.on("SIGUSR1", () => reporter());
  return {
    stdout,
    stderr,
    workerEntry,
    mayLoseOutput(listener) {
      lost = listener;
      stdout.keepsTrying = true;
    },
    async flush() {
      listener = undefined;
      const flushed = Promise.all([stdout.flush(), stderr.flush()]);
      if (stopping === undefined) await flushed;
      else await Promise.race([flushed, Bun.sleep(flushMaxMs)]);
      if (stdout.pending > 0 && lost === undefined) outputFailure ??= "it was not read in time";
    },
    onStop(callback) {
      listener = callback;
      if (stopping !== undefined) callback(stopping);
    },
    onHangup(hangup) {
      if (!ignoresSignal(constants.signals.SIGHUP)) process.on("SIGHUP", hangup);
    },
    onExit: (last) => void process.on("exit", last),
    onReport(report) {
      reporter = report;
    },
    outputFailure: () => outputFailure,
    exit: (status) => process.exit(status),
  };
}

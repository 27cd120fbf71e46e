/** Where a command meets the process: its output, its signals, its Workers' entry. Injectable. */

import { constants } from "node:os";
import { ignoresSignal } from "../diagnose/proc.ts";

/** A stream that text is written to, in order. */
export interface Sink {
  /** Settles when the text has been handed to the kernel, or nobody reads any more. */
  write(text: string): Promise<void>;
  readonly isTerminal: boolean;
  /** Whether to use colours: on a terminal, unless NO_COLOR is set (no-color.org). */
  readonly colors: boolean;
  /** The terminal's width; undefined when it is none, and lines are not broken. */
  readonly columns: number | undefined;
}

export interface Edges {
  readonly stdout: Sink;
  readonly stderr: Sink;
  readonly stdinIsTerminal: boolean;
  /** The entry point of a Worker. */
  readonly workerEntry: URL;
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
  /** The errno's name if standard output could not be written, as on a full disk; not EPIPE. */
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
  const sink = (stream: NodeJS.WriteStream): Sink => {
    let open = true;
    const onError = ({ code = "EIO" }: NodeJS.ErrnoException) => {
      if (!open) return;
      open = false;
      if (stream !== process.stdout) return;
      if (code !== "EPIPE") outputFailure = code;
      // What cannot be written has no use for more of it either.
      stop("EPIPE");
    };
    stream.on("error", onError);
    const isTerminal = stream.isTTY === true;
    return {
      isTerminal,
      colors: isTerminal && !process.env.NO_COLOR,
      columns: isTerminal && stream.columns >= 40 ? stream.columns : undefined,
      write: (text) =>
        new Promise((resolve) => {
          if (!open || text === "") return resolve();
          stream.write(text, (error) => {
            if (error) onError(error);
            resolve();
          });
        }),
    };
  };
  process.on("SIGINT", () => stop("SIGINT"));
  process.on("SIGTERM", () => stop("SIGTERM"));
  let reporter = () => {};
  process.on("SIGUSR1", () => reporter());
  return {
    stdout: sink(process.stdout),
    stderr: sink(process.stderr),
    stdinIsTerminal: process.stdin.isTTY === true,
    workerEntry,
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

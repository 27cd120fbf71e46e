/** The process that a command runs in: its output, its signals, its end. */

import { constants } from "node:os";
import type { ProcessIo } from "../control/process-io.ts";
import { ignoresSignal } from "../diagnose/snapshot/proc.ts";
import { flushMaxMs } from "../engine/limits.ts";
import { cutOffStatus, type StopReason } from "../errors.ts";
import { DescriptorSink } from "../log/descriptor-sink.ts";
import type { LostLog } from "../log/sink.ts";

/** The real process. */
export function processIo(workerEntry: URL): ProcessIo {
  let stopping: StopReason | undefined;
  let listener: ((reason: StopReason) => void) | undefined;
  const stop = (reason: StopReason) => {
    // A user who asks twice does not want to wait.
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

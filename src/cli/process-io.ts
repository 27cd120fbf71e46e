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
  const listeners: ((reason: StopReason) => void)[] = [];
  const stop = (reason: StopReason) => {
    // A second signal ends the process at once.
    if (stopping !== undefined && reason !== "EPIPE") process.exit(cutOffStatus(reason));
    if (stopping !== undefined) return;
    stopping = reason;
    if (listeners.length === 0 && outputFailure === undefined) process.exit(cutOffStatus(reason));
    for (const listener of [...listeners]) listener(reason);
  };
  let outputFailure: string | undefined;
  let lost: LostLog | undefined;
  const stdout = new DescriptorSink(1, {
    closed(code) {
      if (lost?.closed(code)) return;
      if (code !== "EPIPE") outputFailure = code;
      // More output would fail as well, so the command ends.
      stop("EPIPE");
    },
    failing: (code) => lost?.failing(code),
  });
  const stderr = new DescriptorSink(2, { closed() {}, failing() {} });
  stdout.other = stderr;
  stderr.other = stdout;
  process.on("SIGINT", () => stop("SIGINT"));
  process.on("SIGTERM", () => stop("SIGTERM"));
  return {
    stdout,
    stderr,
    workerEntry,
    mayLoseOutput(listener) {
      lost = listener;
      stdout.keepsTrying = true;
    },
    async flush() {
      listeners.length = 0;
      const flushed = Promise.all([stdout.flush(), stderr.flush()]);
      if (stopping === undefined) await flushed;
      else await Promise.race([flushed, Bun.sleep(flushMaxMs)]);
      if (stdout.pending > 0 && lost === undefined) outputFailure ??= "it was not read in time";
    },
    onStop(callback) {
      listeners.push(callback);
      if (stopping !== undefined) callback(stopping);
    },
    onHangup(hangup) {
      if (!ignoresSignal(constants.signals.SIGHUP)) process.on("SIGHUP", hangup);
    },
    onExit: (last) => void process.on("exit", last),
    onReport: (report) => void process.on("SIGUSR1", report),
    onUpgrade: (upgrade) => void process.on("SIGUSR2", upgrade),
    outputFailure: () => outputFailure,
    exit: (status) => process.exit(status),
  };
}

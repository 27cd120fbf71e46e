/** Where a command meets the process: its output, its signals, its Workers' entry. */

import type { StopReason } from "../errors.ts";
import type { LogIo } from "../log/log.ts";
import type { Sink } from "../log/sink.ts";

export interface ProcessIo extends LogIo {
  readonly stderr: Sink;
  /** The entry point of a Worker. */
  readonly workerEntry: URL;
  /**
   * Settles when everything has been written. After a signal to stop it waits for a short time
   * only; meanwhile another one ends the process.
   */
  flush(): Promise<void>;
  /**
   * Calls `stop` at SIGINT, at SIGTERM, and when nobody reads standard output any more; at once if
   * that has happened. All callbacks are called, in the order in which they were given.
   */
  onStop(stop: (reason: StopReason) => void): void;
  /**
   * Calls `hangup` at SIGHUP, which from then on does not end the process by itself; not where
   * nohup(1) has it ignored. Several callbacks are called in their order.
   */
  onHangup(hangup: () => void): void;
  /** Calls `last` when the process ends by itself, in whatever way; it must not wait. */
  onExit(last: () => void): void;
  /** Calls `report` at SIGUSR1, which never ends the process. Several are called in their order. */
  onReport(report: () => void): void;
  /** Calls `upgrade` at SIGUSR2, which never ends the process. */
  onUpgrade(upgrade: () => void): void;
  /** Why standard output could not be written, as on a full disk; EPIPE is no failure. */
  outputFailure(): string | undefined;
  /** Ends the process at once, whatever is still open. */
  exit(status: number): never;
}

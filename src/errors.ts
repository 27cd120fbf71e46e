/** Errors that end a command with one line: what is wrong, and what would be accepted. Pure. */

/** Why a command is to stop: a signal, or nobody reads standard output any more. */
export type StopReason = "SIGINT" | "SIGTERM" | "EPIPE";

/** Exit statuses: what shells and service managers expect. */
export const exitStatus = {
  success: 0,
  failure: 1,
  usage: 2,
  /** No process serves at the admin socket. */
  notRunning: 3,
  /** The configuration is valid, and only a new process can apply it. */
  needsUpgrade: 4,
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

/** The status of a command that served until a signal, or until nobody read its output. */
export function servedStatus(stoppedBy: string | undefined): number {
  return stoppedBy === "EPIPE" ? exitStatus.brokenPipe : exitStatus.success;
}

/** The arguments cannot be carried out as they are. Exit status 2; nothing has been changed. */
export class UsageError extends Error {
  readonly status = exitStatus.usage;
}

/** The command was understood and failed. Exit status 1, or another one that tells why. */
export class CommandError extends Error {
  readonly status: number;

  constructor(message: string, status: number = exitStatus.failure) {
    super(message);
    this.status = status;
  }
}

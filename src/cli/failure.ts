/** Errors that end a command with one line: what is wrong, and what would be accepted. */

import { exitStatus } from "./edges.ts";

/** The arguments cannot be carried out as they are. Exit status 2; nothing has been changed. */
export class UsageError extends Error {
  readonly status = exitStatus.usage;
}

/** The command was understood and failed. Exit status 1. */
export class CommandError extends Error {
  readonly status = exitStatus.failure;
}

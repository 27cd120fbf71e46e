/**
 * Reads the configuration again and has a server take it over. A signal, a command and the admin
 * interface get the same answer: what has changed, or why nothing has.
 */

import { type Change, changeLine } from "../../config/diff.ts";
import type { ReadConfiguration } from "../../config/file.ts";
import { type ConfigProblem, problemText } from "../../config/problem.ts";
import type { Configuration } from "../../config/service.ts";
import { CommandError } from "../../errors.ts";
import type { Log } from "../../log/log.ts";
import { ServiceProblem, UpgradeNeeded } from "./issues.ts";
import type { ReloadStatus } from "./status.ts";
import { fileWords } from "./words.ts";

/** How a reload is carried out. */
export interface ReloadOptions {
  /** Only lists the changes. */
  readonly dryRun?: boolean;
  /** Resets the connections of services and upstreams that are gone. */
  readonly closeRemoved?: boolean;
}

/** The result of a reload. */
export type ReloadResult =
  | {
      readonly kind: "applied" | "unchanged" | "compared";
      readonly changes: readonly Change[];
      readonly generation: number;
    }
  /** The configuration has problems, a line each. */
  | {
      readonly kind: "invalid";
      readonly problems: readonly string[];
      /** The same with their places; undefined: they are found on this host, not in the file. */
      readonly found?: readonly ConfigProblem[];
    }
  /** The system rejects a part of it. */
  | { readonly kind: "failed"; readonly problems: readonly string[] }
  /** The configuration is fine, and only a new process can take it over. */
  | { readonly kind: "upgrade"; readonly problems: readonly string[] };

/** The parts of a server that a reload needs. */
export interface Reloadable {
  readonly log: Log;
  lastReload: ReloadStatus | undefined;
  readonly generation: number;
  compare(next: Configuration): readonly Change[];
  apply(next: Configuration, options: ReloadOptions): Promise<readonly Change[]>;
}

/** Reads the configuration and has `server` take it over; the result has the problems. */
export async function reload(
  server: Reloadable,
  read: () => Promise<ReadConfiguration>,
  options: ReloadOptions = {},
): Promise<ReloadResult> {
  const result = await attempt(server, read, options);
  if (options.dryRun !== true) {
    // For logrotate(8), whether anything was changed or not.
    server.log.reopen();
    const problems = "problems" in result ? result.problems : [];
    const isSuccessful = problems.length === 0;
    const time = Date.now();
    const successTime = isSuccessful ? time : server.lastReload?.successTime;
    server.lastReload = { time, isSuccessful, successTime, problems };
    logResult(server.log, result);
  }
  return result;
}

async function attempt(
  server: Reloadable,
  read: () => Promise<ReadConfiguration>,
  options: ReloadOptions,
): Promise<ReloadResult> {
  try {
    const { configuration, problems } = await read();
    if (configuration === undefined) {
      return { kind: "invalid", problems: problems.map(problemText), found: problems };
    }
    const isCompared = options.dryRun === true;
    const changes = isCompared
      ? server.compare(configuration)
      : await server.apply(configuration, options);
    const { generation } = server;
    const kind = isCompared ? "compared" : changes.length === 0 ? "unchanged" : "applied";
    return { kind, changes, generation };
  } catch (error) {
    if (error instanceof ServiceProblem) {
      return { kind: "invalid", problems: [fileWords.problem(error)] };
    }
    if (error instanceof UpgradeNeeded) {
      return { kind: "upgrade", problems: error.changes.map(changeLine) };
    }
    if (error instanceof CommandError) return { kind: "failed", problems: [error.message] };
    throw error;
  }
}

/** The lines of a result for people. */
function resultLines(result: ReloadResult): string[] {
  switch (result.kind) {
    case "unchanged":
      return ["nothing to change"];
    case "compared":
      return result.changes.length === 0
        ? ["nothing to change"]
        : [...result.changes.map(changeLine), "nothing was changed: this was a dry run"];
    case "applied":
      return [...result.changes.map(changeLine), `applied: generation ${result.generation}`];
    case "upgrade":
      return [...result.problems, "nothing was changed: these changes need an upgrade"];
    case "invalid":
    case "failed":
      return [...result.problems, "nothing was changed"];
  }
}

function logResult(log: Log, result: ReloadResult): void {
  if ("problems" in result) {
    for (const line of resultLines(result)) log.warn(`reload: ${line}`);
    return;
  }
  for (const each of result.changes) {
    log.note(`    ${changeLine(each)}`, { event: "change", change: changeLine(each) });
  }
  const { generation, kind } = result;
  const text = kind === "applied" ? `Applied: generation ${generation}` : "Nothing to change";
  log.note(`[+] ${text}`, { event: "reloaded", generation });
}

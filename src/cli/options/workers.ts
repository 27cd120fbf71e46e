/** --workers, and how bounds of the whole command are divided among Workers. */

import { availableParallelism } from "node:os";
import { withDefault } from "@optique/core/modifiers";
import { option } from "@optique/core/primitives";
import { coreCount, threadLimit } from "../../control/threads.ts";
import { CommandError, UsageError } from "../../errors.ts";
import { prose } from "../prose.ts";
import { lessThanWorkers } from "../words/settings.ts";
import { workersValue } from "./values.ts";

/** How many Workers there are. */
export const workersOption = withDefault(
  option("--workers", workersValue(), {
    description: prose`Share the traffic among N threads (SO_REUSEPORT); 1 by default. ${"auto"}:
      one on each core.`,
  }),
  1,
);

/** How many Workers that are. */
export function workerCount(workers: number | "auto"): number {
  return workers === "auto" ? coreCount() : workers;
}

/** Threads that the runtime starts later: compilers, collectors, name look-ups. */
const threadsOfRuntime = 2 + Math.min(8, availableParallelism());

/**
 * Checks the limit on threads before anything is changed: without threads the runtime aborts, and
 * leaves rules that only this process would have removed.
 * @throws CommandError if the system allows too few threads
 */
export function checkThreads(workers: number): void {
  const limit = threadLimit();
  const wanted = workers + threadsOfRuntime;
  if (limit === undefined || limit.room >= wanted) return;
  const many = workers === 1 ? "a worker" : `${workers} workers`;
  throw new CommandError(
    `Cannot start ${many}: ${limit.text}, which leaves room for ${Math.max(0, limit.room)} ` +
      `threads, and ${wanted} are needed: raise it (${limit.setting})` +
      (workers > 1 ? ", or give fewer --workers" : ""),
  );
}

/**
 * One Worker's part of a bound of all Workers; undefined without a bound. The parts add up to the
 * bound.
 */
export function partOf(
  total: number | undefined,
  workers: number,
  worker: number,
): number | undefined {
  return total && Math.floor((total + worker) / workers);
}

/** @throws UsageError for a bound below the number of Workers; `name` is its option */
export function checkParts(name: string, total: number | undefined, workers: number): void {
  if (total === undefined || total >= workers) return;
  throw new UsageError(lessThanWorkers(name, total, workers));
}

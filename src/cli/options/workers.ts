/** --workers, and how a bound of the whole command is parted among them. */

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

/** Threads that the runtime starts once it is at work: compilers, collectors, name look-ups. */
const threadsOfRuntime = 2 + Math.min(8, availableParallelism());

/**
 * Before anything is changed: a runtime that gets no thread aborts, and leaves behind what only
 * this process would have taken back.
 * @throws CommandError where the system allows too few threads
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
 * The part of one Worker of what `name` allows them together; undefined without such a bound. The
 * parts of all make just that.
 */
export function partOf(
  total: number | undefined,
  workers: number,
  worker: number,
): number | undefined {
  return total && Math.floor((total + worker) / workers);
}

/** @throws UsageError for a bound that leaves a Worker nothing; `name` is its option */
export function checkParts(name: string, total: number | undefined, workers: number): void {
  if (total === undefined || total >= workers) return;
  throw new UsageError(lessThanWorkers(name, total, workers));
}

/** --workers, and how a bound of the whole command is parted among them. */

import { withDefault } from "@optique/core/modifiers";
import { option } from "@optique/core/primitives";
import { UsageError } from "./failure.ts";
import { prose } from "./prose.ts";
import { workersValue } from "./values.ts";

/** How many Workers there are. */
export const workersOption = withDefault(
  option("--workers", workersValue(), {
    description: prose`Share the traffic among so many threads (SO_REUSEPORT), ${"auto"}: one on
      each core; 1 by default.`,
  }),
  1,
);

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
  throw new UsageError(
    `${name} ${total} is less than one for each of the ${workers} workers: ` +
      `give at least ${workers}, or fewer --workers`,
  );
}

/** --workers, and bounds that are parted among them. */

import { withDefault } from "@optique/core/modifiers";
import { option } from "@optique/core/primitives";
import { UsageError } from "../../errors.ts";
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

/** @throws UsageError for a bound that leaves a Worker nothing; `name` is its option */
export function checkParts(name: string, total: number | undefined, workers: number): void {
  if (total === undefined || total >= workers) return;
  throw new UsageError(lessThanWorkers(name, total, workers));
}

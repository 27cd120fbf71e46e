/** Totals of a process that are no service's and no upstream's: they go on over an upgrade. */

import type { HeldPart } from "../../capture/live/hold.ts";
import type { Log } from "../../log/log.ts";
import type { WorkerPool } from "../../workers/pool.ts";
import type { InstalledRules } from "./installed-rules.ts";

/** The parts of a server that count them. */
export interface TotalsParts {
  readonly pool: Pick<WorkerPool, "workers" | "counters" | "inherited">;
  readonly rules: Pick<InstalledRules, "parts">;
  readonly log: Pick<Log, "lost">;
}

/** The key of the deaths of Workers at a place. */
export const deathsOf = (worker: number) => `deaths/${worker}`;
/** The key of the repairs of a kind of rules. */
export const repairsOf = (part: HeldPart["part"]) => `repairs/${part}`;
/** The key of the lines that were dropped instead of being written there. */
export const lostLinesOf = (sink: string) => `lost/${sink}`;

/** The totals by their keys: of this process, and of those that have handed over to it. */
export function processTotals({ pool, rules, log }: TotalsParts): Record<string, number> {
  const totals: Record<string, number> = { ...pool.inherited.totals };
  const add = (key: string, count: number) => {
    totals[key] = (totals[key] ?? 0) + count;
  };
  for (const { number, deaths } of pool.workers()) add(deathsOf(number), deaths);
  for (const { part, repairs } of rules.parts) add(repairsOf(part), repairs);
  for (const [sink, lines] of Object.entries(log.lost)) add(lostLinesOf(sink), lines);
  return totals;
}

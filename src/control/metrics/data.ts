/** The figures that metrics are made of. */

import type { HeldPart } from "../../capture/live/hold.ts";
import type { Scheme } from "../../net/target.ts";
import type { CheckCounts } from "../../workers/upstream-board.ts";

/** All that a scrape shows. Times are in ms since 1970. */
export interface MetricsData {
  readonly build: { readonly version: string; readonly commit: string; readonly bun: string };
  readonly startTime: number;
  readonly process: ProcessFigures;
  /** Counts the configurations that were applied, from 1. */
  readonly generation: number;
  /** When a configuration was applied, and whether the last attempt to apply one succeeded. */
  readonly reload: { readonly isSuccessful: boolean; readonly successTime: number };
  readonly workers: readonly WorkerFigures[];
  readonly services: readonly ServiceFigures[];
  readonly upstreams: readonly UpstreamFigures[];
  /** Empty where this process has installed no rules. */
  readonly routes: readonly HeldPart[];
  /** Lines of the log that were dropped, by where they were to go. */
  readonly lostLines: Readonly<Record<string, number>>;
}

/** The whole process, as the kernel counts it. */
export interface ProcessFigures {
  readonly startTime: number;
  readonly cpuSeconds: number;
  readonly residentBytes: number;
  /** Undefined where the kernel does not tell it. */
  readonly openFds: number | undefined;
  readonly maxFds: number | undefined;
}

/** The place of a Worker. */
export interface WorkerFigures {
  /** From 1. */
  readonly number: number;
  /** How many have died in this place. */
  readonly deaths: number;
  /** Of the last one or two minutes. */
  readonly longestTurnMs: number;
}

/** One service, in all Workers together: numbers, since there may be a thousand services. */
export interface ServiceFigures {
  /** `service="web"`, as `labels` of `text.ts` makes it. */
  readonly labels: Uint8Array;
  readonly pool: string;
  readonly protocols: readonly Scheme[];
  /** By `Counter`. */
  readonly counters: Float64Array;
  /** By the places of `tally.ts`. */
  readonly tally: Float64Array;
}

/** One address of an upstream, in all Workers together: read when it is asked for. */
export interface UpstreamFigures {
  /** `pool="web",upstream="web1"`; of a name's further addresses the address. */
  readonly labels: Uint8Array;
  readonly isUp: boolean;
  readonly isDraining: boolean;
  readonly weight: number;
  /** It has an address: one without, such as the one that the client asks for, counts nothing. */
  readonly isCounted: boolean;
  /** Undefined where it is not checked. */
  readonly checks: CheckCounts | undefined;
  /** A counter of `UpstreamCounter`. */
  count(counter: number): number;
}

/** The figures that metrics are made of, as plain data. Pure. */

import type { Counters } from "../../workers/counters.ts";
import type { TallyCounts } from "../../workers/tally.ts";

/** All that a scrape shows. Times are in ms since 1970. */
export interface MetricsData {
  readonly build: { readonly version: string; readonly commit: string; readonly bun: string };
  readonly startTime: number;
  readonly process: ProcessFigures;
  /** Counts the configurations that were applied, from 1. */
  readonly generation: number;
  /** When a configuration was applied, and whether the last attempt to apply one succeeded. */
  readonly reload: { readonly isSuccessful: boolean; readonly successTime: number };
  readonly workers: number;
  readonly workerDeaths: number;
  readonly services: readonly ServiceFigures[];
  readonly upstreams: readonly UpstreamFigures[];
  /** Undefined where this process installs no rules. */
  readonly routes: { readonly isInstalled: boolean; readonly repaired: number } | undefined;
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

/** One service, in all Workers together. */
export interface ServiceFigures {
  readonly name: string;
  readonly pool: string;
  readonly protocols: readonly ("tcp" | "udp")[];
  readonly counters: Counters;
  readonly tally: TallyCounts;
}

/** One address of an upstream, in all Workers together. */
export interface UpstreamFigures {
  readonly pool: string;
  /** Its name; of a name's further addresses the address. */
  readonly upstream: string;
  readonly isUp: boolean;
  readonly isDraining: boolean;
  readonly weight: number;
  /** Undefined of an upstream without an address, such as the one that the client asks for. */
  readonly counters: UpstreamCounts | undefined;
  /** Checks by their result, and how long the last one took; undefined where it is not checked. */
  readonly checks:
    | { readonly results: Readonly<Record<string, number>>; readonly lastMs: number | undefined }
    | undefined;
}

/** What was counted of an upstream. */
export interface UpstreamCounts {
  readonly open: number;
  readonly connects: number;
  /** Attempts that failed, by why. */
  readonly failures: Readonly<Record<string, number>>;
}

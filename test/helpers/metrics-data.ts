/** Figures for tests of metrics: as many services and upstreams as are asked for. */

import type { MetricsData } from "../../src/control/metrics/data.ts";
import { renderMetrics } from "../../src/control/metrics/families.ts";
import { labels } from "../../src/control/metrics/text.ts";
import { COUNTER_VALUES } from "../../src/workers/counters.ts";
import { endReasonList } from "../../src/workers/end-reason.ts";
import { TALLY_VALUES, Tally } from "../../src/workers/tally.ts";
import { UpstreamCounter } from "../../src/workers/upstream-board.ts";

const upstreamCounts: Readonly<Record<number, number>> = {
  [UpstreamCounter.open]: 3,
  [UpstreamCounter.connects]: 1_000,
  [UpstreamCounter.refused]: 1,
};

/** Figures of `services` services with `upstreams` upstreams each; `of` makes their names. */
export function metricsData(
  services: number,
  upstreams: number,
  of = (index: number) => `service${index}`,
): MetricsData {
  const values = new Float64Array(TALLY_VALUES);
  const tally = new Tally(values);
  for (const [index, reason] of endReasonList.entries()) {
    tally.ended("tcp", "client", reason);
    tally.ended("udp", "proxy", reason);
    tally.refusedSession(reason);
    tally.dropped("hop-limit", 1);
    tally.lasted(index * 100);
    tally.connected(index);
  }
  const names = Array.from({ length: services }, (_, index) => of(index));
  const counters = new Float64Array(COUNTER_VALUES);
  return {
    build: { version: "1.2.3", commit: "abc", bun: "1.4.5" },
    ...{ startTime: 1_700_000_000_500, generation: 3 },
    workers: [
      { number: 1, deaths: 0, longestTurnMs: 1.25 },
      { number: 2, deaths: 1, longestTurnMs: 0 },
    ],
    process: {
      ...{ startTime: 1_700_000_000_000, cpuSeconds: 12.5, residentBytes: 60_000_000 },
      ...{ openFds: 20, maxFds: 1024 },
    },
    reload: { isSuccessful: true, successTime: 1_700_000_001_000 },
    routes: [
      { part: "firewall", isInstalled: true, repairs: 0 },
      { part: "rule", isInstalled: false, repairs: 2 },
      { part: "setting", isInstalled: true, repairs: 1 },
    ],
    lostLines: { stdout: 4 },
    services: names.map((name) => ({
      ...{ labels: labels({ service: name }), pool: name, protocols: ["tcp", "udp"] as const },
      ...{ counters, tally: values },
    })),
    upstreams: names.flatMap((pool) =>
      Array.from({ length: upstreams }, (_, index) => ({
        labels: labels({ pool, upstream: `192.0.2.${index}:80` }),
        ...{ isUp: true, isDraining: false, weight: 100, isCounted: true },
        checks: { succeeded: 5, failed: 0, lastMs: 1.5 },
        count: (counter: number) => upstreamCounts[counter] ?? 0,
      })),
    ),
  };
}

/** The metrics as a string. */
export function metricsString(data: MetricsData): string {
  return new TextDecoder().decode(renderMetrics(data));
}

/** Every name that a sample may have. */
export const metricNames: ReadonlySet<string> = new Set(
  metricsString(metricsData(1, 1)).match(/^[a-z_]+(?=[ {])/gm),
);

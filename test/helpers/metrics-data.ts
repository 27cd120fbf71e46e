/** Figures for tests of metrics: as many services and upstreams as are asked for. */

import type { MetricsData } from "../../src/control/metrics/data.ts";
import { renderMetrics } from "../../src/control/metrics/families.ts";
import { sumValues } from "../../src/workers/counters.ts";
import { endReasonList } from "../../src/workers/end-reason.ts";
import { readTallies, TALLY_VALUES, Tally } from "../../src/workers/tally.ts";

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
    tally.lasted(index * 100);
    tally.connected(index);
  }
  const counts = readTallies([values]);
  const names = Array.from({ length: services }, (_, index) => of(index));
  const counters = sumValues([]);
  return {
    build: { version: "1.2.3", commit: "abc", bun: "1.4.5" },
    ...{ startTime: 1_700_000_000_500, generation: 3, workers: 2, workerDeaths: 1 },
    process: {
      ...{ startTime: 1_700_000_000_000, cpuSeconds: 12.5, residentBytes: 60_000_000 },
      ...{ openFds: 20, maxFds: 1024 },
    },
    reload: { isSuccessful: true, successTime: 1_700_000_001_000 },
    routes: { isInstalled: true, repaired: 2 },
    lostLines: { stdout: 4 },
    services: names.map((name) => ({
      ...{ name, pool: name, protocols: ["tcp", "udp"] as const, counters, tally: counts },
    })),
    upstreams: names.flatMap((pool) =>
      Array.from({ length: upstreams }, (_, index) => ({
        ...{ pool, upstream: `192.0.2.${index}:80`, isUp: true, isDraining: false, weight: 100 },
        counters: { open: 3, connects: 1_000, failures: { refused: 1, timeout: 0 } },
        checks: { results: { ok: 5, failed: 0 }, lastMs: 1.5 },
      })),
    ),
  };
}

/** Every name that a sample may have. */
export const metricNames: ReadonlySet<string> = new Set(
  renderMetrics(metricsData(1, 1)).match(/^[a-z_]+(?=[ {])/gm),
);

/** Makes the figures of the metrics out of a server's status. */

import type { Log } from "../../log/log.ts";
import { commit } from "../../version.ts";
import type { WorkerPool } from "../../workers/pool.ts";
import type { ServerStatus, ServiceStatus } from "../server/status.ts";
import type { MetricsData, ServiceFigures } from "./data.ts";
import { processFigures } from "./process-figures.ts";
import { upstreamFigures } from "./upstream-figures.ts";

/** What a status does not have. */
export interface MetricsParts {
  readonly pool: Pick<WorkerPool, "tally" | "deathCount">;
  /** The numbers of the services that run, by name. */
  readonly running: ReadonlyMap<string, { readonly id: number }>;
  readonly log: Pick<Log, "lost">;
}

/** The figures of now. */
export function metricsOf(status: ServerStatus, parts: MetricsParts): MetricsData {
  const { version, startTime, generation, lastReload, workers, routes, counters } = status;
  const { pool, log } = parts;
  return {
    build: { version, commit, bun: Bun.version },
    ...{ startTime, generation, workers, workerDeaths: pool.deathCount },
    process: processFigures(),
    reload: {
      isSuccessful: lastReload?.isSuccessful ?? true,
      successTime: lastReload?.successTime ?? startTime,
    },
    services: status.services.flatMap((service) => serviceFigures(service, parts)),
    upstreams: status.pools.flatMap(upstreamFigures),
    routes: routes.installed ? { isInstalled: true, repaired: routes.repaired } : undefined,
    lostLines: { ...log.lost, stdout: (log.lost.stdout ?? 0) + counters.lostLines },
  };
}

function serviceFigures(service: ServiceStatus, { pool, running }: MetricsParts): ServiceFigures[] {
  const { name, pool: upstreams, listeners, counters } = service;
  const id = running.get(name)?.id;
  if (id === undefined) return [];
  const protocols = [...new Set(listeners.map(({ protocol }) => protocol))];
  return [{ name, pool: upstreams, protocols, counters, tally: pool.tally(id) }];
}

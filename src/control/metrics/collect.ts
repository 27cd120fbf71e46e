/** Makes the figures of the metrics out of a server's parts, without a message to a Worker. */

import type { Service } from "../../config/service.ts";
import { commit, version } from "../../version.ts";
import { deathsOf, lostLinesOf, processTotals, repairsOf } from "../server/process-totals.ts";
import type { ServerParts } from "../server/status-of.ts";
import { protocolsOf } from "../server/tasks.ts";
import type { MetricsData, ServiceFigures } from "./data.ts";
import { processFigures } from "./process-figures.ts";
import { labels } from "./text.ts";
import { upstreamFigures } from "./upstream-figures.ts";

/** The figures of now. */
export function metricsOf(parts: ServerParts): MetricsData {
  const { configuration, startTime, generation, lastReload, pool, pools, rules } = parts;
  const totals = processTotals(parts);
  const total = (key: string) => totals[key] ?? 0;
  parts.paths.publish();
  const { lostLines } = pool.counters();
  const sinks = Object.keys(parts.log.lost);
  return {
    build: { version, commit, bun: Bun.version },
    ...{ startTime, generation },
    workers: pool.workers().map((each) => ({ ...each, deaths: total(deathsOf(each.number)) })),
    process: processFigures(),
    reload: {
      isSuccessful: lastReload?.isSuccessful ?? true,
      successTime: lastReload?.successTime ?? startTime,
    },
    services: configuration.services.flatMap((service) => serviceFigures(service, parts)),
    upstreams: pools.all.flatMap(upstreamFigures),
    routes: rules.parts.map((each) => ({ ...each, repairs: total(repairsOf(each.part)) })),
    lostLines: {
      ...Object.fromEntries(sinks.map((sink) => [sink, total(lostLinesOf(sink))])),
      stdout: total(lostLinesOf("stdout")) + lostLines,
    },
  };
}

function serviceFigures(service: Service, parts: ServerParts): ServiceFigures[] {
  const { pool, running, paths } = parts;
  const { name: text, route } = service;
  const id = running.get(text)?.id;
  if (id === undefined && !paths.has(text)) return [];
  const { counters, tally } =
    id === undefined ? paths.countsOf(text) : { counters: pool.values(id), tally: pool.tally(id) };
  const own = { labels: labels({ service: text }), pool: route.pool.name };
  return [{ ...own, protocols: protocolsOf(service), counters, tally }];
}

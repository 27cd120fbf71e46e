/** The metrics of upstreams and pools. Pure. */

import type { Histogram } from "../../workers/tally.ts";
import type { ServiceFigures, UpstreamFigures } from "./data.ts";
import type { Kind, Metric } from "./metric.ts";
import { addHistogram, labels } from "./text.ts";

/** A figure of each upstream that has it. */
function ofUpstream(
  name: string,
  type: Kind,
  help: string,
  value: (figures: UpstreamFigures) => number | undefined,
): Metric {
  return {
    ...{ name, type, help },
    samples: ({ upstreams }, add) => {
      for (const upstream of upstreams) {
        const figure = value(upstream);
        if (figure !== undefined) add(upstream.labels, figure);
      }
    },
  };
}

/** Figures of each upstream by a label; a word that has not happened has no sample. */
function byWord(
  name: string,
  help: string,
  label: string,
  values: (figures: UpstreamFigures) => Readonly<Record<string, number>>,
): Metric {
  return {
    ...{ name, type: "counter", help },
    samples: ({ upstreams }, add) => {
      for (const upstream of upstreams) {
        const figures = values(upstream);
        for (const word in figures) {
          const figure = figures[word] as number;
          if (figure !== 0) add(`${upstream.labels},${label}="${word}"`, figure);
        }
      }
    },
  };
}

export const upstreamFamilies: readonly Metric[] = [
  ofUpstream(
    "tproxy_upstream_up",
    "gauge",
    "Whether an upstream gets connections: its administrator and its check let it",
    ({ isUp }) => (isUp ? 1 : 0),
  ),
  ofUpstream(
    "tproxy_upstream_draining",
    "gauge",
    "Whether an upstream gets no new connections and keeps those that are open",
    ({ isDraining }) => (isDraining ? 1 : 0),
  ),
  ofUpstream("tproxy_upstream_weight", "gauge", "The weight of an upstream", (each) => each.weight),
  ofUpstream(
    "tproxy_upstream_connections_open",
    "gauge",
    "Connections and sessions of an upstream that are open",
    ({ counters }) => counters?.open,
  ),
  ofUpstream(
    "tproxy_upstream_connects_total",
    "counter",
    "Connections and sessions that were given to an upstream",
    ({ counters }) => counters?.connects,
  ),
  byWord(
    "tproxy_upstream_connect_failures_total",
    "Connections and sessions that failed to reach an upstream, by why",
    "reason",
    ({ counters }) => counters?.failures ?? {},
  ),
  {
    ...{ name: "tproxy_upstream_connect_seconds", type: "histogram" },
    help: "How long it took to connect to upstreams of a pool over TCP",
    samples: ({ services }, add) => {
      for (const [pool, histogram] of connectsByPool(services)) {
        addHistogram(add, labels({ pool }), histogram);
      }
    },
  },
  byWord(
    "tproxy_upstream_checks_total",
    "Checks of an upstream, by their result",
    "result",
    ({ checks }) => checks?.results ?? {},
  ),
  {
    ...{ name: "tproxy_upstream_check_seconds", type: "gauge" },
    help: "How long the last check of an upstream took",
    samples: ({ upstreams }, add) => {
      for (const { labels: of, checks } of upstreams) {
        if (checks?.lastMs !== undefined) add(of, checks.lastMs / 1000);
      }
    },
  },
];

function connectsByPool(services: readonly ServiceFigures[]): Map<string, Histogram> {
  const pools = new Map<string, Histogram>();
  for (const { pool, protocols, tally } of services) {
    if (!protocols.includes("tcp")) continue;
    const known = pools.get(pool);
    pools.set(pool, known === undefined ? tally.connect : sum(known, tally.connect));
  }
  return pools;
}

function sum(a: Histogram, b: Histogram): Histogram {
  const counts = a.counts.map((count, place) => count + (b.counts[place] as number));
  return { bounds: a.bounds, counts, sum: a.sum + b.sum };
}

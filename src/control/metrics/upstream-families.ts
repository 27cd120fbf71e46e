/** The metrics of upstreams and pools. Pure. */

import { sumOf } from "../../workers/counters.ts";
import { connectPlace, TALLY_VALUES } from "../../workers/tally.ts";
import { type ConnectFailure, UpstreamCounter } from "../../workers/upstream-board.ts";
import type { ServiceFigures, UpstreamFigures } from "./data.ts";
import type { Kind, Metric } from "./metric.ts";
import { encoded, labels } from "./text.ts";

/** A figure of each upstream that has it. */
function ofUpstream(
  name: string,
  type: Kind,
  help: string,
  value: (figures: UpstreamFigures) => number | undefined,
): Metric {
  return {
    ...{ name, type, help },
    samples: ({ upstreams }, out) => {
      for (const upstream of upstreams) {
        const figure = value(upstream);
        if (figure !== undefined) out.add(upstream.labels, figure);
      }
    },
  };
}

const failures: readonly ConnectFailure[] = [
  ...(["refused", "timeout", "unreachable", "reset", "local"] as const),
];
const failurePlaces = failures.map((reason) => ({
  ...{ at: UpstreamCounter[reason], labels: encoded(`,reason="${reason}"`) },
}));

const results = { ok: encoded(',result="ok"'), failed: encoded(',result="failed"') };

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
    (each) =>
      each.isCounted
        ? each.count(UpstreamCounter.open) + each.count(UpstreamCounter.openSessions)
        : undefined,
  ),
  ofUpstream(
    "tproxy_upstream_connects_total",
    "counter",
    "Connections and sessions that were given to an upstream",
    (each) =>
      each.isCounted
        ? each.count(UpstreamCounter.connects) + each.count(UpstreamCounter.sessions)
        : undefined,
  ),
  {
    ...{ name: "tproxy_upstream_connect_failures_total", type: "counter" },
    help: "Connections and sessions that failed to reach an upstream, by why",
    samples: ({ upstreams }, out) => {
      for (const upstream of upstreams) {
        if (!upstream.isCounted) continue;
        for (const { at, labels: word } of failurePlaces) {
          const count = upstream.count(at);
          if (count !== 0) out.add(upstream.labels, count, word);
        }
      }
    },
  },
  {
    ...{ name: "tproxy_upstream_connect_seconds", type: "histogram" },
    help: "How long it took to connect to upstreams of a pool over TCP",
    samples: ({ services }, out) => {
      for (const [pool, tally] of talliesByPool(services)) {
        out.histogram(labels({ pool }), tally, connectPlace);
      }
    },
  },
  {
    ...{ name: "tproxy_upstream_checks_total", type: "counter" },
    help: "Checks of an upstream, by their result",
    samples: ({ upstreams }, out) => {
      for (const { labels: of, checks } of upstreams) {
        if (checks === undefined) continue;
        if (checks.succeeded !== 0) out.add(of, checks.succeeded, results.ok);
        if (checks.failed !== 0) out.add(of, checks.failed, results.failed);
      }
    },
  },
  ofUpstream(
    "tproxy_upstream_check_seconds",
    "gauge",
    "How long the last check of an upstream took",
    ({ checks }) =>
      checks !== undefined && checks.succeeded + checks.failed > 0
        ? checks.lastMs / 1000
        : undefined,
  ),
];

/** Those of the services that have a pool, summed. */
function talliesByPool(services: readonly ServiceFigures[]): Map<string, Float64Array> {
  const pools = new Map<string, Float64Array>();
  for (const { pool, protocols, tally } of services) {
    if (!protocols.includes("tcp")) continue;
    const known = pools.get(pool);
    pools.set(pool, known === undefined ? tally : sumOf(TALLY_VALUES, [known, tally]));
  }
  return pools;
}

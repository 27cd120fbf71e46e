/**
 * The metrics that there are: their names, and how each is made of the figures. Labels have names
 * from the configuration and words from closed lists, never a client's address, a name that a
 * client sent, or an error's text: an attacker could make any number of series of those. Pure.
 */

import { Counter, type CounterName } from "../../workers/counters.ts";
import { isRefusal } from "../../workers/end-reason.ts";
import {
  dropPlaces,
  durationPlace,
  type EndPlace,
  endPlaces,
  refusedSessionPlaces,
} from "../../workers/tally.ts";
import type { MetricsData, WorkerFigures } from "./data.ts";
import {
  counted,
  type Kind,
  type Metric,
  single,
  tallied,
  type WordPlace,
  wordPlaces,
} from "./metric.ts";
import { encoded, labels, writeMetrics } from "./text.ts";
import { upstreamFamilies } from "./upstream-families.ts";

const endsOf = (wanted: EndPlace["protocol"]) =>
  endPlaces.filter(({ protocol }) => protocol === wanted);

/** Places by their reason alone. */
function byReason(places: readonly { at: number; reason: string }[]): readonly WordPlace[] {
  return wordPlaces(places.map(({ at, reason }) => ({ at, labels: `reason="${reason}"` })));
}

const states = {
  header: encoded(',state="header"'),
  queued: encoded(',state="queued"'),
  connecting: encoded(',state="connecting"'),
  relaying: encoded(',state="relaying"'),
  halfClosed: encoded(',state="half-closed"'),
};

const directions = {
  client: encoded(',direction="client"'),
  upstream: encoded(',direction="upstream"'),
};

/** A figure of each Worker. */
function ofWorkers(
  name: string,
  type: Kind,
  help: string,
  value: (figures: WorkerFigures) => number,
): Metric {
  return {
    ...{ name, type, help },
    samples: ({ workers }, out) => {
      for (const each of workers) out.add(labels({ worker: String(each.number) }), value(each));
    },
  };
}

const processFamilies: readonly Metric[] = [
  {
    ...{ name: "tproxy_build_info", type: "gauge", help: "The executable that runs; always 1" },
    samples: ({ build }, out) => out.add(labels({ ...build }), 1),
  },
  single(
    "tproxy_start_time_seconds",
    "gauge",
    "When the service began, in seconds since 1970; an upgrade keeps it",
    ({ startTime }) => startTime / 1000,
  ),
  single(
    "process_start_time_seconds",
    "gauge",
    "When the process began, in seconds since 1970",
    ({ process }) => process.startTime / 1000,
  ),
  single(
    "process_cpu_seconds_total",
    "counter",
    "CPU time of all threads, in seconds",
    ({ process }) => process.cpuSeconds,
  ),
  single(
    "process_resident_memory_bytes",
    "gauge",
    "Memory that is resident",
    ({ process }) => process.residentBytes,
  ),
  single(
    "process_open_fds",
    "gauge",
    "Descriptors that are open",
    ({ process }) => process.openFds,
  ),
  single(
    "process_max_fds",
    "gauge",
    "Descriptors that may be open",
    ({ process }) => process.maxFds,
  ),
  single(
    "tproxy_config_generation",
    "gauge",
    "Counts the configurations that were applied",
    ({ generation }) => generation,
  ),
  single(
    "tproxy_config_last_reload_successful",
    "gauge",
    "Whether the last reload, or the start, succeeded",
    ({ reload }) => (reload.isSuccessful ? 1 : 0),
  ),
  single(
    "tproxy_config_last_reload_success_timestamp_seconds",
    "gauge",
    "When a configuration was last applied, in seconds since 1970",
    ({ reload }) => reload.successTime / 1000,
  ),
  single("tproxy_workers", "gauge", "Workers that run", ({ workers }) => workers.length),
  ofWorkers(
    "tproxy_worker_deaths_total",
    "counter",
    "Workers that died, by the place that another one has taken",
    ({ deaths }) => deaths,
  ),
  ofWorkers(
    "tproxy_worker_turn_seconds_max",
    "gauge",
    "The longest turn of a Worker's loop in the last one to two minutes: all that it carries waits",
    ({ longestTurnMs }) => longestTurnMs / 1000,
  ),
  {
    ...{ name: "tproxy_routes_installed", type: "gauge" },
    help: "Whether the rules are in place, by their kind; 0 also while they drain",
    samples: ({ routes }, out) => {
      for (const { part, isInstalled } of routes) {
        if (part !== "setting") out.add(labels({ part }), isInstalled ? 1 : 0);
      }
    },
  },
  {
    ...{ name: "tproxy_routes_repaired_total", type: "counter" },
    help: "Times that something was put back that another program had removed, by its kind",
    samples: ({ routes }, out) => {
      for (const { part, repairs } of routes) out.add(labels({ part }), repairs);
    },
  },
  {
    ...{ name: "tproxy_log_lines_dropped_total", type: "counter" },
    help: "Lines of the log that were dropped, by where they were to go",
    samples: ({ lostLines }, out) => {
      for (const [sink, lines] of Object.entries(lostLines)) out.add(labels({ sink }), lines);
    },
  },
];

const connectionFamilies: readonly Metric[] = [
  counted(
    "tproxy_connections_accepted_total",
    "counter",
    "TCP connections that were accepted",
    "accepted",
    "tcp",
  ),
  {
    ...{ name: "tproxy_connections_open", type: "gauge" },
    help: "TCP connections that are open, by what they do",
    samples: ({ services }, out) => {
      for (const { labels: of, protocols, counters } of services) {
        if (!protocols.includes("tcp")) continue;
        const count = (name: CounterName) => counters[Counter[name]] as number;
        const [header, queued] = [count("headerConnections"), count("queuedConnections")];
        const [relaying, halfClosed] = [
          count("relayingConnections"),
          count("halfClosedConnections"),
        ];
        // A Worker may have written one of them and not yet the other.
        const rest = (all: number, part: number) => Math.max(0, all - part);
        out.add(of, header, states.header);
        out.add(of, queued, states.queued);
        out.add(of, rest(count("active"), header + queued + relaying), states.connecting);
        out.add(of, rest(relaying, halfClosed), states.relaying);
        out.add(of, halfClosed, states.halfClosed);
      }
    },
  },
  tallied(
    "tproxy_connections_closed_total",
    "TCP connections that have ended, by who ended them and why",
    wordPlaces(
      endsOf("tcp")
        .filter(({ reason }) => !isRefusal(reason))
        .map(({ at, by, reason }) => ({ at, labels: `ended_by="${by}",reason="${reason}"` })),
    ),
  ),
  tallied(
    "tproxy_connections_refused_total",
    "TCP connections that were rejected, by why",
    byReason(endsOf("tcp").filter(({ reason }) => isRefusal(reason))),
  ),
  counted(
    "tproxy_client_bytes_total",
    "counter",
    "Bytes from clients that were carried to upstreams",
    "clientBytes",
  ),
  counted(
    "tproxy_upstream_bytes_total",
    "counter",
    "Bytes from upstreams that were carried to clients",
    "upstreamBytes",
  ),
  {
    ...{ name: "tproxy_connection_duration_seconds", type: "histogram" },
    help: "How long TCP connections lasted that were not rejected",
    samples: ({ services }, out) => {
      for (const { labels: of, protocols, tally } of services) {
        if (protocols.includes("tcp")) out.histogram(of, tally, durationPlace);
      }
    },
  },
  counted(
    "tproxy_at_maximum_total",
    "counter",
    "Times that the TCP connections, or the descriptors, were at their maximum",
    "atMaximum",
    "tcp",
  ),
  counted(
    "tproxy_accept_failures_total",
    "counter",
    "Calls of accept4 that failed",
    "acceptFailures",
    "tcp",
  ),
  counted("tproxy_pipes", "gauge", "Pipes that are open to splice by", "pipes", "tcp"),
  counted(
    "tproxy_pipes_refused_total",
    "counter",
    "Times that no pipe was to be had",
    "pipesRefused",
    "tcp",
  ),
  counted(
    "tproxy_loops_total",
    "counter",
    "Connections and sessions that had come back to this proxy",
    "loops",
  ),
];

const sessionFamilies: readonly Metric[] = [
  counted("tproxy_sessions_total", "counter", "UDP sessions that began", "sessions", "udp"),
  counted("tproxy_sessions_open", "gauge", "UDP sessions that are open", "activeSessions", "udp"),
  tallied(
    "tproxy_sessions_ended_total",
    "UDP sessions that have ended, by why",
    byReason(endsOf("udp")),
  ),
  tallied(
    "tproxy_sessions_refused_total",
    "UDP sessions that were rejected, by why",
    byReason(refusedSessionPlaces),
  ),
  counted(
    "tproxy_sessions_unanswered_total",
    "counter",
    "UDP sessions that have ended without an answer",
    "unansweredSessions",
    "udp",
  ),
  {
    ...{ name: "tproxy_datagrams_total", type: "counter" },
    help: "Datagrams that were carried, by who had sent them",
    samples: ({ services }, out) => {
      for (const { labels: of, protocols, counters } of services) {
        if (!protocols.includes("udp")) continue;
        out.add(of, counters[Counter.clientDatagrams] as number, directions.client);
        out.add(of, counters[Counter.upstreamDatagrams] as number, directions.upstream);
      }
    },
  },
  tallied(
    "tproxy_datagrams_dropped_total",
    "Datagrams that were dropped, by why",
    byReason(dropPlaces),
  ),
];

const families: readonly Metric[] = [
  ...processFamilies,
  ...connectionFamilies,
  ...sessionFamilies,
  ...upstreamFamilies,
];

/** The metrics as text. */
export function renderMetrics(data: MetricsData): Uint8Array<ArrayBuffer> {
  return writeMetrics(families, data);
}

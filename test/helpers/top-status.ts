/** A status as `/v1/events` sends it, for tests of what shows it. */

import type { Status } from "../../src/cli/top/data.ts";

const start = Date.UTC(2026, 10, 27, 12);

/** The status after so many seconds, in which `seconds` × 1,000 bytes came from clients. */
export function statusAfter(seconds: number, changes: Partial<Status> = {}): Status {
  const counters = {
    ...{ accepted: 5 * seconds, active: 3, sessions: 0, active_sessions: 0, failed: 1 },
    ...{ client_bytes: 1_000 * seconds, upstream_bytes: 20_000 * seconds },
  };
  const address = (text: string, open: number) => ({
    address: text,
    reason: "",
    counters: { connects: 5 * seconds, open, client_bytes: 1_000 * seconds, upstream_bytes: 0 },
  });
  return {
    ...{ time: new Date(start + 1_000 * seconds).toISOString(), version: "0.1.0", pid: 7 },
    ...{ start_time: new Date(start).toISOString(), generation: 2, workers: 2 },
    ...{ problems: ["upstream web/web2 down"], counters, total: 3, matched: 3 },
    services: [
      {
        ...{ name: "web", state: "up", pool: "web", counters },
        listeners: [{ protocol: "tcp", address: "[::]:80" }],
      },
      { ...{ name: "dns", state: "up", pool: "dns", counters: {} }, listeners: [] },
    ],
    pools: [
      {
        name: "web",
        upstreams: [
          {
            ...{ name: "web1", state: "up", reason: "", admin: "ready", weight: 100 },
            ...{ since: new Date(start).toISOString(), addresses: [address("192.0.2.1:80", 2)] },
          },
          {
            ...{ name: "web2", state: "down", reason: "connection refused", admin: "ready" },
            ...{ since: new Date(start).toISOString(), addresses: [address("192.0.2.2:80", 0)] },
          },
        ],
      },
    ],
    connections: [1, 2, 3].map((number) => ({
      ...{ id: `1.${number}.1`, service: "web", protocol: "tcp", state: "relaying" },
      ...{ client: `198.51.100.${number}:4000`, original_destination: "203.0.113.9:80" },
      ...{ upstream: "192.0.2.1:80", client_bytes: 100 * number, upstream_bytes: 0 },
      ...{ client_rate: number, upstream_rate: 0, ms: 1_000 * seconds, idle_ms: 0 },
    })),
    ...changes,
  };
}

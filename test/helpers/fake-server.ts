/** A server that the admin API controls in tests: plain data, and a note of each call. */

import type { Controlled } from "../../src/control/admin/controlled.ts";
import { ApiError } from "../../src/control/admin/problem.ts";
import { type LogEntry, RecentLines } from "../../src/log/recent.ts";
import type { RowQuery } from "../../src/workers/query.ts";
import type { OpenRow, Rows, Selection } from "../../src/workers/scan-requests.ts";

/** One row of a table of connections. */
export const openRow: OpenRow = {
  ...{ kind: "open", worker: 1, protocol: "tcp", id: "1.42.1", time: 0, state: "relaying" },
  ...{ client: "192.0.2.7:40000", local: "8.8.8.8:80", upstream: "10.0.0.1:8080", source: "self" },
  ...{ clientBytes: 5, upstreamBytes: 12, clientDatagrams: 0, upstreamDatagrams: 0 },
  ...{ ms: 30, idleMs: 10, end: undefined, service: "web", pool: "servers", rate: undefined },
};

export class FakeServer implements Controlled {
  readonly lines = new RecentLines();
  readonly log = {
    recent: () => this.lines.list(),
    follow: (follower: (entry: LogEntry) => void) => this.lines.follow(follower),
    setLevel: (level: string, ms: number) => void this.calls.push({ setLevel: [level, ms] }),
  };
  readonly calls: unknown[] = [];
  readonly changes: string[] = [];
  rows: Rows = { total: 1, matched: 1, rows: [openRow] };
  why: string | undefined;

  status(): object {
    return {
      ...{ version: "1.2.3", pid: 7, startTime: 0, generation: 3, workers: 2 },
      services: [{ name: "web", state: "up", pool: "servers", counters: { clientBytes: 5 } }],
      pools: [{ name: "servers", upstreams: [{ name: "web1", state: "up", addresses: [] }] }],
    };
  }

  notReady(): string | undefined {
    return this.why;
  }

  changed(text: string): void {
    this.changes.push(text);
  }

  async query(query: RowQuery): Promise<Rows> {
    this.calls.push({ query });
    return this.rows;
  }

  async kill(selection: Selection): Promise<number> {
    this.calls.push({ kill: selection });
    return 1;
  }

  async setService(name: string, state: "ready" | "drained" | "down"): Promise<void> {
    if (name !== "web") throw new ApiError(404, `there is no service "${name}"`);
    this.calls.push({ setService: [name, state] });
  }

  setUpstream(pool: string, upstream: string, change: object): void {
    if (!("force" in change && change.force)) throw new ApiError(409, "it is the last one");
    this.calls.push({ setUpstream: [pool, upstream, change] });
  }

  stop(isAtOnce: boolean): void {
    this.calls.push({ stop: isAtOnce });
  }
}

/** A server as the admin API controls it. */

import { exitStatus } from "../../errors.ts";
import type { Log } from "../../log/log.ts";
import { quote } from "../../net/result.ts";
import type { WorkerPool } from "../../workers/pool.ts";
import type { RowQuery } from "../../workers/query.ts";
import { parseFilterPart, type RowFilter } from "../../workers/row-filter.ts";
import type { Rows, Selection } from "../../workers/scan-requests.ts";
import { metricsContentType } from "../metrics/text.ts";
import type { UpstreamAnswer, UpstreamRequest } from "../pools/pools.ts";
import type { ProcessIo } from "../process-io.ts";
import type { ServerStatus } from "../server/status.ts";
import type { Controlled, UpstreamChange } from "./controlled.ts";
import { ApiError } from "./problem.ts";

/** A server, as far as it is controlled. */
export interface Server {
  readonly log: Pick<Log, "recent" | "follow" | "setLevel" | "note" | "warn">;
  status(): ServerStatus;
  readonly pool: Pick<WorkerPool, "query" | "kill">;
  setUpstream(pool: string, upstream: string, request: UpstreamRequest): UpstreamAnswer;
  metricsText(): string;
  stop(): void;
}

export class ServerControl implements Controlled {
  readonly log: Server["log"];
  private readonly server: Server;
  private readonly io: Pick<ProcessIo, "exit">;

  constructor(server: Server, io: Pick<ProcessIo, "exit">) {
    this.server = server;
    this.io = io;
    this.log = server.log;
  }

  status(): ServerStatus {
    return this.server.status();
  }

  notReady(): string | undefined {
    const { isStopping, services, pools } = this.status();
    if (isStopping) return "stopping";
    for (const { name, state, pool } of services) {
      if (state !== "up") continue;
      const upstreams = pools.find((each) => each.name === pool)?.upstreams ?? [];
      if (!upstreams.some((each) => each.state === "up")) return `service ${name} has no upstream`;
    }
    return undefined;
  }

  changed(text: string): void {
    this.log.note(`[ ] Admin: ${text}`, { event: "admin", change: text });
  }

  query(query: RowQuery): Promise<Rows> {
    return this.server.pool.query({ ...query, filter: this.named(query.filter) });
  }

  kill(selection: Selection): Promise<number> {
    if (selection.kind === "ids") return this.server.pool.kill(selection);
    return this.server.pool.kill({ kind: "filter", filter: this.named(selection.filter) });
  }

  /** The filter with the addresses of the upstream that it names, which Workers know by those. */
  private named({ upstream, ...rest }: RowFilter): RowFilter {
    if (upstream === undefined) return rest;
    const pools = this.status().pools.filter(({ name }) => (rest.pool ?? name) === name);
    const found = pools.flatMap(({ upstreams }) =>
      upstreams.filter(({ name }) => name === upstream.name),
    );
    // Connections of such a pool go wherever their clients wanted to go.
    if (rest.pool !== undefined && found.some(({ name }) => name === "original")) return rest;
    const texts = found.flatMap(({ addresses }) => addresses.map(({ address }) => address));
    const addresses = texts.flatMap((text) => {
      const part = parseFilterPart("upstream", text);
      return part.ok ? (part.value?.addresses ?? []) : [];
    });
    return { ...rest, upstream: { ...upstream, addresses: [...upstream.addresses, ...addresses] } };
  }

  setUpstream(pool: string, upstream: string, change: UpstreamChange): void {
    const { state, weight, force } = change;
    const answer = this.server.setUpstream(pool, upstream, {
      ...(state === undefined ? {} : { state }),
      ...(weight === undefined ? {} : { weight }),
      force,
    });
    switch (answer.kind) {
      case "no-pool":
        throw new ApiError(404, `there is no pool ${quote(pool)}`);
      case "no-upstream":
        throw new ApiError(404, `pool ${pool} has no upstream ${quote(upstream)}`);
      case "last":
        throw new ApiError(
          409,
          `no other upstream of pool ${pool} takes connections: force it if that is meant`,
        );
    }
  }

  metrics(): { text: string; type: string } {
    return { text: this.server.metricsText(), type: metricsContentType };
  }

  stop(isAtOnce: boolean): void {
    if (isAtOnce) this.io.exit(exitStatus.terminated);
    this.server.stop();
  }
}

/** A server as the admin API controls it. */

import { changeLine } from "../../config/diff.ts";
import type { ReadConfiguration } from "../../config/file.ts";
import type { Settings } from "../../config/settings.ts";
import { CommandError, exitStatus } from "../../errors.ts";
import { printJson } from "../../net/printable.ts";
import { quote } from "../../net/result.ts";
import { mergeRows } from "../../workers/merge-rows.ts";
import type { WorkerPool } from "../../workers/pool.ts";
import type { RowQuery } from "../../workers/query.ts";
import { parseFilterPart, type RowFilter } from "../../workers/row-filter.ts";
import type { Rows, Selection } from "../../workers/scan-requests.ts";
import type { CarriedServices } from "../kernel-path/carried-services.ts";
import { metricsContentType } from "../metrics/text.ts";
import type { UpstreamAnswer, UpstreamRequest } from "../pools/pools.ts";
import type { ProcessIo } from "../process-io.ts";
import { type Reloadable, reload } from "../server/reload.ts";
import type { ServerStatus } from "../server/status.ts";
import type { UpgradeResult } from "../upgrade/old.ts";
import type { Applied, Controlled, ReloadRequest, UpstreamChange } from "./controlled.ts";
import { ApiError, type ProblemPlace, problemPlace } from "./problem.ts";

/** How a server is run, as far as its control needs it. */
export interface ControlSettings {
  readonly io: Pick<ProcessIo, "exit">;
  readonly isNameless: boolean;
  /** Reads the configuration again; undefined: it cannot be. */
  readonly read?: (() => Promise<ReadConfiguration>) | undefined;
}

/** A server, as far as it is controlled. */
export interface Server extends Reloadable {
  status(): ServerStatus;
  readonly configuration: { readonly settings: Settings };
  readonly pool: Pick<WorkerPool, "query" | "kill">;
  /** The services that the kernel carries. */
  readonly paths: Pick<CarriedServices, "query" | "kill">;
  /** Why nothing may be changed now, as during an upgrade; undefined: it may. */
  readonly obstacle: string | undefined;
  setUpstream(pool: string, upstream: string, request: UpstreamRequest): UpstreamAnswer;
  /** False if there is no such service. */
  setServiceState(name: string, state: "ready" | "drained" | "down"): Promise<boolean>;
  metricsText(): Uint8Array<ArrayBuffer>;
  upgrade(program?: string): Promise<UpgradeResult>;
  stop(): void;
}

export class ServerControl implements Controlled {
  readonly log: Server["log"];
  private readonly server: Server;
  private readonly settings: ControlSettings;

  constructor(server: Server, settings: ControlSettings) {
    this.server = server;
    this.settings = settings;
    this.log = server.log;
  }

  get obstacle(): string | undefined {
    return this.server.obstacle;
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

  /** Settles once the new process is ready, and serves from here on. @throws ApiError */
  async upgrade(executable: string | undefined): Promise<object> {
    const result = await this.server.upgrade(executable);
    if (!result.ok) throw new ApiError(409, result.lines.join("\n"));
    const { pid, version } = result;
    return { pid, version };
  }

  changed(text: string): void {
    this.log.note(`[ ] Admin: ${text}`, { event: "admin", change: text });
  }

  async query(query: RowQuery): Promise<Rows> {
    const { pool, paths } = this.server;
    const named = { ...query, filter: this.named(query.filter) };
    return mergeRows(await Promise.all([pool.query(named), paths.query(named)]), query);
  }

  async kill(selection: Selection): Promise<number> {
    const { pool, paths } = this.server;
    const named: Selection =
      selection.kind === "ids"
        ? selection
        : { kind: "filter", filter: this.named(selection.filter) };
    return paths.kill(named) + (await pool.kill(named));
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

  async setService(name: string, state: "ready" | "drained" | "down"): Promise<void> {
    try {
      if (await this.server.setServiceState(name, state)) return;
    } catch (error) {
      throw error instanceof CommandError ? new ApiError(500, error.message) : error;
    }
    throw new ApiError(404, `there is no service ${quote(name)}`);
  }

  async check(text: string): Promise<readonly ProblemPlace[]> {
    const { checkText } = await import("./check-text.ts");
    return await checkText(text);
  }

  async reload({ isDry, closesRemoved }: ReloadRequest): Promise<Applied> {
    const { read } = this.settings;
    if (read === undefined) {
      throw new ApiError(501, "this server cannot reload: it has no configuration file");
    }
    const options = { dryRun: isDry, closeRemoved: closesRemoved };
    const result = await reload(this.server, read, options);
    if (!("problems" in result)) {
      return { changes: result.changes.map(changeLine), generation: result.generation };
    }
    const found = result.kind === "invalid" ? result.found : undefined;
    const problems = found?.map(problemPlace) ?? result.problems.map((message) => ({ message }));
    switch (result.kind) {
      case "invalid":
        throw new ApiError(422, "nothing was changed: the configuration has problems", problems);
      case "upgrade":
        throw new ApiError(409, "nothing was changed: an upgrade is needed", problems, true);
      case "failed":
        throw new ApiError(500, "nothing was changed", problems);
    }
  }

  async configuration(type: "toml" | "json"): Promise<string> {
    const { effectiveSettings } = await import("../../config/effective.ts");
    const settings = effectiveSettings(this.server.configuration.settings);
    if (type === "json") {
      const { configurationKind } = await import("../../config/settings.ts");
      return `${printJson(configurationKind.write(settings), 2)}\n`;
    }
    const { writeToml } = await import("../../config/write.ts");
    return writeToml(settings);
  }

  metrics(): { text: Uint8Array<ArrayBuffer>; type: string } {
    return { text: this.server.metricsText(), type: metricsContentType };
  }

  stop(isAtOnce: boolean): void {
    if (isAtOnce) this.settings.io.exit(exitStatus.terminated);
    this.server.stop();
  }
}

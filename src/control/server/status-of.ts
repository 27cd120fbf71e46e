/** Makes the status of a server out of its parts. */

import type { Configuration, Service } from "../../config/service.ts";
import type { Log } from "../../log/log.ts";
import { version } from "../../version.ts";
import { sumValues } from "../../workers/counters.ts";
import type { WorkerPool } from "../../workers/pool.ts";
import type { CarriedServices } from "../kernel-path/carried-services.ts";
import type { Pools } from "../pools/pools.ts";
import type { InstalledRules } from "./installed-rules.ts";
import { problemsOf } from "./problems.ts";
import type { RunningService } from "./running-service.ts";
import { boundAt } from "./start-lines.ts";
import type {
  HeldState,
  ReloadStatus,
  ServerStatus,
  ServiceState,
  ServiceStatus,
} from "./status.ts";

/** The parts of a server that its status and its metrics are made of. */
export interface ServerParts {
  readonly configuration: Configuration;
  readonly startTime: number;
  readonly generation: number;
  readonly lastReload: ReloadStatus | undefined;
  readonly isStopping: boolean;
  readonly workers: number;
  readonly running: ReadonlyMap<string, RunningService>;
  readonly paths: Pick<CarriedServices, "has" | "countsOf" | "publish">;
  readonly pools: Pick<Pools, "status" | "all">;
  /** Services that an administrator has taken out. */
  readonly held: ReadonlyMap<string, HeldState>;
  /** Services that are gone, and have connections. */
  readonly leaving: ReadonlySet<string>;
  readonly pool: Pick<WorkerPool, "counters" | "values" | "tally" | "workers" | "inherited">;
  readonly rules: Pick<InstalledRules, "intents" | "parts" | "repairs">;
  readonly log: Pick<Log, "lost">;
}

/** The status of now. */
export function statusOf(parts: ServerParts): ServerStatus {
  const { configuration, startTime, generation, lastReload, isStopping, workers } = parts;
  const { pool, pools } = parts;
  const [captured] = parts.rules.intents;
  parts.paths.publish();
  const status = {
    version,
    pid: process.pid,
    ...{ startTime, generation, lastReload, workers, isStopping },
    routes: {
      installed: captured !== undefined,
      table: captured?.tableName,
      repaired: parts.rules.repairs,
    },
    services: configuration.services.map((service) => serviceStatus(service, parts)),
    pools: pools.status(),
    counters: pool.counters(),
  };
  return { ...status, problems: problemsOf(status) };
}

function serviceStatus(service: Service, parts: ServerParts): ServiceStatus {
  const { name, route } = service;
  const running = parts.running.get(name);
  return {
    ...{ name, state: stateOf(name, parts), pool: route.pool.name },
    listeners: running === undefined ? [] : boundAt(running.sockets),
    path: parts.paths.has(name) ? "kernel" : "relay",
    counters:
      running === undefined
        ? sumValues([parts.paths.countsOf(name).counters])
        : parts.pool.counters(running.id),
  };
}

function stateOf(
  name: string,
  { running, paths, held, leaving, isStopping }: ServerParts,
): ServiceState {
  if (running.has(name) || paths.has(name)) return isStopping ? "draining" : "up";
  if (leaving.has(name)) return "draining";
  return held.has(name) ? "drained" : "disabled";
}

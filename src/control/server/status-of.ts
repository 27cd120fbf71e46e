/** Makes the status of a server out of its parts. */

import type { Configuration, Service } from "../../config/service.ts";
import { version } from "../../version.ts";
import { sumCounters } from "../../workers/counters.ts";
import type { WorkerPool } from "../../workers/pool.ts";
import type { HeldCapture } from "../held-capture.ts";
import type { Pools } from "../pools/pools.ts";
import type { RunningService } from "./running-service.ts";
import { boundAt } from "./start-lines.ts";
import type { ReloadStatus, ServerStatus, ServiceStatus } from "./status.ts";

/** What a status is made of. */
export interface StatusParts {
  readonly configuration: Configuration;
  readonly startTime: number;
  readonly generation: number;
  readonly lastReload: ReloadStatus | undefined;
  readonly isStopping: boolean;
  readonly workers: number;
  readonly running: ReadonlyMap<string, RunningService>;
  readonly pools: Pick<Pools, "status">;
  readonly pool: Pick<WorkerPool, "counters">;
  readonly capture: HeldCapture | undefined;
}

/** The status of now. */
export function statusOf(parts: StatusParts): ServerStatus {
  const { configuration, startTime, generation, lastReload, isStopping, workers } = parts;
  const { capture, pool, pools } = parts;
  return {
    version,
    pid: process.pid,
    ...{ startTime, generation, lastReload, workers, isStopping },
    routes: {
      installed: capture !== undefined,
      table: capture?.intents[0]?.intent.tableName,
      repaired: capture?.repairs ?? 0,
    },
    services: configuration.services.map((service) => serviceStatus(service, parts)),
    pools: pools.status(),
    counters: pool.counters(),
  };
}

function serviceStatus(service: Service, parts: StatusParts): ServiceStatus {
  const { name, route } = service;
  const running = parts.running.get(name);
  const state = running === undefined ? "disabled" : parts.isStopping ? "draining" : "up";
  return {
    ...{ name, state, pool: route.pool.name },
    listeners: boundAt(running?.sockets ?? []).map(({ protocol, address }) => ({
      ...{ protocol, address },
    })),
    counters: running === undefined ? sumCounters([]) : parts.pool.counters(running.id),
  };
}

/** Gives the Workers what was prepared: services that are new, changed, or gone. */

import type { Mark } from "../../../ffi/types.ts";
import type { Intent } from "../../capture/plan/intent.ts";
import { setKeepAlive } from "../../engine/sockets.ts";
import type { Log } from "../../log/log.ts";
import type { WorkerPool } from "../../workers/pool.ts";
import type { ForwardTask } from "../../workers/protocol.ts";
import type { Pools } from "../pools/pools.ts";
import { warnOfRefused } from "../supervisor.ts";
import { socketMark } from "./captures.ts";
import { type Prepared, sharingOf } from "./preparing.ts";
import type { OpenService, RunningService } from "./running-service.ts";
import { makeTasks } from "./tasks.ts";

/** The server that runs the services. */
export interface HandOver {
  readonly pool: WorkerPool;
  readonly pools: Pick<Pools, "upstreamsOf">;
  readonly log: Log;
  /** By name; changed by this. */
  readonly running: Map<string, RunningService>;
  /** Names of services that are gone, and have connections; changed by this. */
  readonly leaving: Set<string>;
  readonly workers: number;
  /** The Intents of the capture. */
  readonly intents: readonly Intent[];
  readonly ownAddresses: readonly Uint8Array[];
  readonly ownFlows: SharedArrayBuffer;
  readonly drainTimeoutMs: number;
  /** The log names the services. */
  readonly isNamed: boolean;
}

/**
 * Tells the Workers, which carry it out in their next turn. Connections of services that stay go
 * on, and so do those of services that are gone, unless `closeRemoved`.
 */
export function handOver(prepared: Prepared, closeRemoved: boolean, server: HandOver): void {
  const { pool, running, leaving, log } = server;
  const next = new Map(prepared.services.map((each) => [each.service.name, each]));
  // What moves from one service to another is free before the other one takes it.
  for (const { id, service } of running.values()) {
    pool.release(id, prepared.released.get(service.name) ?? []);
  }
  for (const [name, { id }] of running) {
    if (next.has(name)) continue;
    running.delete(name);
    leaving.add(name);
    const gone = pool.remove(id, closeRemoved ? 0 : Number.POSITIVE_INFINITY);
    void gone.then(() => leaving.delete(name));
  }
  for (const [name, open] of next) {
    const mark = socketMark(open.service, server.intents);
    open.upstreams.mark = mark;
    const tasks = tasksOf(open, mark, server);
    const known = running.get(name);
    if (known === undefined) {
      warnOfRefused(tasks.slice(0, 1), log);
      running.set(name, { ...open, id: pool.add(tasks) });
      continue;
    }
    const ends = closeRemoved ? "all" : "sessions";
    pool.replace(known.id, tasks, known.upstreams === open.upstreams ? undefined : ends);
    running.set(name, { ...open, id: known.id });
    setListenerOptions(open);
  }
}

/** Those of accepted connections, which have them from their listener. */
function setListenerOptions({ service, sets }: OpenService): void {
  const { keepAliveMs, userMs } = service.timeouts;
  for (const { fd, protocol } of sets.flat()) {
    if (protocol === "tcp") setKeepAlive(fd, keepAliveMs, userMs);
  }
}

function tasksOf(open: OpenService, mark: Mark | undefined, server: HandOver): ForwardTask[] {
  const { service, senders, sets } = open;
  const { ownAddresses, ownFlows, drainTimeoutMs, workers, isNamed } = server;
  const parts = {
    ...{ senders, mark, ownAddresses, ownFlows, drainTimeoutMs },
    upstreams: server.pools.upstreamsOf(service.route.pool),
    sharing: sharingOf(open, workers),
    name: isNamed ? service.name : undefined,
  };
  return makeTasks(service, parts, sets);
}

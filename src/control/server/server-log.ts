/** The log of a server: its lines describe services as they are at that moment. */

import type { Configuration } from "../../config/service.ts";
import { Log } from "../../log/log.ts";
import { LogLevel } from "../../workers/protocol.ts";
import type { ProcessIo } from "../process-io.ts";
import { protocolsOf } from "./tasks.ts";

/** The parts of a server that its log reads at any time. */
export interface LoggedServer {
  /** The configuration in force. */
  configuration(): Configuration;
  /** How many configurations there have been. */
  generation(): number;
  /** There is one service, which nobody has named. */
  readonly isNameless: boolean;
}

/** Makes the log; SIGUSR1 opens its file again. @throws CommandError where that cannot be opened */
export function serverLog(io: ProcessIo, server: LoggedServer): Log {
  const { isNameless } = server;
  const { log: settings, services } = server.configuration();
  const [only] = services;
  const log = new Log(io, {
    ...{ ...settings, outlivesReader: true },
    protocol: (isNameless && only && protocolsOf(only)[0]) || "tcp",
    get level() {
      const { log, services } = server.configuration();
      return LogLevel[(isNameless && services[0]?.log.level) || log.level];
    },
    about: (name) => ({
      ...{ pool: poolsOf(server.configuration()).get(name), generation: server.generation() },
    }),
    namesServices: () => !isNameless && server.configuration().services.length > 1,
  });
  io.onReport(() => log.reopen());
  return log;
}

const knownPools = new WeakMap<Configuration, ReadonlyMap<string, string>>();

/** The pools of services, by the names of both: found once for each configuration. */
function poolsOf(configuration: Configuration): ReadonlyMap<string, string> {
  const known = knownPools.get(configuration);
  if (known !== undefined) return known;
  const pools = new Map(configuration.services.map(({ name, route }) => [name, route.pool.name]));
  knownPools.set(configuration, pools);
  return pools;
}

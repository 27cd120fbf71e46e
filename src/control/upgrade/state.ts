/** What the parts of a server hand over at an upgrade, read again. Pure. */

import * as v from "valibot";

const Manager = v.object({
  /** By inode, the names of the sockets that the service manager keeps. */
  kept: v.array(v.tuple([v.number(), v.string()])),
  /** Inodes of sockets that belong to units of the manager. */
  owned: v.array(v.number()),
});

const State = v.object({
  manager: v.optional(v.fallback(Manager, { kept: [], owned: [] }), { kept: [], owned: [] }),
  /** What was asked for, found and counted of upstreams; the pools read it. */
  pools: v.optional(v.unknown()),
  /** The changes of administrators and of reloads; the server reads it. */
  runTime: v.optional(v.unknown()),
  /** The newest one of the Workers: ids of connections are not given again. */
  generation: v.optional(v.fallback(v.number(), 0), 0),
  startTime: v.optional(v.fallback(v.optional(v.number()), undefined)),
});

/** The state of a server, as far as this release knows it. */
export type ServerState = v.InferOutput<typeof State>;

/** Reads what was handed over, without what another release has otherwise. */
export function readServerState(parts: Readonly<Record<string, unknown>>): ServerState {
  return v.parse(State, parts);
}

/** How many connections and sessions one Worker has room for, of the bounds of all. */

import type { ServiceLimits } from "../config/service.ts";
import * as limits from "../engine/limits.ts";
import { randomWord } from "../engine/random.ts";
import { ClientCounts } from "../fairness/client-counts.ts";
import type { Scheme } from "../net/target.ts";
import type { ClientBounds } from "../workers/protocol.ts";

/** The bounds of one service that all Workers share. */
export interface Sharing {
  readonly limits: ServiceLimits;
  readonly workers: number;
  /** Of each protocol. */
  readonly descriptors: Readonly<Record<Scheme, number>>;
}

/** The connections of one Worker, of the descriptors for all of them. */
export function placesOf({ limits: bounds, workers, descriptors: all }: Sharing, worker: number) {
  const descriptors = all.tcp;
  // A connection has two sockets; a part of the descriptors is for the pipes of busy ones.
  const pipesMax = Math.max(4, Math.min(limits.pipesMax, Math.floor(descriptors / 8 / workers)));
  const share = Math.floor(descriptors / workers) - 2 * pipesMax;
  return { pipesMax, ...connectionPlaces(share, partOf(bounds.maxConnections, workers, worker)) };
}

/** Its sessions of UDP. */
export function sessionPlacesOf({ limits: bounds, workers, descriptors }: Sharing, worker: number) {
  const socketsMax = Math.max(2, Math.floor(descriptors.udp / workers));
  const wanted = partOf(bounds.maxSessions, workers, worker) ?? socketsMax;
  // One has two sockets at most; whichever runs out first ends another one.
  return { socketsMax, sessionsMax: Math.max(1, Math.min(wanted, socketsMax - 1)) };
}

/** The bounds of one client, for each of `workers` Workers; 0 for none. */
export function clientBounds(max: number, perSecond: number, workers: number): ClientBounds[] {
  const counts = max > 0 ? ClientCounts.memory(workers, randomWord) : undefined;
  return Array.from({ length: workers }, (_, worker) => ({
    ...{ max, counts, perSecond, workers, worker },
  }));
}

/** How many connections may be open, and how many may wait beside them. */
interface Places {
  readonly connectionsMax: number;
  readonly queueMax: number;
}

/**
 * The places of one Worker that has `descriptors`, two for a connection and one for what waits; no
 * more than `wanted`, if that is given.
 */
export function connectionPlaces(descriptors: number, wanted?: number): Places {
  const most = Math.min(wanted ?? Number.POSITIVE_INFINITY, descriptors / 2);
  const queue = Math.max(
    limits.queueMin,
    Math.min(limits.queueMax, Math.floor(most * limits.queueShare)),
  );
  const places = Math.max(1, Math.min(most, (descriptors - queue) / 2));
  // With few descriptors it is connections that they are for.
  if (places < most * 0.75) {
    const few = Math.max(1, Math.floor(descriptors / 16));
    return { connectionsMax: Math.max(1, Math.floor((descriptors - few) / 2)), queueMax: few };
  }
  return { connectionsMax: Math.floor(places), queueMax: queue };
}

/**
 * The part of one Worker of what is allowed to all together; undefined without such a bound. The
 * parts of all make just that.
 */
export function partOf(
  total: number | undefined,
  workers: number,
  worker: number,
): number | undefined {
  return total && Math.floor((total + worker) / workers);
}

/** A bound that is lower than what was asked for, because there are too few descriptors. */
export interface Lowered {
  readonly setting: "max-connections" | "max-sessions";
  readonly wanted: number;
  readonly there: number;
}

/** The bounds of a service that carries `protocols`, where there is less room than asked for. */
export function loweredBounds(sharing: Sharing, protocols: readonly Scheme[]): Lowered[] {
  const { maxConnections, maxSessions } = sharing.limits;
  const connections = (worker: number) => placesOf(sharing, worker).connectionsMax;
  const sessions = (worker: number) => sessionPlacesOf(sharing, worker).sessionsMax;
  const { workers } = sharing;
  return [
    ...(protocols.includes("tcp")
      ? lowered("max-connections", maxConnections, workers, connections)
      : []),
    ...(protocols.includes("udp") ? lowered("max-sessions", maxSessions, workers, sessions) : []),
  ];
}

/** The bound, if `wanted` is more than what all Workers have together; `of` is what one has. */
export function lowered(
  setting: Lowered["setting"],
  wanted: number | undefined,
  workers: number,
  of: (worker: number) => number,
): Lowered[] {
  let there = 0;
  for (let worker = 0; worker < workers; worker++) there += of(worker);
  return wanted === undefined || wanted <= there ? [] : [{ setting, wanted, there }];
}

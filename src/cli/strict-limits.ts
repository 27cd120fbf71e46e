/** How many connections and sessions fit within the limit on descriptors. */

import type { ServiceLimits } from "../config/service.ts";
import * as limits from "../engine/limits.ts";
import { CommandError } from "../errors.ts";
import type { Scheme } from "../net/target.ts";
import { connectionPlaces } from "./options/clients.ts";
import { partOf } from "./options/workers.ts";

/** What all Workers share. */
export interface Sharing {
  readonly limits: ServiceLimits;
  readonly workers: number;
  /** Of one protocol. */
  readonly descriptors: number;
}

/** The bounds of one Worker's connections; `descriptors` are those of all Workers. */
export function placesOf({ limits: bounds, workers, descriptors }: Sharing, worker: number) {
  // A connection has two sockets; an eighth of the descriptors is for pipes of busy ones.
  const pipesMax = Math.max(4, Math.min(limits.pipesMax, Math.floor(descriptors / 8 / workers)));
  const share = Math.floor(descriptors / workers) - 2 * pipesMax;
  return { pipesMax, ...connectionPlaces(share, partOf(bounds.maxConnections, workers, worker)) };
}

/** The bounds of one Worker's UDP sessions. */
export function sessionPlacesOf({ limits: bounds, workers, descriptors }: Sharing, worker: number) {
  const socketsMax = Math.max(2, Math.floor(descriptors / workers));
  const wanted = partOf(bounds.maxSessions, workers, worker) ?? socketsMax;
  // A session has at most two sockets. Whichever bound is reached first evicts a session.
  return { socketsMax, sessionsMax: Math.max(1, Math.min(wanted, socketsMax - 1)) };
}

/**
 * Compares the bounds that were asked for with the room that there is.
 * @returns a line for each bound that is lowered
 * @throws CommandError with these lines, if `isStrict`
 */
export function checkLimits(
  sharing: Sharing,
  protocols: readonly Scheme[],
  isStrict: boolean,
): string[] {
  const { maxConnections, maxSessions } = sharing.limits;
  return checkPlaces(isStrict, sharing.workers, [
    ...(protocols.includes("tcp")
      ? [
          {
            ...{ option: "--max-connections", wanted: maxConnections },
            of: (worker: number) => placesOf(sharing, worker).connectionsMax,
          },
        ]
      : []),
    ...(protocols.includes("udp")
      ? [
          {
            ...{ option: "--max-sessions", wanted: maxSessions },
            of: (worker: number) => sessionPlacesOf(sharing, worker).sessionsMax,
          },
        ]
      : []),
  ]);
}

/** A bound that was asked for, and the part of each Worker. */
interface Bound {
  readonly option: string;
  readonly wanted: number | undefined;
  readonly of: (worker: number) => number;
}

/** The same of any bounds. */
export function checkPlaces(
  isStrict: boolean,
  workers: number,
  bounds: readonly Bound[],
): string[] {
  const lowered = bounds.flatMap(({ option, wanted, of }) => {
    let there = 0;
    for (let worker = 0; worker < workers; worker++) there += of(worker);
    if (wanted === undefined || wanted <= there) return [];
    return [
      `${option} ${wanted} is lowered to ${there}, because the limit on descriptors is too ` +
        "low: raise it (LimitNOFILE=, ulimit -Hn)",
    ];
  });
  if (lowered.length === 0 || !isStrict) return lowered;
  throw new CommandError(`Cannot start by --strict-limits: ${lowered.join("; ")}`);
}

/** How many connections and sessions there is room for, and what of that was asked for. */

import type { ServiceLimits } from "../config/service.ts";
import * as limits from "../engine/limits.ts";
import { CommandError } from "../errors.ts";
import type { Scheme } from "../net/target.ts";
import { connectionPlaces } from "./options/clients.ts";
import { partOf } from "./options/workers.ts";

/** What all Workers share among them. */
export interface Sharing {
  readonly limits: ServiceLimits;
  readonly workers: number;
  /** Of one protocol. */
  readonly descriptors: number;
}

/** The connections of one Worker, of `descriptors` for all of them. */
export function placesOf({ limits: bounds, workers, descriptors }: Sharing, worker: number) {
  // A connection has two sockets; a part of the descriptors is for the pipes of busy ones.
  const pipesMax = Math.max(4, Math.min(limits.pipesMax, Math.floor(descriptors / 8 / workers)));
  const share = Math.floor(descriptors / workers) - 2 * pipesMax;
  return { pipesMax, ...connectionPlaces(share, partOf(bounds.maxConnections, workers, worker)) };
}

/** Its sessions of UDP. */
export function sessionPlacesOf({ limits: bounds, workers, descriptors }: Sharing, worker: number) {
  const socketsMax = Math.max(2, Math.floor(descriptors / workers));
  const wanted = partOf(bounds.maxSessions, workers, worker) ?? socketsMax;
  // One has two sockets at most; whichever runs out first ends another one.
  return { socketsMax, sessionsMax: Math.max(1, Math.min(wanted, socketsMax - 1)) };
}

/**
 * What there is less room for than `forward` was asked for.
 * @returns a line for each
 * @throws CommandError with them, if it is strict
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

/** A bound that was asked for, and what each Worker has of it. */
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

/** How many connections and sessions there is room for, and what of that was asked for. */

import * as limits from "../engine/limits.ts";
import { CommandError } from "../errors.ts";
import type { Scheme } from "../net/target.ts";
import { connectionPlaces } from "./options/clients.ts";
import type { ForwardOptions } from "./options/forward.ts";
import { partOf } from "./options/workers.ts";

/** The connections of one Worker, of `descriptors` for all of them. */
export function placesOf(options: ForwardOptions, descriptors: number, worker: number) {
  const { workers, maxConnections } = options;
  // A connection has two sockets; a part of the descriptors is for the pipes of busy ones.
  const pipesMax = Math.max(4, Math.min(limits.pipesMax, Math.floor(descriptors / 8 / workers)));
  const share = Math.floor(descriptors / workers) - 2 * pipesMax;
  return { pipesMax, ...connectionPlaces(share, partOf(maxConnections, workers, worker)) };
}

/** Its sessions of UDP. */
export function sessionPlacesOf(options: ForwardOptions, descriptors: number, worker: number) {
  const { workers, maxSessions } = options;
  const socketsMax = Math.max(2, Math.floor(descriptors / workers));
  const wanted = partOf(maxSessions, workers, worker) ?? socketsMax;
  // One has two sockets at most; whichever runs out first ends another one.
  return { socketsMax, sessionsMax: Math.max(1, Math.min(wanted, socketsMax - 1)) };
}

/**
 * What there is less room for than `forward` was asked for; `descriptors` are of one protocol.
 * @returns a line for each
 * @throws CommandError with them, with --strict-limits
 */
export function checkLimits(
  options: ForwardOptions,
  protocols: readonly Scheme[],
  descriptors: number,
): string[] {
  const { workers, maxConnections, maxSessions, strictLimits } = options;
  return checkPlaces(strictLimits, workers, [
    ...(protocols.includes("tcp")
      ? [
          {
            ...{ option: "--max-connections", wanted: maxConnections },
            of: (worker: number) => placesOf(options, descriptors, worker).connectionsMax,
          },
        ]
      : []),
    ...(protocols.includes("udp")
      ? [
          {
            ...{ option: "--max-sessions", wanted: maxSessions },
            of: (worker: number) => sessionPlacesOf(options, descriptors, worker).sessionsMax,
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
      `${option} ${wanted} is lowered to ${there}, for more descriptors are not allowed: raise ` +
        "their limit (LimitNOFILE=, ulimit -Hn)",
    ];
  });
  if (lowered.length === 0 || !isStrict) return lowered;
  throw new CommandError(`Cannot start by --strict-limits: ${lowered.join("; ")}`);
}

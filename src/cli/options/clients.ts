/** How many connections and sessions there may be, and how many of them one client may have. */

import { optional, withDefault } from "@optique/core/modifiers";
import { flag, option } from "@optique/core/primitives";
import { queueMax, queueMin, queueShare } from "../../engine/limits.ts";
import { randomWord } from "../../engine/random.ts";
import { ClientCounts } from "../../fairness/client-counts.ts";
import type { ClientBounds } from "../../workers/protocol.ts";
import { prose } from "../prose.ts";
import { inGroup } from "./groups.ts";
import { numberValue } from "./values.ts";

const count = () => numberValue("N", 1, 1_000_000);

/** Of TCP connections. */
export const connectionFields = {
  ...inGroup("Limits", {
    maxConnections: optional(
      option("--max-connections", count(), {
        description: prose`Have no more than so many at once. The next ones wait; those of a client
        that has less than others get the place of an idle one of the client with the most. By
        default as many as the limit on descriptors allows.`,
      }),
    ),
    maxConnectionsPerClient: withDefault(
      option("--max-connections-per-client", count(), {
        description: prose`Of one client at once, an IPv4 address or the /64 of an IPv6 one; more
          are refused. Without it clients share what there is.`,
      }),
      0,
    ),
    connectionRatePerClient: withDefault(
      option("--connection-rate-per-client", count(), {
        description: prose`New ones of one client in a second; more are refused.`,
      }),
      0,
    ),
    strictLimits: withDefault(
      flag("--strict-limits", {
        description: prose`Refuse to start where the limit on descriptors is too low for
        ${"--max-connections"} or ${"--max-sessions"}, instead of lowering it.`,
      }),
      false,
    ),
  }),
};

/** Of UDP sessions. */
export const sessionFields = {
  ...inGroup("Limits", {
    maxSessions: optional(
      option("--max-sessions", count(), {
        description: prose`UDP sessions at once, a client and a destination each. The next one ends
        one of the client with the most, or of all that are unanswered. By default as many as the
        limit on descriptors allows.`,
      }),
    ),
    maxSessionsPerClient: withDefault(
      option("--max-sessions-per-client", count(), {
        description: prose`UDP sessions of one client at once, an IPv4 address or the /64 of an IPv6
        one; more are refused.`,
      }),
      0,
    ),
    sessionRatePerClient: withDefault(
      option("--session-rate-per-client", count(), {
        description: prose`New UDP sessions of one client in a second; more are refused.`,
      }),
      0,
    ),
  }),
};

/** The bounds of one client, for each of `workers` Workers; 0 for none. */
export function clientBounds(max: number, perSecond: number, workers: number): ClientBounds[] {
  const counts = max > 0 ? ClientCounts.memory(workers, randomWord) : undefined;
  return Array.from({ length: workers }, (_, worker) => ({
    ...{ max, counts, perSecond, workers, worker },
  }));
}

/** How many connections may be open, and how many may wait beside them. */
export interface Places {
  readonly connectionsMax: number;
  readonly queueMax: number;
}

/**
 * The places of one Worker that has `descriptors`, two for a connection and one for what waits; no
 * more than `wanted`, if that is given.
 */
export function connectionPlaces(descriptors: number, wanted?: number): Places {
  const most = Math.min(wanted ?? Number.POSITIVE_INFINITY, descriptors / 2);
  const queue = Math.max(queueMin, Math.min(queueMax, Math.floor(most * queueShare)));
  const places = Math.max(1, Math.min(most, (descriptors - queue) / 2));
  // With few descriptors it is connections that they are for.
  if (places < most * 0.75) {
    const few = Math.max(1, Math.floor(descriptors / 16));
    return { connectionsMax: Math.max(1, Math.floor((descriptors - few) / 2)), queueMax: few };
  }
  return { connectionsMax: Math.floor(places), queueMax: queue };
}

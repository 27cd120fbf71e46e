/** The options that bound connections and sessions, of all clients and of each. */

import { optional, withDefault } from "@optique/core/modifiers";
import { flag, option } from "@optique/core/primitives";
import { prose } from "../prose.ts";
import { inGroup } from "./groups.ts";
import { numberValue } from "./values.ts";

const count = () => numberValue("N", 1, 1_000_000);

/** Of TCP connections. */
export const connectionFields = {
  ...inGroup("Limits", {
    maxConnections: optional(
      option("--max-connections", count(), {
        description: prose`Accept at most N connections at once; later ones wait. A waiting client
          that has fewer than others evicts an idle connection of the client with the most. By
          default N is as high as the limit on descriptors allows.`,
      }),
    ),
    maxConnectionsPerClient: withDefault(
      option("--max-connections-per-client", count(), {
        description: prose`Accept at most N connections of one client at once, and reject more. A
          client is an IPv4 address or the /64 of an IPv6 address. By default clients share all
          connections fairly.`,
      }),
      0,
    ),
    connectionRatePerClient: withDefault(
      option("--connection-rate-per-client", count(), {
        description: prose`Accept at most N new connections of one client a second, and reject
          more.`,
      }),
      0,
    ),
    strictLimits: withDefault(
      flag("--strict-limits", {
        description: prose`Fail at the start if the limit on descriptors is too low for
          ${"--max-connections"} or ${"--max-sessions"}. By default these are lowered instead.`,
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
        description: prose`Keep at most N UDP sessions, each of one client and one destination. A
          new session beyond that evicts a session of the client with the most, or is rejected. By
          default N is as high as the limit on descriptors allows.`,
      }),
    ),
    maxSessionsPerClient: withDefault(
      option("--max-sessions-per-client", count(), {
        description: prose`Keep at most N UDP sessions of one client at once, and reject more. A
          client is an IPv4 address or the /64 of an IPv6 address.`,
      }),
      0,
    ),
    sessionRatePerClient: withDefault(
      option("--session-rate-per-client", count(), {
        description: prose`Accept at most N new UDP sessions of one client a second, and reject
          more.`,
      }),
      0,
    ),
  }),
};

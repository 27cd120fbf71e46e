/** The maps, sets and time-outs that the rules of a service use. Pure. */

import type { Family } from "../../net/address.ts";
import type { FlowObject, TcpTimeout } from "../plan/flow-rule.ts";
import type { Protocol } from "../plan/intent.ts";
import { type PathService, type PathTimeouts, retriedEndpoints } from "./intent.ts";

export const mapName = (number: number, family: Family) => `slots${family}_${number}`;
export const endpointsName = (number: number, family: Family) => `upstreams${family}_${number}`;
/** Upstreams beside which there are others, so that a connection that one refuses may go there. */
export const retriedName = (number: number, family: Family) => `retried${family}_${number}`;
export const timeoutName = (number: number, family: Family, protocol: Protocol) =>
  `${protocol}${family}_${number}`;

/** Seconds after which the entry of an ended connection is dropped: a port is soon free again. */
const endedSeconds = 10;
/**
 * The same of a connection that was reset. Until then the kernel sends a new one from the same port
 * to the same upstream, though that may be the one that died (nf_conntrack_proto_tcp.c, IGNORE).
 */
const resetSeconds = 1;

/** The objects of a service: for each family its map, its upstreams, and its time-outs. */
export function objectsOf(service: PathService): FlowObject[] {
  const { number, pools, protocols, timeouts } = service;
  return pools.flatMap((pool) => {
    const { family, slots, upstreams: endpoints } = pool;
    return [
      { kind: "slots", name: mapName(number, family), family, slots },
      { kind: "endpoints", name: endpointsName(number, family), family, endpoints },
      ...(hasRetries(service)
        ? [
            {
              ...{ kind: "endpoints" as const, name: retriedName(number, family), family },
              endpoints: retriedEndpoints(pool),
            },
          ]
        : []),
      ...protocols.map((protocol): FlowObject => {
        const name = timeoutName(number, family, protocol);
        if (protocol === "udp") {
          const seconds = { unreplied: timeouts.udpUnreplied, replied: timeouts.udpReplied };
          return { kind: "timeouts", name, family, protocol, seconds };
        }
        return { kind: "timeouts", name, family, protocol, seconds: tcpSeconds(timeouts) };
      }),
    ] satisfies FlowObject[];
  });
}

/**
 * Whether a client that an upstream refuses may get another one: its next SYN draws another slot.
 * By the client's address it would be the same one.
 */
export function hasRetries({ protocols, choice }: PathService): boolean {
  return choice === "turn" && protocols.includes("tcp");
}

/** The time-outs of TCP connections by their state. */
export function tcpSeconds(timeouts: PathTimeouts): Readonly<Record<TcpTimeout, number>> {
  return {
    ...{ syn_sent: timeouts.tcpConnect, established: timeouts.tcpIdle },
    ...{ fin_wait: timeouts.tcpHalfClosed, close_wait: timeouts.tcpHalfClosed },
    ...{ last_ack: endedSeconds, time_wait: endedSeconds, close: resetSeconds },
  };
}

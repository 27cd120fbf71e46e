/** Entries of connection tracking for tests. */

import { IPPROTO_TCP, IPPROTO_UDP } from "../../../../ffi/constants.ts";
import type { ConntrackEntry } from "../../../../ffi/netlink/conntrack.ts";
import { NFPROTO_IPV4 } from "../../../../ffi/netlink/constants.ts";
import type { FlowOwner } from "../../../../src/control/kernel-path/flow-rows.ts";
import { ip } from "../../../helpers/addresses.ts";

export const owner: FlowOwner = {
  number: 1,
  source: "client",
  timeouts: {
    ...{ tcpIdle: 7200, tcpConnect: 10, tcpHalfClosed: 60 },
    ...{ udpUnreplied: 30, udpReplied: 120 },
  },
};

const start = 1_000_000;
/** When all entries below began. */
export const startedAt = start;

/** A TCP connection of 10.9.0.2 to 192.0.2.80:80, carried to 10.8.0.2:8080. */
export function stream(tcpState: number, changes: Partial<ConntrackEntry> = {}): ConntrackEntry {
  return {
    family: NFPROTO_IPV4,
    original: {
      ...{ source: ip("10.9.0.2"), destination: ip("192.0.2.80"), protocol: IPPROTO_TCP },
      ...{ sourcePort: 4000, destinationPort: 80 },
    },
    reply: {
      ...{ source: ip("10.8.0.2"), destination: ip("10.9.0.2"), protocol: IPPROTO_TCP },
      ...{ sourcePort: 8080, destinationPort: 4000 },
    },
    status: 0x2e,
    id: 77,
    zone: 0,
    mark: 0x0100_0000,
    tcpState,
    sent: { packets: 5, bytes: 300 },
    received: { packets: 4, bytes: 4000 },
    startedAt,
    ...changes,
  };
}

/** The same of UDP. */
export function session(changes: Partial<ConntrackEntry> = {}): ConntrackEntry {
  const { tcpState: _, ...rest } = stream(0);
  const original = { ...rest.original, protocol: IPPROTO_UDP };
  const reply = { ...rest.reply, protocol: IPPROTO_UDP };
  return { ...rest, original, reply, ...changes };
}

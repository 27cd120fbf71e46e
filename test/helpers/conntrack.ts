/** Entries of connection tracking as the kernel writes them, for what decodes them. */

import { type ConntrackEntry, conntrackMessage, type Tuple } from "../../ffi/netlink/conntrack.ts";
import * as c from "../../ffi/netlink/conntrack-constants.ts";
import { NLA_F_NESTED } from "../../ffi/netlink/constants.ts";
import type { Writer } from "../../ffi/netlink/wire.ts";

/** The body of IPCTNL_MSG_CT_NEW, as the kernel writes it. */
export function entryBody(entry: ConntrackEntry): Uint8Array {
  return conntrackMessage("entry", 0, 0, entry.family, (to) => {
    const nest = (type: number, write: () => void) => to.nest(type | NLA_F_NESTED, write);
    nest(c.CTA_TUPLE_ORIG, () => writeTuple(to, entry.original));
    nest(c.CTA_TUPLE_REPLY, () => writeTuple(to, entry.reply));
    to.be32(c.CTA_STATUS, entry.status);
    to.be32(c.CTA_ID, entry.id);
    if (entry.zone !== 0) to.be16(c.CTA_ZONE, entry.zone);
    to.be32(c.CTA_MARK, entry.mark);
    const { timeoutS, tcpState, sent, received, startedAt, labels } = entry;
    if (timeoutS !== undefined) to.be32(c.CTA_TIMEOUT, timeoutS);
    if (tcpState !== undefined) {
      nest(c.CTA_PROTOINFO, () =>
        nest(c.CTA_PROTOINFO_TCP, () => to.u8(c.CTA_PROTOINFO_TCP_STATE, tcpState)),
      );
    }
    for (const [type, each] of [
      [c.CTA_COUNTERS_ORIG, sent],
      [c.CTA_COUNTERS_REPLY, received],
    ] as const) {
      if (each === undefined) continue;
      nest(type, () => {
        to.be64(c.CTA_COUNTERS_PACKETS, BigInt(each.packets));
        to.be64(c.CTA_COUNTERS_BYTES, BigInt(each.bytes));
      });
    }
    if (startedAt !== undefined) {
      const nanoseconds = BigInt(startedAt) * 1_000_000n + 999_999n;
      nest(c.CTA_TIMESTAMP, () => to.be64(c.CTA_TIMESTAMP_START, nanoseconds));
    }
    if (labels !== undefined) to.bytes(c.CTA_LABELS, labels);
  }).body;
}

function writeTuple(to: Writer, each: Tuple): void {
  const { source, destination, protocol, sourcePort, destinationPort } = each;
  const isV4 = source.length === 4;
  to.nest(c.CTA_TUPLE_IP | NLA_F_NESTED, () => {
    to.bytes(isV4 ? c.CTA_IP_V4_SRC : c.CTA_IP_V6_SRC, source);
    to.bytes(isV4 ? c.CTA_IP_V4_DST : c.CTA_IP_V6_DST, destination);
  });
  to.nest(c.CTA_TUPLE_PROTO | NLA_F_NESTED, () => {
    to.u8(c.CTA_PROTO_NUM, protocol);
    if (sourcePort !== undefined) to.be16(c.CTA_PROTO_SRC_PORT, sourcePort);
    if (destinationPort !== undefined) to.be16(c.CTA_PROTO_DST_PORT, destinationPort);
  });
}

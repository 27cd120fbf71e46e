/**
 * The header that all messages of netfilter's subsystems have (linux/netfilter/nfnetlink.h):
 * nf_tables and connection tracking. Pure. Their integers are in network order.
 */

import { NFNETLINK_V0 } from "./constants.ts";
import { Attributes, type Message, message, NETWORK_ORDER, structOf, type Writer } from "./wire.ts";

/** `struct nfgenmsg`. */
export const nfgenmsg = { size: 4, nfgen_family: 0, version: 1, res_id: 2 } as const;

/** A message of NFNL_SUBSYS_* `subsystem` and its message `type`, for the family NFPROTO_*. */
export function nfnetlinkMessage(
  operation: string,
  subsystem: number,
  type: number,
  flags: number,
  family: number,
  write: (to: Writer) => void,
): Message {
  return message(operation, (subsystem << 8) | type, flags, (to) => {
    writeHeader(to, family, 0);
    write(to);
  });
}

/** Appends `struct nfgenmsg`. `resource` depends on the message; mostly 0. */
export function writeHeader(to: Writer, family: number, resource: number): void {
  const header = to.struct(nfgenmsg.size);
  header.setUint8(nfgenmsg.nfgen_family, family);
  header.setUint8(nfgenmsg.version, NFNETLINK_V0);
  header.setUint16(nfgenmsg.res_id, resource, NETWORK_ORDER);
}

/**
 * The header's fields and the attributes of a message's body.
 * @throws WireError
 */
export function nfnetlinkAttributes(body: Uint8Array): {
  family: number;
  resource: number;
  attributes: Attributes;
} {
  const header = structOf(body, nfgenmsg.size);
  return {
    family: header.getUint8(nfgenmsg.nfgen_family),
    resource: header.getUint16(nfgenmsg.res_id, NETWORK_ORDER),
    attributes: new Attributes(body, nfgenmsg.size),
  };
}

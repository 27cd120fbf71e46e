/**
 * nf_tables messages and the batch around them (linux/netfilter/nfnetlink.h). Pure. nf_tables'
 * integers are in network order, except for what a register holds.
 */

import { AF_UNSPEC } from "../../constants.ts";
import {
  NFNETLINK_V0,
  NFNL_MSG_BATCH_BEGIN,
  NFNL_MSG_BATCH_END,
  NFNL_SUBSYS_NFTABLES,
} from "../constants.ts";
import {
  Attributes,
  type Message,
  message,
  NETWORK_ORDER,
  structOf,
  type Writer,
} from "../wire.ts";

/** `struct nfgenmsg`. */
const nfgenmsg = { size: 4, nfgen_family: 0, version: 1, res_id: 2 } as const;

/** Begins a batch: what follows is carried out all or none. `NetlinkSocket.batch` sends it. */
export const batchBegin = boundary("NFNL_MSG_BATCH_BEGIN", NFNL_MSG_BATCH_BEGIN);

/** Ends a batch: the kernel commits it, or undoes all of it if a message failed. */
export const batchEnd = boundary("NFNL_MSG_BATCH_END", NFNL_MSG_BATCH_END);

function boundary(operation: string, type: number): Message {
  return message(operation, type, 0, (to) => writeHeader(to, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
}

/** An nf_tables message of NFT_MSG_* `type` for the family NFPROTO_*. */
export function nftMessage(
  operation: string,
  type: number,
  flags: number,
  family: number,
  write: (to: Writer) => void,
): Message {
  return message(operation, (NFNL_SUBSYS_NFTABLES << 8) | type, flags, (to) => {
    writeHeader(to, family, 0);
    write(to);
  });
}

/**
 * The family and the attributes of an nf_tables message's body.
 * @throws WireError
 */
export function nftAttributes(body: Uint8Array): { family: number; attributes: Attributes } {
  const family = structOf(body, nfgenmsg.size).getUint8(nfgenmsg.nfgen_family);
  return { family, attributes: new Attributes(body, nfgenmsg.size) };
}

function writeHeader(to: Writer, family: number, resource: number): void {
  const header = to.struct(nfgenmsg.size);
  header.setUint8(nfgenmsg.nfgen_family, family);
  header.setUint8(nfgenmsg.version, NFNETLINK_V0);
  header.setUint16(nfgenmsg.res_id, resource, NETWORK_ORDER);
}

/**
 * nf_tables messages and the batch around them (linux/netfilter/nfnetlink.h). Pure. nf_tables'
 * integers are in network order, except for what a register holds.
 */

import { AF_UNSPEC } from "../../constants.ts";
import { NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES } from "../constants.ts";
import { nfnetlinkAttributes, nfnetlinkMessage, writeHeader } from "../nfnetlink.ts";
import { type Attributes, type Message, message, type Writer } from "../wire.ts";

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
  return nfnetlinkMessage(operation, NFNL_SUBSYS_NFTABLES, type, flags, family, write);
}

/**
 * The family and the attributes of an nf_tables message's body.
 * @throws WireError
 */
export function nftAttributes(body: Uint8Array): { family: number; attributes: Attributes } {
  const { family, attributes } = nfnetlinkAttributes(body);
  return { family, attributes };
}

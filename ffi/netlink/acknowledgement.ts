/**
 * The kernel's reply to a request: NLMSG_ERROR, NLMSG_DONE and the extended acknowledgement.
 * Pure. Sources: linux/netlink.h; netlink_ack() and netlink_dump_done() of af_netlink.c.
 */

import {
  NLM_F_ACK_TLVS,
  NLM_F_CAPPED,
  NLMSGERR_ATTR_MISS_TYPE,
  NLMSGERR_ATTR_MSG,
  NLMSGERR_ATTR_OFFS,
} from "./constants.ts";
import {
  Attributes,
  align4,
  defined,
  HOST_ORDER,
  nlmsghdr,
  type ReceivedMessage,
  structOf,
} from "./wire.ts";

/** The kernel's reply to a request (NLMSG_ERROR or the end of a dump). */
export interface Acknowledgement {
  /** 0 when it was carried out, otherwise a positive errno. */
  readonly errno: number;
  /** The kernel's own words (NLMSGERR_ATTR_MSG), if it had any. */
  readonly message?: string;
  /** Where in the request, counted from its header, the offending attribute is. */
  readonly offset?: number;
  /** The type of the attribute that is missing (NLMSGERR_ATTR_MISS_TYPE). */
  readonly missingType?: number;
}

/**
 * Decodes NLMSG_ERROR's `struct nlmsgerr`: the error, the request's header, the request itself
 * unless NLM_F_CAPPED, and with NLM_F_ACK_TLVS the extended acknowledgement.
 * @throws WireError
 */
export function decodeError({ flags, body }: ReceivedMessage): Acknowledgement {
  const view = structOf(body, 4 + nlmsghdr.size);
  const errno = 0 - view.getInt32(0, HOST_ORDER);
  if ((flags & NLM_F_ACK_TLVS) === 0) return { errno };
  const request = view.getUint32(4 + nlmsghdr.nlmsg_len, HOST_ORDER);
  const echoed = flags & NLM_F_CAPPED ? nlmsghdr.size : align4(request);
  return { errno, ...decodeExtendedAck(body, 4 + echoed) };
}

/**
 * Decodes NLMSG_DONE: an int, 0 or a negated errno, and perhaps the extended acknowledgement.
 * A body without the int, which old families send, is success.
 * @throws WireError
 */
export function decodeDone({ flags, body }: ReceivedMessage): Acknowledgement {
  if (body.length < 4) return { errno: 0 };
  const errno = Math.max(0, 0 - structOf(body, 4).getInt32(0, HOST_ORDER));
  if ((flags & NLM_F_ACK_TLVS) === 0) return { errno };
  return { errno, ...decodeExtendedAck(body, 4) };
}

function decodeExtendedAck(body: Uint8Array, offset: number): Omit<Acknowledgement, "errno"> {
  const attributes = new Attributes(body, offset);
  return defined({
    message: attributes.string(NLMSGERR_ATTR_MSG),
    offset: attributes.u32(NLMSGERR_ATTR_OFFS),
    missingType: attributes.u32(NLMSGERR_ATTR_MISS_TYPE),
  });
}

/**
 * Control messages in buffers that the caller owns (cmsg(3), ip(7), ipv6(7)): those that a datagram
 * comes with, and the source address that one is to leave from.
 */

import {
  IP_ORIGDSTADDR,
  IP_PKTINFO,
  IP_TTL,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_HOPLIMIT,
  IPV6_ORIGDSTADDR,
  IPV6_PKTINFO,
  SOL_UDP,
  UDP_GRO,
} from "./constants.ts";
import { cmsghdr, in_pktinfo, in6_pktinfo, sockaddr_in, sockaddr_in6 } from "./layout.ts";

/** The most that `encodePacketInfo` writes. */
export const packetInfoBytesMax = align(cmsghdr.size + in6_pktinfo.size);

/**
 * Writes the control message that sends a datagram from `source` (4 or 16 bytes, network order):
 * IP_PKTINFO or IPV6_PKTINFO. Returns its length. A transparent socket may name any address;
 * `scopeId` is the interface index of a link-local one.
 */
export function encodePacketInfo(view: DataView, source: Uint8Array, scopeId: number): number {
  const isV4 = source.length === 4;
  const info = isV4 ? in_pktinfo : in6_pktinfo;
  const size = cmsghdr.size + info.size;
  const bytes = new Uint8Array(view.buffer, view.byteOffset, align(size));
  bytes.fill(0);
  view.setUint32(cmsghdr.cmsg_len, size, true);
  view.setInt32(cmsghdr.cmsg_level, isV4 ? IPPROTO_IP : IPPROTO_IPV6, true);
  view.setInt32(cmsghdr.cmsg_type, isV4 ? IP_PKTINFO : IPV6_PKTINFO, true);
  if (isV4) bytes.set(source, cmsghdr.size + in_pktinfo.ipi_spec_dst);
  else {
    bytes.set(source, cmsghdr.size + in6_pktinfo.ipi6_addr);
    view.setInt32(cmsghdr.size + in6_pktinfo.ipi6_ifindex, scopeId, true);
  }
  return align(size);
}

function align(length: number): number {
  return (length + cmsghdr.align - 1) & ~(cmsghdr.align - 1);
}

const WORD = 4;
const HEADER_WORDS = cmsghdr.size / WORD;
const LEVEL = cmsghdr.cmsg_level / WORD;
const TYPE = cmsghdr.cmsg_type / WORD;

/**
 * The control messages of each message of a batch. `read` walks the control messages of one once,
 * since this is done for every datagram; their values are then looked up by the message's number.
 */
export class ReceivedControls {
  /** The size of each datagram but the last that GRO has joined; 0: none. */
  readonly segments: Int32Array;
  /** The TTL or hop limit with which a message has arrived; 0: the kernel did not report it. */
  readonly hopLimits: Int32Array;
  /**
   * The word at which the original destination begins, a struct sockaddr_in or sockaddr_in6; -1:
   * the kernel did not report it.
   */
  readonly destinations: Int32Array;

  /** For messages with numbers below `count`. */
  constructor(count: number) {
    this.segments = new Int32Array(count);
    this.hopLimits = new Int32Array(count);
    this.destinations = new Int32Array(count).fill(-1);
  }

  /**
   * Reads the control messages of message `index`: `words` is the memory as 32-bit words, `from`
   * the word at which `length` bytes of them begin. One that does not fit in there ends it.
   */
  read(index: number, words: Uint32Array, from: number, length: number): void {
    let segment = 0;
    let hopLimit = 0;
    let destination = -1;
    let at = from;
    let left = length;
    while (left >= cmsghdr.size) {
      const size = words[at] as number;
      if (size < cmsghdr.size || size > left) break;
      const data = at + HEADER_WORDS;
      const kind = kindOf(words[at + LEVEL] as number, words[at + TYPE] as number, size);
      if (kind === "hopLimit") hopLimit = words[data] as number;
      else if (kind === "destination") destination = data;
      else if (kind === "segment") segment = words[data] as number;
      const step = align(size);
      at += step / WORD;
      left -= step;
    }
    this.segments[index] = segment;
    this.hopLimits[index] = hopLimit;
    this.destinations[index] = destination;
  }
}

/** The payload of a control message of `size` bytes, which include its header. */
function kindOf(level: number, type: number, size: number) {
  const bytes = size - cmsghdr.size;
  if (level === IPPROTO_IP) {
    if (type === IP_TTL && bytes >= WORD) return "hopLimit";
    if (type === IP_ORIGDSTADDR && bytes >= sockaddr_in.size) return "destination";
  } else if (level === IPPROTO_IPV6) {
    if (type === IPV6_HOPLIMIT && bytes >= WORD) return "hopLimit";
    if (type === IPV6_ORIGDSTADDR && bytes >= sockaddr_in6.size) return "destination";
  } else if (level === SOL_UDP && type === UDP_GRO && bytes >= WORD) return "segment";
  return "other";
}

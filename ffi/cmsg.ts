/**
 * Control messages in buffers that the caller owns (cmsg(3), ip(7), ipv6(7)): the original
 * destination that a datagram comes with, and the source address that one is to leave from.
 */

import {
  IP_ORIGDSTADDR,
  IP_PKTINFO,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_ORIGDSTADDR,
  IPV6_PKTINFO,
} from "./constants.ts";
import { cmsghdr, in_pktinfo, in6_pktinfo, sockaddr_in, sockaddr_in6 } from "./layout.ts";
import { decodeSockaddr, type SocketAddress } from "./sockaddr.ts";

/** The most that `encodePacketInfo` writes. */
export const packetInfoBytesMax = align(cmsghdr.size + in6_pktinfo.size);

/**
 * Where the sender of a datagram meant it to go: IP_ORIGDSTADDR or IPV6_ORIGDSTADDR among the
 * first `length` bytes of control messages. On a dual-stack socket an IPv4 datagram carries the
 * former. Undefined without either, or when the bytes are no control messages.
 */
export function decodeOriginalDestination(
  view: DataView,
  length: number,
): SocketAddress | undefined {
  const end = Math.min(length, view.byteLength);
  let at = 0;
  while (at + cmsghdr.size <= end) {
    const size = view.getUint32(at + cmsghdr.cmsg_len, true);
    if (size < cmsghdr.size || at + size > end) return undefined;
    const level = view.getInt32(at + cmsghdr.cmsg_level, true);
    const type = view.getInt32(at + cmsghdr.cmsg_type, true);
    const room = size - cmsghdr.size;
    const isV4 = level === IPPROTO_IP && type === IP_ORIGDSTADDR && room >= sockaddr_in.size;
    const isV6 = level === IPPROTO_IPV6 && type === IPV6_ORIGDSTADDR && room >= sockaddr_in6.size;
    if (isV4 || isV6) return decodeSockaddr(view, at + cmsghdr.size);
    at += align(size);
  }
  return undefined;
}

/**
 * Writes the control message that sends a datagram from `source` (4 or 16 bytes, network order):
 * IP_PKTINFO or IPV6_PKTINFO. Answers its length. A transparent socket may name any address;
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

/**
 * Where the data of the control message of `level` and `type` begin, for what handles every
 * datagram: `words` is the memory as 32-bit words, `from` the word at which `length` bytes of
 * control messages begin. Answers a word index, -1 without such a message of `bytes` or more.
 */
export function findControl(
  words: Uint32Array,
  from: number,
  length: number,
  level: number,
  type: number,
  bytes: number,
): number {
  const end = from * WORD + length;
  let at = from * WORD;
  while (at + cmsghdr.size <= end) {
    const word = at / WORD;
    const size = words[word + cmsghdr.cmsg_len / WORD] as number;
    if (size < cmsghdr.size || at + size > end) return -1;
    if (
      words[word + cmsghdr.cmsg_level / WORD] === level &&
      words[word + cmsghdr.cmsg_type / WORD] === type &&
      size >= cmsghdr.size + bytes
    ) {
      return word + cmsghdr.size / WORD;
    }
    at += align(size);
  }
  return -1;
}

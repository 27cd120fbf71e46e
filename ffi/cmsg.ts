/**
 * Control messages in buffers that the caller owns (cmsg(3), ip(7), ipv6(7)): those that a datagram
 * comes with, and the source address that one is to leave from.
 */

import { IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO } from "./constants.ts";
import { cmsghdr, in_pktinfo, in6_pktinfo } from "./layout.ts";

/** The most that `encodePacketInfo` writes. */
export const packetInfoBytesMax = align(cmsghdr.size + in6_pktinfo.size);

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

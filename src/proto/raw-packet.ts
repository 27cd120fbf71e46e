/**
 * Encodes packets that no socket of ours would send: UDP datagrams from an address and port that
 * cannot be bound (RFC 768), and the ICMP errors of a destination that is not this host (RFC 792,
 * RFC 4443). The caller owns the buffers. The kernel writes the IP header, and routes, marks and
 * fragments the packet; only the IP header that an ICMP error quotes is written here.
 */

import {
  ICMP_DEST_UNREACH,
  ICMP_NET_ANO,
  ICMP_PKT_FILTERED,
  ICMP_PORT_UNREACH,
  ICMP_PROT_UNREACH,
  ICMP_TIME_EXCEEDED,
  ICMP6_DST_UNREACH,
  ICMP6_DST_UNREACH_ADMIN,
  ICMP6_DST_UNREACH_NOPORT,
  ICMP6_TIME_EXCEEDED,
  IPPROTO_UDP,
} from "../../ffi/constants.ts";
import { EACCES, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, ENOPROTOOPT } from "../../ffi/errno.ts";
import { icmphdr, ip6_hdr, iphdr, udphdr } from "../../ffi/layout.ts";
import type { SocketAddress } from "../../ffi/sockaddr.ts";

/** The TTL in the quoted IP header: the usual one, since the client's own is not known. */
const QUOTED_TTL = 64;

/**
 * Writes the UDP datagram from `source` to `destination`, addresses of one family, at the start of
 * `into`: header, checksum over the pseudo header too, and a copy of the `length` bytes of payload
 * at `from` in `payload`. Returns its length, `udphdr.size` more than the payload's.
 */
export function encodeDatagram(
  into: DataView,
  source: SocketAddress,
  destination: SocketAddress,
  payload: DataView,
  from: number,
  length: number,
): number {
  const size = udphdr.size + length;
  into.setUint16(udphdr.source, source.port);
  into.setUint16(udphdr.dest, destination.port);
  // An IPv6 jumbogram has 0 (RFC 2675); the kernel refuses the size before that matters.
  into.setUint16(udphdr.len, size & 0xffff);
  into.setUint16(udphdr.check, 0);
  const total =
    sumOfBytes(source.address) +
    sumOfBytes(destination.address) +
    IPPROTO_UDP +
    size +
    sum(into, 0, udphdr.size) +
    copyAndSum(into, udphdr.size, payload, from, length);
  const checksum = complement(total);
  // 0 would mean that there is no checksum.
  into.setUint16(udphdr.check, checksum === 0 ? 0xffff : checksum);
  return size;
}

/**
 * Writes, at the start of `into`, the ICMP or ICMPv6 error of a host at `destination` that stands
 * for `errno`: ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EACCES or, over IPv4, ENOPROTOOPT. It
 * quotes a datagram from `client` to `destination`, by which the client's kernel finds the socket.
 * Returns its length, at most 56, or 0 for another errno. The checksum of ICMPv6 is left to the
 * kernel (RFC 3542, 3.1).
 */
export function encodeUnreachable(
  into: DataView,
  client: SocketAddress,
  destination: SocketAddress,
  errno: number,
): number {
  const isV4 = destination.address.length === 4;
  const code = isV4 ? unreachableCode(errno) : unreachableCodeV6(errno);
  if (code === undefined) return 0;
  const type = isV4 ? ICMP_DEST_UNREACH : ICMP6_DST_UNREACH;
  return encodeError(into, type, code, client, destination);
}

/**
 * The same for the ICMP or ICMPv6 error of a router: the datagram has used up its TTL or hop limit
 * (RFC 792, RFC 4443, 3.3). Returns its length.
 */
export function encodeTimeExceeded(
  into: DataView,
  client: SocketAddress,
  destination: SocketAddress,
): number {
  const type = destination.address.length === 4 ? ICMP_TIME_EXCEEDED : ICMP6_TIME_EXCEEDED;
  return encodeError(into, type, 0, client, destination);
}

function encodeError(
  into: DataView,
  type: number,
  code: number,
  client: SocketAddress,
  destination: SocketAddress,
): number {
  const isV4 = destination.address.length === 4;
  const at = icmphdr.size + (isV4 ? iphdr.size : ip6_hdr.size);
  const size = at + udphdr.size;
  for (let i = 0; i < size; i++) into.setUint8(i, 0);
  into.setUint8(icmphdr.type, type);
  into.setUint8(icmphdr.code, code);
  if (isV4) quoteV4(into, icmphdr.size, client.address, destination.address);
  else quoteV6(into, icmphdr.size, client.address, destination.address);
  into.setUint16(at + udphdr.source, client.port);
  into.setUint16(at + udphdr.dest, destination.port);
  into.setUint16(at + udphdr.len, udphdr.size);
  if (isV4) into.setUint16(icmphdr.checksum, complement(sum(into, 0, size)));
  return size;
}

/*
 * The codes that a client's kernel reports to its socket at once: icmp_err_convert[] of
 * net/ipv4/icmp.c, icmpv6_err_convert() of net/ipv6/icmp.c. The kernel does not report codes for a
 * host or a net that is merely unreachable, neither to the client nor to us. They are translated
 * between the families as in RFC 7915.
 */

function unreachableCode(errno: number): number | undefined {
  if (errno === ECONNREFUSED) return ICMP_PORT_UNREACH;
  if (errno === EHOSTUNREACH || errno === EACCES) return ICMP_PKT_FILTERED;
  if (errno === ENETUNREACH) return ICMP_NET_ANO;
  return errno === ENOPROTOOPT ? ICMP_PROT_UNREACH : undefined;
}

function unreachableCodeV6(errno: number): number | undefined {
  if (errno === ECONNREFUSED) return ICMP6_DST_UNREACH_NOPORT;
  const isDenied = errno === EACCES || errno === EHOSTUNREACH || errno === ENETUNREACH;
  return isDenied ? ICMP6_DST_UNREACH_ADMIN : undefined;
}

function quoteV4(into: DataView, at: number, client: Uint8Array, destination: Uint8Array): void {
  into.setUint8(at, (4 << 4) | (iphdr.size / 4));
  into.setUint16(at + iphdr.tot_len, iphdr.size + udphdr.size);
  into.setUint8(at + iphdr.ttl, QUOTED_TTL);
  into.setUint8(at + iphdr.protocol, IPPROTO_UDP);
  copy(into, at + iphdr.saddr, client);
  copy(into, at + iphdr.daddr, destination);
  into.setUint16(at + iphdr.check, complement(sum(into, at, iphdr.size)));
}

function quoteV6(into: DataView, at: number, client: Uint8Array, destination: Uint8Array): void {
  into.setUint8(at, 6 << 4);
  into.setUint16(at + ip6_hdr.ip6_plen, udphdr.size);
  into.setUint8(at + ip6_hdr.ip6_nxt, IPPROTO_UDP);
  into.setUint8(at + ip6_hdr.ip6_hops, QUOTED_TTL);
  copy(into, at + ip6_hdr.ip6_src, client);
  copy(into, at + ip6_hdr.ip6_dst, destination);
}

function copy(into: DataView, at: number, bytes: Uint8Array): void {
  for (let i = 0; i < bytes.length; i++) into.setUint8(at + i, bytes[i] as number);
}

/*
 * The Internet checksum (RFC 1071). A sum of 32-bit words is congruent to that of their halves
 * modulo 0xffff; 64 KiB of them stay far below 2^53, so it is folded once, at the end.
 */

function sumOfBytes(bytes: Uint8Array): number {
  let total = 0;
  for (let i = 0; i < bytes.length; i += 2) {
    total += ((bytes[i] as number) << 8) | (bytes[i + 1] as number);
  }
  return total;
}

/** Of `length` bytes, an even number. */
function sum(view: DataView, at: number, length: number): number {
  let total = 0;
  for (let i = at; i < at + length; i += 2) total += view.getUint16(i);
  return total;
}

function copyAndSum(
  into: DataView,
  at: number,
  payload: DataView,
  from: number,
  length: number,
): number {
  let total = 0;
  const words = length & ~3;
  for (let i = 0; i < words; i += 4) {
    const word = payload.getUint32(from + i);
    into.setUint32(at + i, word);
    total += word;
  }
  for (let i = words; i < length; i++) {
    const byte = payload.getUint8(from + i);
    into.setUint8(at + i, byte);
    total += (i & 1) === 0 ? byte << 8 : byte;
  }
  return total;
}

function complement(total: number): number {
  let folded = total;
  while (folded > 0xffff) folded = (folded % 0x10000) + Math.floor(folded / 0x10000);
  return ~folded & 0xffff;
}

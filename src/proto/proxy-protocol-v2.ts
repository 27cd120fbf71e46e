/** Version 2 of the PROXY protocol: a binary block (proxy-protocol.txt, section 2.2). */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { crc32c } from "./crc32c.ts";
import {
  decoded,
  failed,
  more,
  ofOneFamily,
  type ProxyAddresses,
  type ProxyDecoding,
  socketAddress,
} from "./proxy-header.ts";

/** The most that is waited for. The format allows 65551, addresses and TLVs fill a few hundred. */
const HEADER_BYTES_MAX = 4096;

/** `"\r\n\r\n\0\r\nQUIT\n"` */
const SIGNATURE = Uint8Array.from([13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10]);

/** `struct proxy_hdr_v2 { uint8_t sig[12]; uint8_t ver_cmd; uint8_t fam; uint16_t len; }` */
const proxy_hdr_v2 = { size: 16, ver_cmd: 12, fam: 13, len: 14 } as const;

/** `struct pp2_tlv { uint8_t type; uint8_t length_hi; uint8_t length_lo; uint8_t value[0]; }` */
const pp2_tlv = { size: 3, type: 0, length: 1 } as const;

const PP2_TYPE_CRC32C = 0x03;

const VERSION = 2;
const LOCAL = 0;
const PROXY = 1;
const AF_INET = 1;
const AF_INET6 = 2;
const AF_UNIX = 3;
const STREAM = 1;
const DGRAM = 2;

/** `union proxy_addr` by family: AF_UNSPEC, AF_INET, AF_INET6, AF_UNIX. */
const ADDRESS_BYTES = [0, 12, 36, 216] as const;

/** Reads a header of version 2 from the bytes of a connection so far, see `decodeProxyHeader`. */
export function decodeProxyV2(bytes: Uint8Array): ProxyDecoding {
  const wrong = SIGNATURE.findIndex((byte, i) => i < bytes.length && bytes[i] !== byte);
  if (wrong >= 0) return failed(`byte ${wrong} of the signature is ${hex(bytes[wrong])}`);
  const versionAndCommand = bytes[proxy_hdr_v2.ver_cmd];
  if (versionAndCommand === undefined) return more;
  const command = versionAndCommand & 0xf;
  if (versionAndCommand >> 4 !== VERSION || command > PROXY) {
    return failed(`version and command are ${hex(versionAndCommand)}, not 0x20 or 0x21`);
  }
  const familyAndTransport = bytes[proxy_hdr_v2.fam];
  if (familyAndTransport === undefined) return more;
  const family = familyAndTransport >> 4;
  const transport = familyAndTransport & 0xf;
  if (command === PROXY && (family > AF_UNIX || transport > DGRAM)) {
    return failed(`family and transport are ${hex(familyAndTransport)}`);
  }
  const length = proxy_hdr_v2.size + leastUint16(bytes, proxy_hdr_v2.len);
  if (length > HEADER_BYTES_MAX) {
    return failed(`it announces more than ${HEADER_BYTES_MAX} bytes`);
  }
  if (bytes.length < proxy_hdr_v2.size) return more;
  const isSaid = command !== LOCAL && transport !== 0;
  return decodeBlock(bytes, length, isSaid ? family : 0, transport === STREAM ? "tcp" : "udp");
}

/** Reads what is behind the fixed part: the addresses of `family`, 0 for none, and the TLVs. */
function decodeBlock(
  bytes: Uint8Array,
  length: number,
  family: number,
  protocol: "tcp" | "udp",
): ProxyDecoding {
  const tlvsAt = proxy_hdr_v2.size + (ADDRESS_BYTES[family] as number);
  if (length < tlvsAt) return failed(`its length of ${length} is too short for its addresses`);
  const tlvs = walk(bytes, tlvsAt, length);
  // With LOCAL and UNSPEC the block may be anything. It is skipped, but a checksum found in it
  // counts.
  if (tlvs.error !== undefined && family !== 0) return failed(tlvs.error);
  if (bytes.length < length) return more;
  const isIntact = tlvs.checksumAt === undefined || verify(bytes, length, tlvs.checksumAt);
  if (!isIntact) return failed("its CRC32c does not fit");
  if (family === AF_INET) return decoded(length, readAddresses(bytes, 4), protocol);
  if (family === AF_INET6) return decoded(length, readAddresses(bytes, 16), protocol);
  return decoded(length);
}

/** Walks the TLVs from `at` to `end` as far as they are there. */
function walk(bytes: Uint8Array, at: number, end: number): { error?: string; checksumAt?: number } {
  let checksumAt: number | undefined;
  let next = at;
  while (next < end) {
    const size = leastUint16(bytes, next + pp2_tlv.length);
    const valueAt = next + pp2_tlv.size;
    if (valueAt + size > end) return { error: `the TLV at byte ${next} goes beyond its end` };
    if (bytes.length < valueAt) break;
    if (bytes[next + pp2_tlv.type] === PP2_TYPE_CRC32C) {
      if (size !== 4) return { error: `its CRC32c has ${size} bytes, not 4` };
      if (checksumAt !== undefined) return { error: "it has two CRC32c" };
      checksumAt = valueAt;
    }
    next = valueAt + size;
  }
  return checksumAt === undefined ? {} : { checksumAt };
}

/** Whether the checksum is that of the header with 0 in the checksum's place. */
function verify(bytes: Uint8Array, length: number, checksumAt: number): boolean {
  const before = bytes.subarray(0, checksumAt);
  const after = bytes.subarray(checksumAt + 4, length);
  const checksum = viewOf(bytes).getUint32(checksumAt);
  return crc32c(before, new Uint8Array(4), after) === checksum;
}

function readAddresses(bytes: Uint8Array, size: 4 | 16): ProxyAddresses {
  const view = viewOf(bytes);
  const at = proxy_hdr_v2.size;
  const portsAt = at + 2 * size;
  return {
    source: socketAddress(bytes.subarray(at, at + size), view.getUint16(portsAt)),
    destination: socketAddress(bytes.subarray(at + size, portsAt), view.getUint16(portsAt + 2)),
  };
}

/** A number in network order, or the least that it can be while bytes of it are missing. */
function leastUint16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

function hex(byte: number | undefined): string {
  return `0x${(byte ?? 0).toString(16).padStart(2, "0")}`;
}

/**
 * The block that says a connection goes from `source` to `destination`: the command PROXY with
 * AF_INET or AF_INET6, and LOCAL when one of them is missing or their families differ.
 */
export function encodeProxyV2(
  source: SocketAddress | undefined,
  destination: SocketAddress | undefined,
  protocol: "tcp" | "udp",
): Uint8Array {
  const ends = ofOneFamily(source, destination);
  const size = ends?.source.address.length ?? 0;
  const family = ends === undefined ? 0 : size === 4 ? AF_INET : AF_INET6;
  const block = ADDRESS_BYTES[family];
  const bytes = new Uint8Array(proxy_hdr_v2.size + block);
  const view = viewOf(bytes);
  bytes.set(SIGNATURE);
  bytes[proxy_hdr_v2.ver_cmd] = (VERSION << 4) | (ends === undefined ? LOCAL : PROXY);
  view.setUint16(proxy_hdr_v2.len, block);
  if (ends === undefined) return bytes;
  bytes[proxy_hdr_v2.fam] = (family << 4) | (protocol === "tcp" ? STREAM : DGRAM);
  const at = proxy_hdr_v2.size;
  bytes.set(ends.source.address, at);
  bytes.set(ends.destination.address, at + size);
  view.setUint16(at + 2 * size, ends.source.port);
  view.setUint16(at + 2 * size + 2, ends.destination.port);
  return bytes;
}

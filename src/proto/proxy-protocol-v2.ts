/** Version 2 of the PROXY protocol: a binary block (proxy-protocol.txt, section 2.2). */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { crc32c } from "./crc32c.ts";
import {
  decoded,
  failed,
  more,
  ofOneFamily,
  type PassedOn,
  type ProxyAddresses,
  type ProxyDecoding,
  plainHeader,
  socketAddress,
} from "./proxy-header.ts";

/** The longest header that is accepted. The format allows 65551; real ones have a few hundred. */
const HEADER_BYTES_MAX = 4096;

/** `"\r\n\r\n\0\r\nQUIT\n"` */
const SIGNATURE = Uint8Array.from([13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10]);

/** `struct proxy_hdr_v2 { uint8_t sig[12]; uint8_t ver_cmd; uint8_t fam; uint16_t len; }` */
const proxy_hdr_v2 = { size: 16, ver_cmd: 12, fam: 13, len: 14 } as const;

/** `struct pp2_tlv { uint8_t type; uint8_t length_hi; uint8_t length_lo; uint8_t value[0]; }` */
const pp2_tlv = { size: 3, type: 0, length: 1 } as const;

const PP2_TYPE_CRC32C = 0x03;
const PP2_TYPE_NOOP = 0x04;
const PP2_TYPE_NETNS = 0x30;

/**
 * TLVs of the sender's own hop: padding, the checksum of its own header, and the namespace that
 * its own socket is in. All others describe the client's connection.
 */
const OWN_HOP: readonly number[] = [PP2_TYPE_CRC32C, PP2_TYPE_NOOP, PP2_TYPE_NETNS];

const VERSION = 2;
const LOCAL = 0;
const PROXY = 1;
const AF_INET = 1;
const AF_INET6 = 2;
const AF_UNIX = 3;
const STREAM = 1;
const DGRAM = 2;

const CHECKSUM_TLV_BYTES = pp2_tlv.size + 4;

/** The result of `walk` for malformed TLVs. */
const WRONG = -1;

/** `union proxy_addr` by family: AF_UNSPEC, AF_INET, AF_INET6, AF_UNIX. */
const ADDRESS_BYTES = [0, 12, 36, 216] as const;

/** Four bytes that stand for those of the checksum itself. */
const ZEROS = new Uint8Array(4);

/** Whether the bytes from `from` to `end` begin with the signature of version 2. */
export function isSigned(bytes: Uint8Array, from: number, end: number): boolean {
  if (end - from < SIGNATURE.length) return false;
  for (let i = 0; i < SIGNATURE.length; i++) if (bytes[from + i] !== SIGNATURE[i]) return false;
  return true;
}

/**
 * Reads headers where they lie, one after the other, and allocates nothing for one that is right.
 * The fields keep the last header's values until the next one.
 */
export class ProxyV2Reader {
  /** Bytes of the whole header. */
  length = 0;
  /** Bytes of each of its two addresses, which begin at `addressesAt`; 0: it has none. */
  addressBytes: 0 | 4 | 16 = 0;
  addressesAt = 0;
  /** LOCAL: the connection is the sender's own. */
  isLocal = false;
  /** Where its TLVs begin, which end with the header; behind addresses alone they are known. */
  tlvsAt = 0;
  isChecked = false;
  /** The transport between the addresses. */
  protocol: "tcp" | "udp" = "tcp";
  /** Why there is no header: one of a few fixed texts. */
  error = "";
  /** The index of the wrong byte, -1 for none in particular. */
  wrongAt = -1;

  /** Reads the header that begins at `from`, of which the bytes up to `end` are there. */
  read(bytes: Uint8Array, from: number, end: number): "more" | "header" | "error" {
    const there = end - from;
    for (let i = 0; i < SIGNATURE.length; i++) {
      if (i === there) return "more";
      if (bytes[from + i] !== SIGNATURE[i]) return this.fail("its signature is wrong", from + i);
    }
    const commandAt = from + proxy_hdr_v2.ver_cmd;
    if (commandAt >= end) return "more";
    const command = (bytes[commandAt] as number) & 0xf;
    if ((bytes[commandAt] as number) >> 4 !== VERSION || command > PROXY) {
      return this.fail("its version and command are not 0x20 or 0x21", commandAt);
    }
    const familyAt = from + proxy_hdr_v2.fam;
    if (familyAt >= end) return "more";
    const family = (bytes[familyAt] as number) >> 4;
    const transport = (bytes[familyAt] as number) & 0xf;
    if (command === PROXY && (family > AF_UNIX || transport > DGRAM)) {
      return this.fail("its family or transport is unknown", familyAt);
    }
    this.length = proxy_hdr_v2.size + leastUint16(bytes, from + proxy_hdr_v2.len, end);
    if (this.length > HEADER_BYTES_MAX) {
      return this.fail(`it announces more than ${HEADER_BYTES_MAX} bytes`);
    }
    if (there < proxy_hdr_v2.size) return "more";
    this.protocol = transport === STREAM ? "tcp" : "udp";
    this.isLocal = command === LOCAL;
    return this.readBlock(bytes, from, end, command !== LOCAL && transport !== 0 ? family : 0);
  }

  /** Reads what is behind the fixed part: the addresses of `family`, 0 for none, and the TLVs. */
  private readBlock(bytes: Uint8Array, from: number, end: number, family: number) {
    this.addressesAt = from + proxy_hdr_v2.size;
    this.addressBytes = family === AF_INET ? 4 : family === AF_INET6 ? 16 : 0;
    const tlvsAt = this.addressesAt + (ADDRESS_BYTES[family] as number);
    const last = from + this.length;
    if (last < tlvsAt) return this.fail("its length is too short for its addresses");
    const checksumAt = this.walk(bytes, tlvsAt, last, end);
    // With LOCAL and UNSPEC the block may be anything. It is skipped, but a checksum found in it
    // counts.
    if (checksumAt === WRONG && family !== 0) return "error";
    if (end < last) return "more";
    if (checksumAt > 0 && !isIntact(bytes, from, last, checksumAt)) {
      return this.fail("its CRC32c does not fit");
    }
    this.tlvsAt = this.addressBytes > 0 ? tlvsAt : last;
    this.isChecked = this.tlvsAt < last && checksumAt > 0;
    return "header";
  }

  /** The parts for the next proxy of the last header, which began at `from`; a copy. */
  passed(bytes: Uint8Array, from: number): PassedOn {
    const last = from + this.length;
    const names = this.isLocal ? "sender" : this.addressBytes > 0 ? "ends" : "nobody";
    if (this.tlvsAt === last) return { ...plainHeader, names };
    const tlvs = passedTlvs(bytes, this.tlvsAt, last);
    return { names, tlvs, isChecked: this.isChecked };
  }

  /** Walks the TLVs from `at` to `last`; where the checksum is, 0 for nowhere, or WRONG. */
  private walk(bytes: Uint8Array, at: number, last: number, end: number): number {
    let checksumAt = 0;
    let next = at;
    while (next < last) {
      const size = leastUint16(bytes, next + pp2_tlv.length, end);
      const valueAt = next + pp2_tlv.size;
      if (valueAt + size > last) return this.wrong("a TLV goes beyond its end", next);
      if (end < valueAt) break;
      if (bytes[next + pp2_tlv.type] === PP2_TYPE_CRC32C) {
        if (size !== 4) return this.wrong("its CRC32c has not 4 bytes", next);
        if (checksumAt > 0) return this.wrong("it has two CRC32c", next);
        checksumAt = valueAt;
      }
      next = valueAt + size;
    }
    return checksumAt;
  }

  private wrong(error: string, at: number): number {
    this.fail(error, at);
    return WRONG;
  }

  private fail(error: string, at = -1): "error" {
    this.error = error;
    this.wrongAt = at;
    return "error";
  }
}

/** A copy of the TLVs from `from` to `last`, which are right, without those of the sender's hop. */
function passedTlvs(bytes: Uint8Array, from: number, last: number): Uint8Array {
  const kept = new Uint8Array(last - from);
  let length = 0;
  for (let at = from; at < last; ) {
    const next = at + pp2_tlv.size + leastUint16(bytes, at + pp2_tlv.length, last);
    // Fewer bytes than a TLV's own three are none.
    if (at + pp2_tlv.size > last) break;
    if (!OWN_HOP.includes(bytes[at + pp2_tlv.type] as number)) {
      kept.set(bytes.subarray(at, next), length);
      length += next - at;
    }
    at = next;
  }
  return kept.subarray(0, length);
}

/** Whether the checksum is that of the header with 0 in the checksum's place. */
function isIntact(bytes: Uint8Array, from: number, last: number, checksumAt: number): boolean {
  const before = crc32c(bytes, from, checksumAt);
  const checksum = crc32c(bytes, checksumAt + 4, last, crc32c(ZEROS, 0, 4, before));
  let said = 0;
  for (let i = checksumAt; i < checksumAt + 4; i++) said = (said << 8) | (bytes[i] as number);
  return said >>> 0 === checksum;
}

const reader = new ProxyV2Reader();

/** Reads a header of version 2 from the bytes of a connection so far, see `decodeProxyHeader`. */
export function decodeProxyV2(bytes: Uint8Array): ProxyDecoding {
  switch (reader.read(bytes, 0, bytes.length)) {
    case "more":
      return more;
    case "error": {
      const { error, wrongAt: at } = reader;
      return failed(at < 0 ? error : `${error} (byte ${at}${isText(bytes[at])})`);
    }
    case "header": {
      const { length, addressBytes, protocol } = reader;
      const passed = reader.passed(bytes, 0);
      if (addressBytes === 0) return decoded(length, undefined, undefined, passed);
      return decoded(length, readAddresses(bytes, addressBytes), protocol, passed);
    }
  }
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
function leastUint16(bytes: Uint8Array, at: number, end: number): number {
  const high = at < end ? (bytes[at] as number) : 0;
  return (high << 8) | (at + 1 < end ? (bytes[at + 1] as number) : 0);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** Nothing of a byte that is not there yet: what came before it says that it is too many. */
function isText(byte: number | undefined): string {
  return byte === undefined ? "" : ` is 0x${byte.toString(16).padStart(2, "0")}`;
}

/**
 * Encodes a connection from `source` to `destination`: the command PROXY with
 * AF_INET or AF_INET6, and with AF_UNSPEC when one of them is missing or their families differ.
 * The other parts of a received header come from `passed`; with LOCAL there are no ends.
 */
export function encodeProxyV2(
  source: SocketAddress | undefined,
  destination: SocketAddress | undefined,
  protocol: "tcp" | "udp",
  { names, tlvs, isChecked }: PassedOn = plainHeader,
): Uint8Array {
  const ends = names === "ends" ? ofOneFamily(source, destination) : undefined;
  const size = ends?.source.address.length ?? 0;
  const family = ends === undefined ? 0 : size === 4 ? AF_INET : AF_INET6;
  const tlvsAt = proxy_hdr_v2.size + ADDRESS_BYTES[family];
  // Without addresses receivers skip the block, and with it the TLVs.
  const tlvBytes = ends === undefined ? 0 : tlvs.length;
  const checksumAt = ends !== undefined && isChecked ? tlvsAt + tlvBytes : 0;
  const bytes = new Uint8Array(tlvsAt + tlvBytes + (checksumAt > 0 ? CHECKSUM_TLV_BYTES : 0));
  const view = viewOf(bytes);
  bytes.set(SIGNATURE);
  bytes[proxy_hdr_v2.ver_cmd] = (VERSION << 4) | (names === "sender" ? LOCAL : PROXY);
  view.setUint16(proxy_hdr_v2.len, bytes.length - proxy_hdr_v2.size);
  if (ends === undefined) return bytes;
  bytes[proxy_hdr_v2.fam] = (family << 4) | (protocol === "tcp" ? STREAM : DGRAM);
  const at = proxy_hdr_v2.size;
  bytes.set(ends.source.address, at);
  bytes.set(ends.destination.address, at + size);
  view.setUint16(at + 2 * size, ends.source.port);
  view.setUint16(at + 2 * size + 2, ends.destination.port);
  bytes.set(tlvs, tlvsAt);
  if (checksumAt > 0) {
    bytes[checksumAt + pp2_tlv.type] = PP2_TYPE_CRC32C;
    view.setUint16(checksumAt + pp2_tlv.length, 4);
    view.setUint32(checksumAt + pp2_tlv.size, crc32c(bytes));
  }
  return bytes;
}

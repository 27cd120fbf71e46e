/** What the tests of both versions of the PROXY protocol share. */

import { expect } from "bun:test";
import fc from "fast-check";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import { crc32c } from "../../../src/proto/crc32c.ts";
import { decodeProxyHeader } from "../../../src/proto/proxy-protocol.ts";
import { ip } from "../../helpers/addresses.ts";

const ofLength = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const port = fc.integer({ min: 0, max: 0xffff });

/** The socket address of an address in text form. */
export function at(address: string, port: number): SocketAddress {
  return { address: ip(address), port, scopeId: 0 };
}

const mappedPrefix = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/** Two ends of a connection, both IPv4 or both IPv6 and not mapped. */
export const ends = fc.oneof(
  fc.tuple(socketAddresses(ofLength(4)), socketAddresses(ofLength(4))),
  fc.tuple(socketAddresses(addresses6()), socketAddresses(addresses6())),
);

/** IPv6 addresses, most of them with runs of zeros, none of them IPv4-mapped. */
function addresses6(): fc.Arbitrary<Uint8Array> {
  return fc
    .array(fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 255 })), {
      minLength: 16,
      maxLength: 16,
    })
    .map((bytes) => Uint8Array.from(bytes))
    .filter((bytes) => mappedPrefix.some((byte, i) => bytes[i] !== byte));
}

function socketAddresses(addresses: fc.Arbitrary<Uint8Array>): fc.Arbitrary<SocketAddress> {
  return fc.record({ address: addresses, port, scopeId: fc.constant(0) });
}

/** The same address as a dual-stack socket shows it. */
export function asMapped(end: SocketAddress): SocketAddress {
  if (end.address.length === 16) return end;
  return { ...end, address: Uint8Array.from([...mappedPrefix, ...end.address]) };
}

/** The bytes of texts and numbers, one after the other. */
export function bytesOf(...parts: (string | number | Uint8Array | readonly number[])[]) {
  const encoder = new TextEncoder();
  return Uint8Array.from(
    parts.flatMap((part) => {
      if (typeof part === "number") return [part];
      return [...(typeof part === "string" ? encoder.encode(part) : part)];
    }),
  );
}

/** What a header of version 2 begins with. */
export const signature = "\r\n\r\n\0\r\nQUIT\n";

type Bytes = Uint8Array | readonly number[];

/** A header of version 2 whose length is that of its block. */
export function header(command: number, family: number, ...block: Bytes[]): Uint8Array {
  const bytes = bytesOf(...block);
  return bytesOf(signature, command, family, bytes.length >> 8, bytes.length & 0xff, bytes);
}

/** A TLV of version 2. */
export function tlv(type: number, value: string | Bytes): Uint8Array {
  const bytes = bytesOf(value);
  return bytesOf(type, bytes.length >> 8, bytes.length & 0xff, bytes);
}

/** A header with its checksum between two parts of its block. */
export function checked(command: number, family: number, before: Bytes, after: Bytes): Uint8Array {
  const bytes = header(command, family, before, tlv(3, [0, 0, 0, 0]), after);
  new DataView(bytes.buffer).setUint32(16 + before.length + 3, crc32c(bytes));
  return bytes;
}

/** The header is complete with its last byte and not before, and nothing behind it matters. */
export function expectHeader(
  bytes: Uint8Array,
  source: SocketAddress | undefined,
  destination: SocketAddress | undefined,
  protocol?: "tcp" | "udp",
  trailing: Uint8Array = bytesOf("GET / HTTP/1.1\r\n"),
): void {
  for (let count = 0; count < bytes.length; count++) {
    expect(decodeProxyHeader(bytes.subarray(0, count))).toEqual({ kind: "more" });
  }
  const header = { source, destination, protocol };
  const expected = { kind: "header" as const, length: bytes.length, header };
  expect(decodeProxyHeader(bytes)).toMatchObject(expected);
  // Not at the start of its buffer, as a piece of a larger one is.
  const all = bytesOf(0xa5, bytes, trailing);
  expect(decodeProxyHeader(all.subarray(1))).toMatchObject(expected);
  expect(all).toEqual(bytesOf(0xa5, bytes, trailing));
}

/** The bytes are refused for this reason, with the last of them and not before. */
export function expectRefused(bytes: Uint8Array, reason: string): void {
  expect(decodeProxyHeader(bytes.subarray(0, -1))).toEqual({ kind: "more" });
  const result = decodeProxyHeader(bytes);
  expect(result.kind === "error" ? result.error : result).toContain(
    `invalid PROXY protocol header: ${reason}`,
  );
  for (const rest of ["\r\n", " 0 0 0 0\r\n", "\0\0\0\0\0\0\0\0"]) {
    expect(decodeProxyHeader(bytesOf(bytes, rest)).kind).toBe("error");
  }
}

/** Headers in front of datagrams: read in place, as the decoder of connections reads them. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { DatagramHeader } from "../../../src/proto/proxy-datagram.ts";
import { decodeProxyHeader } from "../../../src/proto/proxy-protocol.ts";
import { encodeProxyV1 } from "../../../src/proto/proxy-protocol-v1.ts";
import { encodeProxyV2 } from "../../../src/proto/proxy-protocol-v2.ts";
import { at, bytesOf, ends } from "./headers.ts";

const signature = "\r\n\r\n\0\r\nQUIT\n";
const header = new DatagramHeader();
const payloads = fc.uint8Array({ maxLength: 50 });

/** Reads `bytes` as they lie in a slot among those of others. */
function read(bytes: Uint8Array, from = 0): "none" | "header" | "broken" {
  const slot = bytesOf(new Uint8Array(from).fill(0xa5), bytes, signature);
  return header.read(slot, from, from + bytes.length);
}

describe("DatagramHeader", () => {
  test("version 2: where its addresses are, and how long it is", () => {
    fc.assert(
      fc.property(ends, payloads, fc.nat(9), ([from, to], payload, offset) => {
        const encoded = encodeProxyV2(from, to, "udp");
        expect(read(bytesOf(encoded, payload), offset)).toBe("header");
        expect(header).toMatchObject({
          length: encoded.length,
          addressBytes: from.address.length,
          addressesAt: offset + 16,
          ends: undefined,
        });
      }),
    );
  });

  test("version 1, which nginx sends as if for TCP: its ends", () => {
    fc.assert(
      fc.property(ends, payloads, ([source, destination], payload) => {
        const encoded = encodeProxyV1(source, destination);
        expect(read(bytesOf(encoded, payload))).toBe("header");
        expect(header).toMatchObject({ length: encoded.length, addressBytes: 0 });
        expect(header.ends).toEqual({ source, destination });
      }),
    );
  });

  const unnamed: [what: string, bytes: Uint8Array][] = [
    ["LOCAL", bytesOf(signature, [0x20, 0x00, 0, 0])],
    ["LOCAL with addresses", bytesOf(signature, [0x20, 0x12, 0, 12], new Uint8Array(12))],
    ["AF_UNSPEC", bytesOf(signature, [0x21, 0x00, 0, 0])],
    ["AF_UNIX", bytesOf(signature, [0x21, 0x32, 0, 216], new Uint8Array(216))],
    ["UNKNOWN", bytesOf("PROXY UNKNOWN\r\n")],
  ];
  test.each(unnamed)("%s: the datagram's own addresses count", (_, bytes) => {
    read(encodeProxyV1(at("192.0.2.1", 1), at("192.0.2.2", 2)));
    expect(read(bytesOf(bytes, "x"))).toBe("header");
    expect(header).toMatchObject({ length: bytes.length, addressBytes: 0, ends: undefined });
  });

  const block = new Uint8Array(12);
  const broken: [error: string, bytes: Uint8Array][] = [
    ["it is cut off", bytesOf(signature)],
    ["it is cut off", bytesOf(signature, [0x21, 0x12, 0, 12], block.subarray(1))],
    ["it is cut off", bytesOf("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r")],
    ["it is no line of version 1", bytesOf("PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n")],
    ["it is that of a connection", bytesOf(signature, [0x21, 0x11, 0, 12], block)],
    [
      "its CRC32c does not fit",
      bytesOf(signature, [0x21, 0x12, 0, 19], block, [3, 0, 4, 1, 2, 3, 4]),
    ],
    ["a TLV goes beyond its end", bytesOf(signature, [0x21, 0x12, 0, 15], block, [4, 0, 1])],
    ["its family or transport is unknown", bytesOf(signature, [0x21, 0x42, 0, 12], block)],
    [
      "its version and command are not 0x20 or 0x21",
      bytesOf(signature, [0x31, 0x12, 0, 12], block),
    ],
  ];
  test.each(broken)("broken: %s", (error, bytes) => {
    expect(read(bytes)).toBe("broken");
    expect(header.error).toBe(error);
  });

  test("what only resembles a header is a datagram without one", () => {
    const others = [
      "",
      "P",
      "\r",
      "\r\n\r\n\0\r\nQUIT",
      "\r\n\r\n\0\r\nQUIX\n",
      "PROXY ",
      "PROXY TCP",
    ];
    for (const text of [...others, "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n"]) {
      expect(read(bytesOf(text))).toBe("none");
    }
  });

  test("any bytes: what the decoder of connections takes, if it is not that of one", () => {
    const openings = fc.constantFrom("", "PROXY TCP4 ", `${signature}!\x12\0`, `${signature} \0`);
    const bytes = fc.tuple(openings, fc.uint8Array({ maxLength: 80 })).map((it) => bytesOf(...it));
    fc.assert(
      fc.property(bytes, fc.nat(9), (datagram, offset) => {
        const result = read(datagram, offset);
        const decoded = decodeProxyHeader(datagram);
        const isHeader = decoded.kind === "header" && decoded.header.protocol !== "tcp";
        if (datagram[0] === 0x0d) expect(result === "header").toBe(isHeader);
        if (result === "header") expect(decoded).toMatchObject({ length: header.length });
      }),
    );
  });
});

/** Bytes of any kind: never a throw, and an answer that more bytes do not take back. */

import { expect, test } from "bun:test";
import fc from "fast-check";
import { decodeProxyHeader } from "../../../src/proto/proxy-protocol.ts";
import { encodeProxyV1 } from "../../../src/proto/proxy-protocol-v1.ts";
import { encodeProxyV2 } from "../../../src/proto/proxy-protocol-v2.ts";
import { bytesOf, ends } from "./headers.ts";

const openings = fc
  .constantFrom("", "PROXY ", "PROXY TCP4 ", "PROXY TCP6 ", "PROXY UNKNOWN", "\r\n\r\n\0\r\nQUIT\n")
  .map((text) => bytesOf(text));
const rubbish = fc.oneof(
  fc.uint8Array({ maxLength: 300 }),
  fc.string({ unit: fc.constantFrom(..."0129af.: \r\n"), maxLength: 120 }).map((it) => bytesOf(it)),
  fc.uint8Array({ max: 3, maxLength: 300 }).map((bytes) => bytesOf([0x21, 0x11, 0], bytes)),
);
const begun = fc.tuple(openings, rubbish).map((parts) => bytesOf(...parts));
const spoilt = fc
  .tuple(ends, fc.boolean(), fc.nat(), fc.integer({ min: 0, max: 255 }))
  .map(([[from, to], isText, where, byte]) => {
    const bytes = isText ? encodeProxyV1(from, to) : encodeProxyV2(from, to, "tcp");
    bytes[where % bytes.length] = byte;
    return bytes;
  });

test("nothing at all is the beginning of a header", () => {
  expect(decodeProxyHeader(new Uint8Array())).toEqual({ kind: "more" });
});

test("the addresses are copies: the buffer may be used again", () => {
  fc.assert(
    fc.property(ends, fc.boolean(), ([from, to], isText) => {
      const bytes = isText ? encodeProxyV1(from, to) : encodeProxyV2(from, to, "tcp");
      const result = decodeProxyHeader(bytes);
      bytes.fill(0xa5);
      const header = { source: from, destination: to, protocol: "tcp" as const };
      expect(result).toMatchObject({ kind: "header", length: bytes.length, header });
    }),
  );
});

test("an answer other than more stays as it is, whatever comes behind it", () => {
  fc.assert(
    fc.property(fc.oneof(begun, spoilt), fc.uint8Array(), (bytes, trailing) => {
      const all = bytesOf(bytes, trailing);
      let kind = "more";
      let length = 0;
      for (let count = 0; count <= all.length; count++) {
        const result = decodeProxyHeader(all.subarray(0, count));
        if (kind !== "more") expect(result.kind).toBe(kind as "header" | "error");
        if (result.kind === "header") {
          if (kind === "more") expect(result.length).toBe(count);
          else expect(result.length).toBe(length);
          length = result.length;
        }
        if (result.kind === "error") expect(result.error).not.toMatch(/[\n\r]/);
        kind = result.kind;
      }
    }),
  );
});

test("more ends, at 107 bytes of version 1 and 4096 of version 2", () => {
  fc.assert(
    fc.property(fc.oneof(begun, spoilt), fc.integer({ min: 0, max: 255 }), (bytes, byte) => {
      const all = new Uint8Array(4096).fill(byte);
      all.set(bytes);
      expect(decodeProxyHeader(all).kind).not.toBe("more");
      if (all[0] !== 0x0d) expect(decodeProxyHeader(all.subarray(0, 107)).kind).not.toBe("more");
    }),
  );
});

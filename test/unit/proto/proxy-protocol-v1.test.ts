import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { decodeProxyHeader } from "../../../src/proto/proxy-protocol.ts";
import { encodeProxyV1 } from "../../../src/proto/proxy-protocol-v1.ts";
import { asMapped, at, bytesOf, ends, expectHeader, expectRefused } from "./headers.ts";

const longest6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";

describe("decodeProxyHeader, version 1", () => {
  const accepted: [line: string, source?: [string, number], destination?: [string, number]][] = [
    // The specification's example and its longest lines.
    [
      "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443",
      ["192.168.0.1", 56324],
      ["192.168.0.11", 443],
    ],
    [
      "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535",
      ["255.255.255.255", 65535],
      ["255.255.255.255", 65535],
    ],
    [`PROXY TCP6 ${longest6} ${longest6} 65535 65535`, [longest6, 65535], [longest6, 65535]],
    ["PROXY UNKNOWN"],
    [`PROXY UNKNOWN ${longest6} ${longest6} 65535 65535`],
    ["PROXY UNKNOWN \r \n anything\0\xff"],
    ["PROXY TCP4 0.0.0.0 0.0.0.0 0 0", ["0.0.0.0", 0], ["0.0.0.0", 0]],
    ["PROXY TCP6 :: ::1 0 1", ["::", 0], ["::1", 1]],
    ["PROXY TCP6 2001:DB8::A fe80::1 1 2", ["2001:db8::a", 1], ["fe80::1", 2]],
    [
      "PROXY TCP6 1:2:3:4:5:6:7:: 1::3:4:5:6:7:8 1 2",
      ["1:2:3:4:5:6:7:0", 1],
      ["1:0:3:4:5:6:7:8", 2],
    ],
    ["PROXY TCP6 ::ffff:192.0.2.1 2001:db8::9 1 2", ["192.0.2.1", 1], ["2001:db8::9", 2]],
    ["PROXY TCP6 64:ff9b::192.0.2.33 ::1 1 2", ["64:ff9b::c000:221", 1], ["::1", 2]],
  ];
  for (const [line, source, destination] of accepted) {
    test(`reads ${JSON.stringify(line)}`, () => {
      const from = source && at(...source);
      const to = destination && at(...destination);
      expectHeader(bytesOf(line, "\r\n"), from, to, source && "tcp");
    });
  }

  // Each is wrong at its last byte and nowhere before.
  const refused: [text: string, error: string][] = [
    ["G", 'the connection starts with "G"'],
    ["p", 'the connection starts with "p"'],
    ["PROXX", 'the connection starts with "PROXX"'],
    ["PROXY\t", "the connection starts with"],
    ["PROXY TCP5", "the connection starts with"],
    ["PROXY  ", "the connection starts with"],
    ["PROXY TCP4\r", "the connection starts with"],
    ["PROXY UNKNOWNS", "the connection starts with"],
    ["PROXY UNKNOWN\r\r", "the connection starts with"],
    ["PROXY TCP4  ", '"" is not an IPv4 address'],
    ["PROXY TCP4 256", '"256" is not an IPv4 address'],
    ["PROXY TCP4 01", '"01" is not an IPv4 address'],
    ["PROXY TCP4 1..", '"1.." is not an IPv4 address'],
    ["PROXY TCP4 1.2.3 ", '"1.2.3" is not an IPv4 address'],
    ["PROXY TCP4 1.2.3.4.", '"1.2.3.4." is not an IPv4 address'],
    ["PROXY TCP4 :", '":" is not an IPv4 address'],
    ["PROXY TCP4 1.2.3.4\r", "an address is missing"],
    ["PROXY TCP4 1.2.3.4 5.6.7.8\r", "a port is missing"],
    ["PROXY TCP4 1.2.3.4 5.6.7.8 1\r", "a port is missing"],
    ["PROXY TCP4 1.2.3.4 5.6.7.8 1 \r", '"" is not a port'],
    ["PROXY TCP4 1.2.3.4 5.6.7.8  ", '"" is not a port'],
    ["PROXY TCP4 1.2.3.4 5.6.7.8 00", '"00" is not a port'],
    ["PROXY TCP4 1.2.3.4 5.6.7.8 65536", '"65536" is not a port'],
    ["PROXY TCP4 1.2.3.4 5.6.7.8 +", '"+" is not a port'],
    ["PROXY TCP4 1.2.3.4 5.6.7.8 1 2 ", '"" where CRLF ends the line'],
    ["PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", '"2\\n" is not a port'],
    ["PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r", "a CR without its LF"],
    ["PROXY TCP6 1.", '"1." is not an IPv6 address'],
    ["PROXY TCP6 12345", '"12345" is not an IPv6 address'],
    ["PROXY TCP6 1:2:3:4:5:6:7:8:", '"1:2:3:4:5:6:7:8:" is not an IPv6 address'],
    ["PROXY TCP6 1::2::", '"1::2::" is not an IPv6 address'],
    ["PROXY TCP6 :::", '":::" is not an IPv6 address'],
    ["PROXY TCP6 fe80::1%", '"fe80::1%" is not an IPv6 address'],
    ["PROXY TCP6 [", '"[" is not an IPv6 address'],
    ["PROXY TCP6 ::1 ::1 1 2 ", '"" where CRLF ends the line'],
    [`PROXY UNKNOWN ${"x".repeat(92)}`, "no CRLF in 107 bytes"],
    [`PROXY UNKNOWN ${"x".repeat(91)}\r`.padEnd(107, "x"), "no CRLF in 107 bytes"],
  ];
  test.each(refused)("refuses %j as soon as it is there", (text, error) => {
    expectRefused(bytesOf(text), error);
  });

  test("every beginning that is not refused can become a header", () => {
    // Single characters put in, left out or changed in lines that are right.
    const alphabet = fc.constantFrom(..."0123456789abcf.: \r\nx");
    fc.assert(
      fc.property(ends, fc.nat(), fc.nat({ max: 1 }), alphabet, ([from, to], where, drop, put) => {
        const line = encodeProxyV1(from, to);
        const place = 11 + (where % (line.length - 11));
        const bytes = bytesOf(line.subarray(0, place), put, line.subarray(place + drop));
        const endings = ["", "0", ":", "::", ".0", ".0.0", ".0.0.0", "0.0", "0.0.0", "0.0.0.0"];
        const address = from.address.length === 4 ? "0.0.0.0" : "::";
        const rests = ["\n", "\r\n", " 0\r\n", " 0 0\r\n", "0 0\r\n", ` ${address} 0 0\r\n`];
        for (let count = 11; count <= bytes.length; count++) {
          const begun = bytes.subarray(0, count);
          if (decodeProxyHeader(begun).kind !== "more") continue;
          const isCompletable = endings.some((ending) =>
            rests.some((rest) => decodeProxyHeader(bytesOf(begun, ending, rest)).kind === "header"),
          );
          expect([String.fromCharCode(...begun), isCompletable]).toEqual([
            String.fromCharCode(...begun),
            true,
          ]);
        }
      }),
      { numRuns: 50 },
    );
  });
});

describe("encodeProxyV1", () => {
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

  test("writes the specification's example", () => {
    const line = encodeProxyV1(at("192.168.0.1", 56324), at("192.168.0.11", 443));
    expect(text(line)).toBe("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
  });

  test("writes IPv6 as RFC 5952 has it, and mapped IPv4 as IPv4", () => {
    const v6 = encodeProxyV1(at("2001:DB8:0:0:0:0:0:9", 1), at("::", 65535));
    expect(text(v6)).toBe("PROXY TCP6 2001:db8::9 :: 1 65535\r\n");
    const v4 = encodeProxyV1(asMapped(at("192.0.2.1", 1)), at("192.0.2.2", 2));
    expect(text(v4)).toBe("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
  });

  test("writes UNKNOWN for families that differ and addresses that are missing", () => {
    const some = at("192.0.2.1", 1);
    for (const [from, to] of [[some, at("::1", 2)], [some, undefined], [undefined, some], []]) {
      expect(text(encodeProxyV1(from, to))).toBe("PROXY UNKNOWN\r\n");
    }
  });

  test("what it writes is read as it was, in any pieces, whatever follows", () => {
    fc.assert(
      fc.property(ends, fc.uint8Array({ maxLength: 200 }), ([from, to], trailing) => {
        expectHeader(encodeProxyV1(from, to), from, to, "tcp", trailing);
        expect(encodeProxyV1(asMapped(from), asMapped(to))).toEqual(encodeProxyV1(from, to));
      }),
    );
  });
});

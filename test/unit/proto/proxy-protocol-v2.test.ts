import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { decodeProxyHeader } from "../../../src/proto/proxy-protocol.ts";
import { encodeProxyV2 } from "../../../src/proto/proxy-protocol-v2.ts";
import {
  asMapped,
  at,
  bytesOf,
  checked,
  ends,
  expectHeader,
  expectRefused,
  header,
  signature,
  tlv,
} from "./headers.ts";

const v4 = [192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x01, 0xbb];
const from4 = at("192.0.2.1", 56324);
const to4 = at("198.51.100.7", 443);
const v6 = bytesOf(at("2001:db8::1", 0).address, at("2001:db8::2", 0).address, [0, 1, 0, 2]);
const unix = new Uint8Array(216).fill(0x2f);

const alpn = tlv(1, "h2");
const noop = tlv(4, new Uint8Array(5));
const empty = tlv(4, "");
const ssl = tlv(0x20, bytesOf([1, 0, 0, 0, 0], tlv(0x21, "TLSv1.3")));

describe("decodeProxyHeader, version 2", () => {
  test("TCP and UDP over IPv4 and IPv6", () => {
    const [from6, to6] = [at("2001:db8::1", 1), at("2001:db8::2", 2)];
    expectHeader(header(0x21, 0x11, v4), from4, to4, "tcp");
    expectHeader(header(0x21, 0x12, v4), from4, to4, "udp");
    expectHeader(header(0x21, 0x21, v6), from6, to6, "tcp");
    expectHeader(header(0x21, 0x22, v6), from6, to6, "udp");
  });

  test("a mapped IPv4 address is the IPv4 address that it stands for", () => {
    const addresses = bytesOf(asMapped(from4).address, at("::1", 0).address, [0xdc, 4, 0, 80]);
    expectHeader(header(0x21, 0x21, addresses), from4, at("::1", 80), "tcp");
  });

  const withoutAddresses: [what: string, bytes: Uint8Array][] = [
    ["LOCAL", header(0x20, 0x00)],
    ["LOCAL with addresses", header(0x20, 0x11, v4)],
    ["LOCAL with a family that there is not, and rubbish", header(0x20, 0xff, [1, 2, 3, 4, 5])],
    ["AF_UNSPEC", header(0x21, 0x00)],
    ["AF_UNSPEC with rubbish", header(0x21, 0x01, [1, 255, 255])],
    ["AF_INET without a transport", header(0x21, 0x10, v4)],
    ["AF_UNIX, stream", header(0x21, 0x31, unix)],
    ["AF_UNIX, datagrams, with TLVs", header(0x21, 0x32, unix, alpn, noop)],
    ["LOCAL with a checksum", checked(0x20, 0x00, alpn, empty)],
  ];
  test.each(withoutAddresses)("%s: those of the connection count", (_, bytes) => {
    expectHeader(bytes, undefined, undefined);
  });

  test("TLVs are skipped, and a checksum among them is verified", () => {
    expectHeader(header(0x21, 0x11, v4, alpn, ssl, noop, empty), from4, to4, "tcp");
    expectHeader(header(0x21, 0x11, v4, tlv(0xe0, new Uint8Array(4065))), from4, to4, "tcp");
    for (const after of [[], noop, bytesOf(ssl, empty)]) {
      expectHeader(checked(0x21, 0x11, v4, after), from4, to4, "tcp");
      expectHeader(checked(0x21, 0x11, bytesOf(v4, alpn), after), from4, to4, "tcp");
    }
  });

  test("reads a checksum made bit by bit", () => {
    // As RFC 4960 defines it, without the table.
    const bytes = header(0x21, 0x11, v4, tlv(3, [0, 0, 0, 0]));
    let remainder = 0xffffffff;
    for (const bit of [...bytes].flatMap((byte) =>
      [0, 1, 2, 3, 4, 5, 6, 7].map((i) => byte >> i),
    )) {
      const isOdd = ((remainder ^ bit) & 1) === 1;
      remainder = (remainder >>> 1) ^ (isOdd ? 0x82f63b78 : 0);
    }
    new DataView(bytes.buffer).setUint32(bytes.length - 4, ~remainder >>> 0);
    expectHeader(bytes, from4, to4, "tcp");
  });

  test("one bit of a header with a checksum changed, and there is no header", () => {
    const bytes = checked(0x21, 0x11, bytesOf(v4, alpn), noop);
    const taken: string[] = [];
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const [at, mask] = [bit >> 3, 1 << (bit & 7)];
      const mutated = bytes.slice();
      mutated[at] = (mutated[at] as number) ^ mask;
      if (decodeProxyHeader(mutated).kind === "header") taken.push(`${at} ^ ${mask}`);
    }
    // LOCAL, no transport, no family; and any other type than that of a checksum.
    const unverified = [
      "12 ^ 1",
      "13 ^ 1",
      "13 ^ 16",
      ...[1, 2, 4, 8, 16, 32, 64, 128].map((m) => `33 ^ ${m}`),
    ];
    expect(taken).toEqual(unverified);
  });

  test("a wrong checksum counts where the rest of the block does not", () => {
    for (const [command, family] of [
      [0x20, 0x00],
      [0x21, 0x00],
    ] as const) {
      const bytes = checked(command, family, alpn, noop);
      bytes[bytes.length - 1] = 1;
      expectRefused(bytes, "its CRC32c does not fit");
    }
  });

  // Each is wrong at its last byte and nowhere before.
  const refused: [what: string, bytes: Uint8Array, error: string][] = [
    ["its signature", bytesOf("\r\n\r\n\0\r\nQUIX"), "its signature is wrong (byte 10 is 0x58)"],
    ["the start of its signature", bytesOf("\r\r"), "its signature is wrong (byte 1 is 0x0d)"],
    [
      "version 1",
      bytesOf(signature, 0x11),
      "its version and command are not 0x20 or 0x21 (byte 12 is 0x11)",
    ],
    [
      "version 3",
      bytesOf(signature, 0x31),
      "its version and command are not 0x20 or 0x21 (byte 12 is 0x31)",
    ],
    [
      "command 2",
      bytesOf(signature, 0x22),
      "its version and command are not 0x20 or 0x21 (byte 12 is 0x22)",
    ],
    [
      "family 4",
      bytesOf(signature, 0x21, 0x41),
      "its family or transport is unknown (byte 13 is 0x41)",
    ],
    [
      "transport 3",
      bytesOf(signature, 0x21, 0x13),
      "its family or transport is unknown (byte 13 is 0x13)",
    ],
    [
      "4097 bytes",
      bytesOf(signature, [0x21, 0x11, 0x0f, 0xf1]),
      "it announces more than 4096 bytes",
    ],
    ["4112 bytes or more", bytesOf(signature, [0x20, 0, 0x10]), "it announces more than"],
    ["short IPv4", bytesOf(signature, [0x21, 0x11, 0, 11]), "its length is too short"],
    ["short IPv6", bytesOf(signature, [0x21, 0x21, 0, 35]), "its length is too short"],
    ["short AF_UNIX", bytesOf(signature, [0x21, 0x31, 0, 215]), "its length is too short"],
    [
      "a stump of a TLV",
      bytesOf(signature, [0x21, 0x11, 0, 14]),
      "a TLV goes beyond its end (byte 28)",
    ],
    [
      "a TLV that is too long",
      bytesOf(signature, [0x21, 0x11, 0, 18], v4, [4, 0, 4]),
      "a TLV goes beyond its end (byte 28 is 0x04)",
    ],
    [
      "a TLV that is far too long",
      bytesOf(signature, [0x21, 0x11, 0, 18], v4, [4, 1]),
      "a TLV goes beyond its end (byte 28 is 0x04)",
    ],
    [
      "a stump behind a TLV",
      bytesOf(signature, [0x21, 0x11, 0, 18], v4, [4, 0, 1]),
      "a TLV goes beyond its end (byte 32)",
    ],
    [
      "a checksum of three bytes",
      bytesOf(signature, [0x21, 0x11, 0, 20], v4, [3, 0, 3]),
      "its CRC32c has not 4 bytes (byte 28 is 0x03)",
    ],
    [
      "two checksums",
      bytesOf(signature, [0x21, 0x11, 0, 26], v4, tlv(3, [0, 0, 0, 0]), [3, 0, 4]),
      "it has two CRC32c (byte 35 is 0x03)",
    ],
    ["its checksum", header(0x21, 0x11, v4, tlv(3, [1, 2, 3, 4])), "its CRC32c does not fit"],
  ];
  test.each(refused)("refuses %s as soon as it is there", (_, bytes, error) => {
    expectRefused(bytes, error);
  });
});

describe("encodeProxyV2", () => {
  test("writes what the specification says, byte by byte", () => {
    expect(encodeProxyV2(from4, to4, "tcp")).toEqual(header(0x21, 0x11, v4));
    expect(encodeProxyV2(from4, to4, "udp")).toEqual(header(0x21, 0x12, v4));
    const [from6, to6] = [at("2001:db8::1", 1), at("2001:db8::2", 2)];
    expect(encodeProxyV2(from6, to6, "tcp")).toEqual(header(0x21, 0x21, v6));
    expect(encodeProxyV2(from6, to6, "udp")).toEqual(header(0x21, 0x22, v6));
  });

  test("writes no family for families that differ and addresses that are missing", () => {
    for (const [from, to] of [[from4, at("::1", 2)], [from4, undefined], [undefined, from4], []]) {
      expect(encodeProxyV2(from, to, "tcp")).toEqual(header(0x21, 0x00));
    }
  });

  test("passes on what tells of the client, and not what is of the sender's own hop", () => {
    const kept = bytesOf(
      tlv(1, "h2"),
      tlv(2, "host"),
      tlv(5, "id"),
      tlv(0x20, "tls"),
      tlv(0xea, "x"),
    );
    const ownHop = bytesOf(tlv(4, new Uint8Array(9)), tlv(0x30, "namespace"));
    const tlvs = bytesOf(tlv(4, ""), kept.subarray(0, 5), ownHop, kept.subarray(5));
    for (const isChecked of [false, true]) {
      const bytes = isChecked
        ? checked(0x21, 0x11, bytesOf(v4, tlvs), new Uint8Array())
        : header(0x21, 0x11, v4, tlvs);
      const result = decodeProxyHeader(bytes);
      if (result.kind !== "header") throw new Error(result.kind);
      const { passed } = result.header;
      expect(passed).toEqual({ names: "ends", tlvs: kept, isChecked });
      // Of another connection: its own ends, and a checksum of its own if there was one.
      const [from, to] = [at("2001:db8::1", 1), at("2001:db8::2", 2)];
      const written = encodeProxyV2(from, to, "tcp", passed);
      expect(written.subarray(0, 52 + kept.length)).toEqual(
        header(0x21, 0x21, v6, isChecked ? bytesOf(kept, new Uint8Array(7)) : kept).subarray(
          0,
          52 + kept.length,
        ),
      );
      expect(written.length).toBe(52 + kept.length + (isChecked ? 7 : 0));
      expect(decodeProxyHeader(written)).toMatchObject({
        kind: "header",
        length: written.length,
        header: { source: from, destination: to, passed },
      });
    }
  });

  test("LOCAL stays LOCAL, and what names nobody names nobody", () => {
    for (const [bytes, names] of [
      [header(0x20, 0x11, v4, tlv(1, "h2")), "sender"],
      [header(0x21, 0x00), "nobody"],
      [header(0x21, 0x31, new Uint8Array(216), tlv(1, "h2")), "nobody"],
    ] as const) {
      const result = decodeProxyHeader(bytes);
      if (result.kind !== "header") throw new Error(result.kind);
      const { passed } = result.header;
      expect(passed).toEqual({ names, tlvs: new Uint8Array(), isChecked: false });
      const command = names === "sender" ? 0x20 : 0x21;
      expect(encodeProxyV2(from4, to4, "tcp", passed)).toEqual(header(command, 0x00));
    }
  });

  test("what it writes is read as it was, in any pieces, whatever follows", () => {
    const protocols = fc.constantFrom("tcp" as const, "udp" as const);
    fc.assert(
      fc.property(ends, protocols, fc.uint8Array(), ([from, to], protocol, trailing) => {
        const bytes = encodeProxyV2(from, to, protocol);
        expectHeader(bytes, from, to, protocol, trailing);
        expect(encodeProxyV2(asMapped(from), asMapped(to), protocol)).toEqual(bytes);
      }),
    );
  });
});

/** Raw datagrams and ICMP errors: by the definition of the checksum, and as scapy writes them. */

import { describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { EACCES, ECONNREFUSED, EHOSTUNREACH, EINVAL, ENETUNREACH } from "../../../ffi/errno.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import { encodeDatagram, encodeUnreachable } from "../../../src/proto/raw-packet.ts";
import { testWith } from "../../helpers/tools.ts";

const PYTHON = "/usr/bin/python3";
const hasScapy = Bun.spawnSync([PYTHON, "-c", "import scapy"], { stderr: "ignore" }).success;

const port = fc.integer({ min: 0, max: 0xffff });
const ends = fc
  .constantFrom(4, 16)
  .chain((length) => fc.tuple(...[1, 2].map(() => endOf(length))) as fc.Arbitrary<[End, End]>);
type End = SocketAddress;
const endOf = (length: number): fc.Arbitrary<End> =>
  fc.record({
    address: fc.uint8Array({ minLength: length, maxLength: length }),
    port,
    scopeId: fc.constant(0),
  });
const payloads = fc.uint8Array({ maxLength: 1500 });
const errnos = fc.constantFrom(ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EACCES);

/** What is written into a buffer full of rubbish, which must stay as it is behind it. */
function written(size: number, write: (into: DataView) => number): Uint8Array {
  const bytes = new Uint8Array(size + 16).fill(0xa5);
  const length = write(new DataView(bytes.buffer));
  expect(new Set(bytes.subarray(length))).toEqual(new Set([0xa5]));
  return bytes.subarray(0, length);
}

function datagram(source: End, destination: End, payload: Uint8Array, from = 0): Uint8Array {
  const memory = new Uint8Array(from + payload.length);
  memory.set(payload, from);
  const view = new DataView(memory.buffer);
  return written(8 + payload.length, (into) =>
    encodeDatagram(into, source, destination, view, from, payload.length),
  );
}

const unreachable = (client: End, destination: End, errno: number) =>
  written(56, (into) => encodeUnreachable(into, client, destination, errno));

/** The sum of RFC 1071, a byte at a time: 0xffff over what has a right checksum in it. */
function onesSum(...parts: Uint8Array[]): number {
  let total = 0;
  for (const part of parts) {
    for (const [i, byte] of part.entries()) total += i % 2 === 0 ? byte * 256 : byte;
    total = (total % 65_536) + Math.floor(total / 65_536);
  }
  return (total % 65_536) + Math.floor(total / 65_536);
}

describe("encodeDatagram", () => {
  test("ports, length, the payload as it is, and a sum of 0xffff with the pseudo header", () => {
    const offset = fc.integer({ min: 0, max: 9 });
    fc.assert(
      fc.property(ends, payloads, offset, ([source, destination], payload, from) => {
        const bytes = datagram(source, destination, payload, from);
        const view = new DataView(bytes.buffer);
        expect([view.getUint16(0), view.getUint16(2), view.getUint16(4)]).toEqual([
          source.port,
          destination.port,
          bytes.length,
        ]);
        expect(bytes.subarray(8)).toEqual(payload);
        expect(view.getUint16(6)).not.toBe(0);
        const pseudo = Uint8Array.of(0, 17, bytes.length >> 8, bytes.length & 0xff);
        expect(onesSum(source.address, destination.address, pseudo, bytes)).toBe(0xffff);
      }),
    );
  });

  test("a checksum that comes out as 0 is sent as 0xffff", () => {
    const zero = { address: new Uint8Array(4), port: 0, scopeId: 0 };
    // The sum of the headers is 17 + 10 + 10; the payload fills it up to 0xffff.
    const fill = 0xffff - 37;
    const bytes = datagram(zero, zero, Uint8Array.of(fill >> 8, fill & 0xff));
    expect([...bytes.subarray(6, 8)]).toEqual([0xff, 0xff]);
  });

  test("the largest datagram of IPv4", () => {
    const end = { address: new Uint8Array(4).fill(0xff), port: 0xffff, scopeId: 0 };
    const bytes = datagram(end, end, new Uint8Array(65_507).fill(0xff));
    expect(bytes).toHaveLength(65_515);
    const pseudo = Uint8Array.of(0, 17, 65_515 >> 8, 65_515 & 0xff);
    expect(onesSum(end.address, end.address, pseudo, bytes)).toBe(0xffff);
  });
});

describe("encodeUnreachable", () => {
  test("an errno that no ICMP error stands for writes nothing", () => {
    fc.assert(
      fc.property(ends, ([client, destination]) => {
        expect(unreachable(client, destination, EINVAL)).toHaveLength(0);
      }),
    );
  });

  test("quotes a datagram from the client to the destination", () => {
    fc.assert(
      fc.property(ends, errnos, ([client, destination], errno) => {
        const bytes = unreachable(client, destination, errno);
        const [at, width] = client.address.length === 4 ? [8 + 12, 4] : [8 + 8, 16];
        expect(bytes.slice(at, at + width)).toEqual(Uint8Array.from(client.address));
        expect(bytes.slice(at + width, at + 2 * width)).toEqual(
          Uint8Array.from(destination.address),
        );
        const ports = new DataView(bytes.buffer, at + 2 * width);
        expect([ports.getUint16(0), ports.getUint16(2)]).toEqual([client.port, destination.port]);
      }),
    );
  });
});

/** Reads cases as JSON, prints the hexadecimal bytes that scapy makes of each. */
const scapy = `
import json, sys
from scapy.all import IP, IPv6, UDP, ICMP, ICMPv6DestUnreach, raw
for case in json.load(open(sys.argv[1])):
    (src, sport), (dst, dport), v6 = case["source"], case["destination"], case["v6"]
    ip = IPv6(src=src, dst=dst, hlim=64) if v6 else IP(src=src, dst=dst, ttl=64, id=0)
    if "payload" in case:
        whole = raw(ip / UDP(sport=sport, dport=dport) / bytes.fromhex(case["payload"]))
        print(whole[40 if v6 else 20:].hex())
    else:
        quoted = ip / UDP(sport=sport, dport=dport, len=8, chksum=0)
        code = case["code"]
        outer = ICMPv6DestUnreach(code=code, cksum=0) if v6 else ICMP(type=3, code=code)
        print(raw(outer / quoted).hex())
`;

async function scapyBytes(cases: readonly object[]): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), "tproxy-scapy-"));
  try {
    await Bun.write(join(folder, "cases.json"), JSON.stringify(cases));
    const done = Bun.spawnSync([PYTHON, "-c", scapy, join(folder, "cases.json")]);
    if (!done.success) throw new Error(done.stderr.toString());
    return done.stdout.toString().trimEnd().split("\n");
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const text = ({ address, port }: End): [string, number] => {
  if (address.length === 4) return [address.join("."), port];
  return [
    Buffer.from(address)
      .toString("hex")
      .replace(/....(?!$)/g, "$&:"),
    port,
  ];
};
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

describe("as scapy writes it:", () => {
  const testScapy = testWith([], { scapy: hasScapy });

  testScapy("datagrams", async () => {
    const cases = fc.sample(fc.tuple(ends, payloads), 300);
    const expected = await scapyBytes(
      cases.map(([[source, destination], payload]) => ({
        source: text(source),
        destination: text(destination),
        v6: source.address.length === 16,
        payload: hex(payload),
      })),
    );
    expect(cases.map(([[from, to], payload]) => hex(datagram(from, to, payload)))).toEqual(
      expected,
    );
  });

  testScapy("ICMP errors", async () => {
    const codes = new Map([
      [ECONNREFUSED, [3, 4]],
      [EHOSTUNREACH, [13, 1]],
      [ENETUNREACH, [9, 1]],
      [EACCES, [13, 1]],
    ]);
    const cases = fc.sample(fc.tuple(ends, errnos), 100);
    const expected = await scapyBytes(
      cases.map(([[client, destination], errno]) => ({
        source: text(client),
        destination: text(destination),
        v6: client.address.length === 16,
        code: codes.get(errno)?.[client.address.length === 4 ? 0 : 1],
      })),
    );
    expect(cases.map(([[from, to], errno]) => hex(unreachable(from, to, errno)))).toEqual(expected);
  });
});

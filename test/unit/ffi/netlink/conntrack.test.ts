/** ctnetlink: what is encoded is what is decoded, and any bytes are a value or a WireError. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  type ConntrackEntry,
  decodeConntrackEvent,
  decodeEntry,
  deleteEntry,
  fits,
  type Tuple,
} from "../../../../ffi/netlink/conntrack.ts";
import { decodeCounts, decodeFill } from "../../../../ffi/netlink/conntrack-stats.ts";
import { NFPROTO_IPV4, NFPROTO_IPV6 } from "../../../../ffi/netlink/constants.ts";
import { WireError } from "../../../../ffi/netlink/wire.ts";
import { entryBody } from "../../../helpers/conntrack.ts";

const u8 = fc.nat(0xff);
const u16 = fc.nat(0xffff);
const u32 = fc.nat(0xffff_ffff);
const count = fc.nat(Number.MAX_SAFE_INTEGER);
const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const amount = fc.record({ packets: count, bytes: count });
const tuple = (length: number) =>
  fc.record(
    {
      source: bytes(length),
      destination: bytes(length),
      protocol: u8,
      sourcePort: u16,
      destinationPort: u16,
    },
    { requiredKeys: ["source", "destination", "protocol"] },
  );
const entries = fc.constantFrom(4, 16).chain((length) =>
  fc.record(
    {
      family: fc.constant(length === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6),
      original: tuple(length),
      reply: tuple(length),
      status: u32,
      id: u32,
      zone: u16,
      mark: u32,
      timeoutS: u32,
      tcpState: u8,
      sent: amount,
      received: amount,
      startedAt: fc.nat(2e12),
      labels: bytes(16),
    },
    { requiredKeys: ["family", "original", "reply", "status", "id", "zone", "mark"] },
  ),
);

describe("entries", () => {
  test("what the kernel writes is decoded", () => {
    fc.assert(
      fc.property(entries, (entry) => {
        expect(decodeEntry(entryBody(entry))).toStrictEqual(entry);
      }),
    );
  });

  test("an entry is named by its original tuple, its zone and its id", () => {
    fc.assert(
      fc.property(entries, (entry) => {
        // A reply, which the kernel does not need, makes an entry of the request.
        const request = deleteEntry(entry);
        const tail = entryBody(entry).subarray(4 + tupleBytes(entry.original));
        const body = Uint8Array.from([...request.body, ...tail]);
        const { original, zone, id } = entry;
        expect(decodeEntry(body)).toMatchObject({ original, zone, id });
      }),
    );
  });

  test("bytes cut off, changed or made up are a WireError or a value", () => {
    const decoders = [decodeEntry, decodeFill, decodeCounts];
    const attempt = (body: Uint8Array) => {
      for (const decode of decoders) {
        try {
          decode(body);
        } catch (error) {
          expect(error).toBeInstanceOf(WireError);
        }
      }
    };
    fc.assert(
      fc.property(entries, fc.nat(), u8, (entry, place, byte) => {
        const body = entryBody(entry);
        attempt(body.subarray(0, place % body.length));
        body[place % body.length] = byte;
        attempt(body);
      }),
    );
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), attempt));
  });
});

/** The length of CTA_TUPLE_ORIG. */
function tupleBytes({ source, sourcePort, destinationPort }: Tuple): number {
  const ports = [sourcePort, destinationPort].filter((port) => port !== undefined);
  return 4 + 4 + 2 * (4 + source.length) + 4 + 8 + 8 * ports.length;
}

describe("filters", () => {
  const [base] = fc.sample(entries, { numRuns: 1, seed: 1 }) as [ConntrackEntry];

  test("an entry fits by what it is, and not by anything else", () => {
    fc.assert(
      fc.property(entries, u32, (entry, mask) => {
        const { family, mark, status, reply } = entry;
        const server = { address: reply.source, protocol: reply.protocol };
        const filter = {
          family,
          mark: { value: mark, mask },
          status: { value: status, mask },
          server,
        };
        expect(fits(entry, filter)).toBe(true);
        expect(fits(entry, {})).toBe(true);
        const protocol = reply.protocol ^ 1;
        expect(fits(entry, { server: { ...server, protocol } })).toBe(false);
        const bit = mask & -mask;
        if (bit === 0) return;
        expect(fits(entry, { mark: { value: mark ^ bit, mask } })).toBe(false);
        expect(fits(entry, { status: { value: status ^ bit, mask } })).toBe(false);
      }),
    );
    expect(fits(base, { family: base.family === NFPROTO_IPV4 ? NFPROTO_IPV6 : 0 })).toBe(false);
  });
});

describe("events", () => {
  const [entry] = fc.sample(entries, { numRuns: 1, seed: 1 }) as [ConntrackEntry];
  const body = entryBody(entry);
  const event = (type: number, flags: number) =>
    decodeConntrackEvent({ type, flags, sequence: 0, portId: 0, body });

  test("are told apart by type and flags", () => {
    expect(event(0x100, 0x600)).toEqual({ kind: "new", entry });
    expect(event(0x100, 0)).toEqual({ kind: "update", entry });
    expect(event(0x102, 0)).toEqual({ kind: "destroy", entry });
    expect(event(0x105, 0)).toBeUndefined();
    expect(event(0xa00, 0x600)).toBeUndefined();
  });
});

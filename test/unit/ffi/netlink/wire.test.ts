import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { decodeDone, decodeError } from "../../../../ffi/netlink/acknowledgement.ts";
import {
  NLA_F_NESTED,
  NLM_F_ACK_TLVS,
  NLM_F_CAPPED,
  NLM_F_MULTI,
  NLM_F_REQUEST,
  NLMSG_DONE,
  NLMSG_ERROR,
  NLMSGERR_ATTR_MISS_TYPE,
  NLMSGERR_ATTR_MSG,
  NLMSGERR_ATTR_OFFS,
} from "../../../../ffi/netlink/constants.ts";
import {
  Attributes,
  defined,
  frame,
  message,
  parseMessages,
  type ReceivedMessage,
  required,
  structOf,
  WireError,
  Writer,
} from "../../../../ffi/netlink/wire.ts";

const u8 = fc.integer({ min: 0, max: 0xff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const u64 = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn });
const bytes = (maxLength: number) => fc.uint8Array({ maxLength });
const text = fc.string({ unit: "binary" }).filter((value) => !value.includes("\0"));

/** The bytes that `write` writes. */
function written(write: (to: Writer) => void): Uint8Array {
  return message("", 0, 0, write).body;
}

describe("attributes", () => {
  test("are laid out as the kernel has them", () => {
    const body = written((to) => {
      to.u8(1, 0xab);
      to.u16(2, 0x1234);
      to.u32(3, 0x12345678);
      to.be32(4, -150);
      to.cstring(5, "lo");
      to.nest(6 | NLA_F_NESTED, () => to.be16(7, 80));
    });
    expect(body.toHex()).toBe(
      "05000100ab000000" +
        "0600020034120000" +
        "0800030078563412" +
        "08000400ffffff6a" +
        "070005006c6f0000" +
        "0c000680060007000050" +
        "0000",
    );
  });

  test("are read as they were written", () => {
    fc.assert(
      fc.property(u8, u16, u32, u64, bytes(300), text, (a, b, c, d, e, f) => {
        const body = written((to) => {
          to.struct(6).setUint8(5, a);
          to.u8(1, a);
          to.u16(2, b);
          to.be16(3, b);
          to.u32(4, c);
          to.be32(5, c);
          to.be64(6, d);
          to.bytes(7, e);
          to.nest(8 | NLA_F_NESTED, () => {
            to.cstring(1, f);
            to.nest(2, () => {});
          });
        });
        const read = new Attributes(body, 8);
        expect(structOf(body, 6).getUint8(5)).toBe(a);
        expect(read.u8(1)).toBe(a);
        expect(read.u16(2)).toBe(b);
        expect(read.be16(3)).toBe(b);
        expect(read.u32(4)).toBe(c);
        expect(read.be32(5)).toBe(c);
        expect(read.signed32(5)).toBe(c | 0);
        expect(read.be64(6)).toBe(d);
        expect(read.bytes(7)).toEqual(e);
        expect(read.nested(8)?.string(1)).toBe(f.toWellFormed());
        expect(read.list(8).map(({ type }) => type)).toEqual([1, 2]);
        expect(read.u32(9)).toBeUndefined();
        expect(body.length % 4).toBe(0);
      }),
    );
  });

  test("of a wrong size are an error, absent ones are not", () => {
    const read = new Attributes(written((to) => to.u16(1, 7)));
    expect(() => read.u32(1)).toThrow(new WireError("attribute 1: 2 bytes where 4 are due"));
    expect(() => read.address(1)).toThrow(WireError);
    expect(read.address(2)).toBeUndefined();
    expect(() => required(read.u32(2), "RTA_DST")).toThrow(new WireError("no RTA_DST"));
  });

  test("that lie about their length are an error", () => {
    for (const hex of ["0300010000000000", "09000100ffffffff", "0000000000000000", "040001"]) {
      expect(() => new Attributes(Uint8Array.fromHex(hex))).toThrow(WireError);
    }
    expect(() => new Attributes(new Uint8Array(8), 12)).toThrow(WireError);
  });

  test("too long for 16 bits are refused", () => {
    const to = new Writer();
    expect(() => to.bytes(1, new Uint8Array(0xfffc))).toThrow(RangeError);
    expect(() => {
      to.nest(1, () => {
        for (let i = 0; i < 9; i++) to.bytes(1, new Uint8Array(8000));
      });
    }).toThrow(RangeError);
    expect(() => to.cstring(1, "a\0b")).toThrow(RangeError);
  });

  test("absent members leave no trace", () => {
    expect(Object.keys(defined({ a: 1, b: undefined }))).toEqual(["a"]);
  });
});

describe("messages", () => {
  test("are read as they were framed", () => {
    const one = fc.record({ type: u16, flags: u16, body: bytes(200) });
    fc.assert(
      fc.property(fc.array(one), u32, u32, (messages, sequence, portId) => {
        const framed = messages.map((each) =>
          frame({ operation: "", ...each }, NLM_F_REQUEST, sequence, portId),
        );
        const read = parseMessages(Buffer.concat(framed));
        expect(read.map(({ body }) => body.toHex())).toEqual(
          messages.map(({ body }) => body.toHex()),
        );
        for (const [i, { type, flags }] of messages.entries()) {
          const expected = { type, flags: flags | NLM_F_REQUEST, sequence, portId };
          expect(read[i]).toMatchObject(expected);
        }
      }),
    );
  });

  test("cut short or with a wrong length are an error", () => {
    const framed = frame({ operation: "", type: 1, flags: 0, body: new Uint8Array(4) }, 0, 1);
    for (let length = 1; length < framed.length; length++) {
      expect(() => parseMessages(framed.subarray(0, length))).toThrow(WireError);
    }
    framed[0] = 15;
    expect(() => parseMessages(framed)).toThrow(WireError);
  });

  test("of garbage are messages or a WireError, whatever reads them", () => {
    fc.assert(
      fc.property(bytes(120), u16, (garbage, flags) => {
        const received = { type: 0, flags, sequence: 0, portId: 0, body: garbage };
        for (const read of [
          () => parseMessages(garbage),
          () => new Attributes(garbage).nested(0),
          () => decodeError(received),
          () => decodeDone(received),
        ]) {
          try {
            read();
          } catch (error) {
            expect(error).toBeInstanceOf(WireError);
          }
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe("acknowledgements", () => {
  const request = Uint8Array.fromHex("1c000000180005060200000000000000aabbccddaabbccddaabbccdd");

  function error(errno: number, flags: number, echoed: Uint8Array, tlvs: (to: Writer) => void) {
    const body = written((to) => {
      to.struct(4).setInt32(0, -errno, true);
      to.raw(echoed);
      tlvs(to);
    });
    const received: ReceivedMessage = { type: NLMSG_ERROR, flags, sequence: 0, portId: 0, body };
    return decodeError(received);
  }

  test("of success and of an error without words", () => {
    expect(error(0, NLM_F_CAPPED, request.subarray(0, 16), () => {})).toEqual({ errno: 0 });
    expect(error(17, NLM_F_CAPPED, request.subarray(0, 16), () => {})).toEqual({ errno: 17 });
    expect(Object.is(error(0, 0, request, () => {}).errno, 0)).toBe(true);
  });

  test("with the kernel's words, after the header or after the whole request", () => {
    const words = (to: Writer) => {
      to.cstring(NLMSGERR_ATTR_MSG, "Invalid prefix");
      to.u32(NLMSGERR_ATTR_OFFS, 28);
      to.u32(NLMSGERR_ATTR_MISS_TYPE, 3);
    };
    const expected = { errno: 22, message: "Invalid prefix", offset: 28, missingType: 3 };
    const capped = NLM_F_ACK_TLVS | NLM_F_CAPPED;
    expect(error(22, capped, request.subarray(0, 16), words)).toEqual(expected);
    expect(error(22, NLM_F_ACK_TLVS, request, words)).toEqual(expected);
  });

  test("that claim a request longer than they are", () => {
    const long = request.slice();
    for (const length of [0xffff_ffff, 0x8000_0000, 0xffff]) {
      new DataView(long.buffer).setUint32(0, length, true);
      expect(() => error(22, NLM_F_ACK_TLVS, long, () => {})).toThrow(WireError);
    }
  });

  test("at the end of a dump", () => {
    const done = (hex: string, flags: number = NLM_F_MULTI) =>
      decodeDone({
        type: NLMSG_DONE,
        flags,
        sequence: 0,
        portId: 0,
        body: Uint8Array.fromHex(hex),
      });
    expect(done("")).toEqual({ errno: 0 });
    expect(done("00000000")).toEqual({ errno: 0 });
    expect(done("feffffff")).toEqual({ errno: 2 });
    expect(done("feffffff080001006e6f0000", NLM_F_MULTI | NLM_F_ACK_TLVS)).toEqual({
      errno: 2,
      message: "no",
    });
  });
});

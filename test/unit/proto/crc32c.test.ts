import { expect, test } from "bun:test";
import fc from "fast-check";
import { crc32c } from "../../../src/proto/crc32c.ts";

const text = (value: string) => new TextEncoder().encode(value);

// The last four are those of RFC 3720, appendix B.4, whose bytes are in the order of the wire.
const known: [what: string, bytes: Uint8Array, checksum: number][] = [
  ["nothing", new Uint8Array(), 0],
  ["123456789", text("123456789"), 0xe3069283],
  ["32 zeros", new Uint8Array(32), 0x8a9136aa],
  ["32 ones", new Uint8Array(32).fill(0xff), 0x62a8ab43],
  ["0 to 31", Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
  ["31 to 0", Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
];
test.each(known)("of %s", (_, bytes, checksum) => expect(crc32c(bytes)).toBe(checksum));

test("pieces are one sequence", () => {
  fc.assert(
    fc.property(fc.uint8Array(), fc.uint8Array(), (a, b) => {
      const all = Uint8Array.from([...a, ...b]);
      expect(crc32c(b, 0, b.length, crc32c(a))).toBe(crc32c(all));
      expect(crc32c(all, a.length, all.length, crc32c(all, 0, a.length))).toBe(crc32c(all));
    }),
  );
});

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Mark } from "../../../ffi/types.ts";
import { formatMark, parseMark } from "../../../src/net/mark.ts";

function parsed(text: string): unknown {
  const result = parseMark(text);
  return result.ok ? [result.value.value, result.value.mask] : result.error;
}

describe("parseMark", () => {
  test("takes VALUE, with all bits as its mask, and VALUE/MASK", () => {
    expect(parsed("1")).toEqual([1, 0xffffffff]);
    expect(parsed("0x1/0x1")).toEqual([1, 1]);
    expect(parsed("0XFF/255")).toEqual([255, 255]);
    expect(parsed("4294967295")).toEqual([0xffffffff, 0xffffffff]);
    expect(parsed("0x80000000/0x80000000")).toEqual([0x80000000, 0x80000000]);
    expect(parsed("0/0")).toEqual([0, 0]);
  });

  test("refuses a value outside its mask and says what mask it would take", () => {
    expect(parsed("0x3/0x1")).toBe(
      '"0x3/0x1" has bits outside its mask, no packet can match it: give "0x3/0x3"',
    );
    expect(parsed("0x80000000/1")).toContain('give "0x80000000/0x80000001"');
  });

  test("refuses what is no mark", () => {
    for (const text of [
      "",
      "/",
      "1/",
      "/1",
      "1/1/1",
      "01",
      "0x",
      "0x100000000",
      "4294967296",
      "-1",
    ]) {
      expect(parsed(text)).toContain("is not a mark");
    }
  });

  test("reads back what formatMark writes", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 0xffffffff }),
        fc.integer({ min: 0, max: 0xffffffff }),
        (bits, mask) => {
          const value = (bits & mask) >>> 0;
          expect(parsed(formatMark({ value: value as Mark, mask }))).toEqual([value, mask]);
        },
      ),
    );
  });
});

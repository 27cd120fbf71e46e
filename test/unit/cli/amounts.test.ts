import { expect, test } from "bun:test";
import fc from "fast-check";
import {
  bytesText,
  countText,
  frequencyText,
  rateText,
  timeText,
} from "../../../src/cli/words/amounts.ts";

test("amounts are short", () => {
  expect([0, 412, 999, 1_000, 1_949, 12_345, 999_499, 999_500, 3e9].map(countText)).toEqual([
    ...["0", "412", "999", "1.0k", "1.9k", "12k", "999k", "1.0M", "3.0G"],
  ]);
  expect([0, 14_000, 9_800_000].map(bytesText)).toEqual(["0 B", "14 kB", "9.8 MB"]);
  expect(rateText(14_000)).toBe("14 kB/s");
  expect([0, 0.5, 38.4].map(frequencyText)).toEqual(["0", "0.5", "38"]);
  expect([0, 250, 12_000, 245_000, 3_600_000, 273_600_000].map(timeText)).toEqual([
    ...["0 ms", "250 ms", "12 s", "4 min 5 s", "1 h", "3 d 4 h"],
  ]);
});

test("no amount is longer than its column", () => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 9e14, noNaN: true }), (amount) => {
      expect(countText(amount).length).toBeLessThanOrEqual(5);
      expect(bytesText(amount).length).toBeLessThanOrEqual(7);
    }),
  );
});

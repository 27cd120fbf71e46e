import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { formatDuration, parseDuration } from "../../../src/net/duration.ts";

function parsed(text: string): number | string {
  const result = parseDuration(text);
  return result.ok ? result.value : result.error;
}

describe("parseDuration", () => {
  test("answers milliseconds", () => {
    expect(["0s", "500ms", "30s", "5m", "1h"].map(parsed)).toEqual([
      0, 500, 30_000, 300_000, 3_600_000,
    ]);
  });

  test("wants a unit", () => {
    expect(parsed("30")).toBe('"30" has no unit: give "30s" or "30ms"');
  });

  test("stays within what a timer can wait", () => {
    expect(parsed("2147483647ms")).toBe(2_147_483_647);
    expect(parsed("2147483648ms")).toBe('"2147483648ms" is too long: give at most "596h"');
    expect(parsed("596h")).toBeNumber();
    expect(parsed("9999999999h")).toContain("is too long");
  });

  test("refuses what is no duration", () => {
    for (const text of [
      "",
      "s",
      "-1s",
      "1.5s",
      "1 s",
      "1d",
      "1S",
      "1m30s",
      "s1",
      "1s\n",
      "99999999999s",
    ]) {
      expect(parsed(text)).toContain("is not a duration");
    }
  });

  test("reads back what formatDuration writes", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0x7fffffff }), (ms) => {
        expect(parsed(formatDuration(ms))).toBe(ms);
      }),
    );
    expect([90_000, 3_600_000, 1500, 0].map(formatDuration)).toEqual(["90s", "1h", "1500ms", "0s"]);
  });
});

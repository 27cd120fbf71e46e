import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Port } from "../../../ffi/types.ts";
import { formatPortRange, parsePort, parsePortRange } from "../../../src/net/port.ts";

function value<T>(result: { ok: true; value: T } | { ok: false; error: string }): T | string {
  return result.ok ? result.value : result.error;
}

describe("parsePort", () => {
  test("takes 1 to 65535 in plain decimal, and 0 when asked", () => {
    expect(value(parsePort("1"))).toBe(1 as Port);
    expect(value(parsePort("65535"))).toBe(65535 as Port);
    expect(value(parsePort("0", { zero: true }))).toBe(0 as Port);
    expect(value(parsePort("0"))).toBe('"0" is not a port: give a number from 1 to 65535');
    for (const text of [
      "",
      "65536",
      "99999",
      "080",
      "0x50",
      "1e3",
      "-1",
      "+1",
      " 1",
      "1 ",
      "1.0",
    ]) {
      expect(parsePort(text, { zero: true }).ok).toBe(false);
    }
  });
});

describe("parsePortRange", () => {
  test("reads back what formatPortRange writes", () => {
    const port = fc.integer({ min: 1, max: 65535 });
    fc.assert(
      fc.property(port, port, (a, b) => {
        const range = { from: Math.min(a, b) as Port, to: Math.max(a, b) as Port };
        expect(value(parsePortRange(formatPortRange(range)))).toEqual(range);
      }),
    );
  });

  test("turns a reversed range the right way round in its error", () => {
    expect(value(parsePortRange("9000-8000"))).toContain('give "8000-9000"');
  });

  test("refuses half ranges and other separators", () => {
    for (const text of ["-", "1-", "-1", "1--2", "1-2-3", "8000:9000", "1,2", "0-1", "1-65536"]) {
      expect(value(parsePortRange(text))).toContain("is not a port or a range of ports");
    }
  });
});

import { expect, test } from "bun:test";
import fc from "fast-check";
import { type RateLimitedLine, RateLimitedLog } from "../../../src/workers/rate-limited-log.ts";

test("logged at once, then once an interval with a count, and anew after a silence", () => {
  const log = new RateLimitedLog(100, 10);
  expect(log.admit("full of 1", 0, { kind: "full" })).toBe(true);
  expect(log.admit("full of 2", 10, { kind: "full" })).toBe(false);
  expect(log.admit("full of 3", 20, { kind: "full", amount: 5 })).toBe(false);
  expect(log.admit("other", 50)).toBe(true);
  expect(log.next).toBe(100);
  expect(log.take(99)).toEqual([]);
  expect(log.take(100)).toEqual([{ text: "full of 3 (6 more)" }]);
  expect(log.next).toBe(150);
  expect(log.admit("full of 4", 160, { kind: "full" })).toBe(false);
  expect(log.take(200)).toEqual([{ text: "full of 4 (1 more)" }]);
  expect(log.take(300)).toEqual([]);
  expect(log.next).toBeUndefined();
  expect(log.admit("full of 5", 300, { kind: "full" })).toBe(true);
});

test("the first line of several occasions leaves the others to the count", () => {
  const log = new RateLimitedLog(100, 10);
  expect(log.admit("dropped", 0, { amount: 64 })).toBe(true);
  expect(log.rest()).toEqual([{ text: "dropped (63 more)" }]);
  expect(log.rest()).toEqual([]);
});

test("a burst is logged line by line", () => {
  const log = new RateLimitedLog(100, 10);
  const admitted = Array.from({ length: 5 }, () => log.admit("reset", 0, { burst: 3 }));
  expect(admitted).toEqual([true, true, true, false, false]);
  expect(log.rest()).toEqual([{ text: "reset (2 more)" }]);
});

test("what is of different services is counted apart, and named", () => {
  const log = new RateLimitedLog(100, 10);
  expect(log.admit("full", 0, { service: "web" })).toBe(true);
  expect(log.admit("full", 0, { service: "dns" })).toBe(true);
  expect(log.admit("full", 0, { service: "dns" })).toBe(false);
  expect(log.rest()).toEqual([{ text: "full (1 more)", service: "dns" }]);
});

test("however many kinds there are, few are kept, and all are counted", () => {
  const log = new RateLimitedLog(100, 3);
  for (let i = 0; i < 1000; i++) log.admit(`text ${i}`, 0);
  expect(log.take(100)).toEqual([{ text: "warnings of other kinds (997 more)" }]);
});

test("nothing is lost: what is logged adds up to what has happened", () => {
  const event = fc.record({
    step: fc.nat(50),
    kind: fc.nat(6),
    amount: fc.integer({ min: 1, max: 9 }),
  });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 200 }), (steps) => {
      const log = new RateLimitedLog(100, 4);
      let now = 0;
      let logged = 0;
      let total = 0;
      const count = (lines: readonly RateLimitedLine[]) => {
        for (const { text } of lines) logged += Number(/\((\d+) more\)$/.exec(text)?.[1]);
      };
      for (const { step, kind, amount } of steps) {
        now += step;
        total += amount;
        count(log.take(now));
        if (log.admit(`kind ${kind}`, now, { amount, burst: 2 })) logged++;
      }
      count(log.rest());
      expect(logged).toBe(total);
    }),
  );
});

import { expect, test } from "bun:test";
import fc from "fast-check";
import { stalledEndedMax, stalledPartMin } from "../../../src/engine/limits.ts";
import { chooseStalled, type Stalled } from "../../../src/fairness/stall-choice.ts";

const stalled = (client: number, held: number, since: number): Stalled => ({ client, held, since });

test("the client for which most is queued pays first, with what has stalled for longest", () => {
  const [a, b, c, d] = [
    stalled(1, 100, 30),
    stalled(1, 100, 10),
    stalled(1, 100, 20),
    stalled(2, 150, 1),
  ];
  const all = [a, b, c, d];
  expect(chooseStalled(all, 50)).toEqual([b]);
  expect(chooseStalled(all, 200)).toEqual([b, c]);
  // The first one has less by then.
  expect(chooseStalled(all, 201)).toEqual([b, c, d]);
  expect(chooseStalled(all, 1_000)).toEqual([b, c, d, a]);
});

test("of many clients with one each, those that have stalled for longest end", () => {
  const all = Array.from({ length: 100 }, (_, i) => stalled(i, 100, 1_000 - i));
  expect(chooseStalled(all, 300).map(({ client }) => client)).toEqual([99, 98, 97]);
});

test("nobody ends where that would not help", () => {
  const few = [stalled(1, 100, 0)];
  expect(chooseStalled(few, 100 / stalledPartMin)).toEqual(few);
  expect(chooseStalled(few, 100 / stalledPartMin + 1)).toEqual([]);
  expect(chooseStalled([], 1)).toEqual([]);
  expect(chooseStalled(few, 0)).toEqual([]);
});

test("whatever has stalled: bounded, no more than is needed, nobody twice", () => {
  const one = fc.record({
    client: fc.integer({ min: 0, max: 20 }),
    held: fc.integer({ min: 1, max: 1_000 }),
    since: fc.integer({ min: 0, max: 100 }),
  });
  fc.assert(
    fc.property(fc.array(one, { maxLength: 400 }), fc.nat(100_000), (all, excess) => {
      const chosen = chooseStalled(all, excess);
      expect(new Set(chosen).size).toBe(chosen.length);
      expect(chosen.length).toBeLessThanOrEqual(stalledEndedMax);
      const freed = chosen.slice(0, -1).reduce((sum, { held }) => sum + held, 0);
      expect(chosen.length === 0 || freed < excess).toBe(true);
    }),
  );
});

import { expect, test } from "bun:test";
import fc from "fast-check";
import { Occasions } from "../../../src/engine/occasions.ts";

test("said at once, then once an interval with how often, and anew after a silence", () => {
  const occasions = new Occasions(100);
  expect(occasions.note("full", "full of 1", 0)).toEqual({ text: "full of 1", times: 1 });
  expect(occasions.note("full", "full of 2", 10)).toBeUndefined();
  expect(occasions.note("full", "full of 3", 20)).toBeUndefined();
  expect(occasions.note("other", "other", 50)).toEqual({ text: "other", times: 1 });
  expect(occasions.next).toBe(100);
  expect(occasions.take(99)).toEqual([]);
  expect(occasions.take(100)).toEqual([{ text: "full of 3", times: 2 }]);
  expect(occasions.next).toBe(150);
  expect(occasions.take(300)).toEqual([]);
  expect(occasions.next).toBeUndefined();
  expect(occasions.note("full", "full of 4", 300)).toEqual({ text: "full of 4", times: 1 });
});

test("nothing is lost: what is said adds up to what has happened", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(50), { maxLength: 200 }), (steps) => {
      const occasions = new Occasions(100);
      let now = 0;
      let said = 0;
      for (const step of steps) {
        now += step;
        for (const { times } of occasions.take(now)) said += times;
        said += occasions.note("kind", "", now)?.times ?? 0;
      }
      for (const { times } of occasions.take(now + 100)) said += times;
      expect(said).toBe(steps.length);
    }),
  );
});

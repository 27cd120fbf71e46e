/** Slots of the kernel path: shares by weight, few changes, turns that alternate. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  assignSlots,
  hashedSlots,
  leastConnectionWeights,
  type SlotMember,
  type Slots,
} from "../../../../src/control/kernel-path/slots.ts";

const count = 256;
const weights = fc.array(fc.integer({ min: 0, max: 256 }), { minLength: 1, maxLength: 40 });
const members = weights.map((all) => all.map((weight, i) => ({ key: `u${i}`, weight })));

const shareOf = (slots: Slots, key: string) => slots.filter((each) => each === key).length;
const moved = (from: Slots, to: Slots) => to.filter((key, slot) => key !== from[slot]).length;

/** The fewest changes that lead from one set of shares to another one. */
function fewest(from: Slots, to: Slots): number {
  const keys = new Set(to);
  return [...keys].reduce((sum, key) => {
    const before = key === undefined ? count - from.filter(Boolean).length : shareOf(from, key);
    const now = to.filter((each) => each === key).length;
    return sum + Math.max(0, now - before);
  }, 0);
}

function expectShares(slots: Slots, all: readonly SlotMember[]): void {
  const total = all.reduce((sum, { weight }) => sum + weight, 0);
  if (total === 0) {
    expect(slots.every((key) => key === undefined)).toBe(true);
    return;
  }
  const shares = all.map(({ key, weight }) => ({ key, weight, share: (count * weight) / total }));
  const small = shares.filter(({ weight, share }) => weight > 0 && share < 1).length;
  for (const { key, weight, share } of shares) {
    const own = shareOf(slots, key);
    expect(Math.abs(own - share)).toBeLessThan(1 + small);
    expect(own > 0).toBe(weight > 0);
  }
}

describe("slots in turn", () => {
  test("every upstream has its share, to less than one slot", () => {
    fc.assert(fc.property(members, (all) => expectShares(assignSlots(all, count), all)));
  });

  test("from any slots to any upstreams, no more change than have to", () => {
    const key = fc.option(
      fc.nat(50).map((n) => `u${n}`),
      { nil: undefined },
    );
    const anything = fc.array(key, { minLength: count, maxLength: count });
    fc.assert(
      fc.property(anything, members, (previous, all) => {
        const slots = assignSlots(all, count, previous);
        expectShares(slots, all);
        expect(moved(previous, slots)).toBe(fewest(previous, slots));
      }),
    );
  });

  test("one upstream goes: its slots change, and no other", () => {
    fc.assert(
      fc.property(members, fc.nat(), (all, which) => {
        const gone = `u${which % all.length}`;
        const before = assignSlots(all, count);
        const left = all.map((each) => (each.key === gone ? { ...each, weight: 0 } : each));
        const after = assignSlots(left, count, before);
        expect(shareOf(after, gone)).toBe(0);
        // Rounding may shift one slot between those that stay.
        expect(moved(before, after)).toBeLessThanOrEqual(shareOf(before, gone) + all.length);
      }),
    );
  });

  test("it comes back: all is as it was", () => {
    const all = ["a", "b", "c"].map((key) => ({ key, weight: 100 }));
    const before = assignSlots(all, count);
    const without = assignSlots(all.slice(1), count, before);
    expect(assignSlots(all, count, without)).toEqual(before);
  });

  test("turns alternate, after a failure as well", () => {
    const all = ["a", "b", "c", "d"].map((key) => ({ key, weight: 100 }));
    const slots = assignSlots(all, count);
    expect(slots.slice(0, 8)).toEqual(["a", "b", "c", "d", "a", "b", "c", "d"]);
    expect(longestRun(assignSlots(all.slice(1), count, slots))).toBeLessThanOrEqual(2);
    const heavy = assignSlots([{ key: "a", weight: 300 }, ...all.slice(1)], count);
    expect(longestRun(heavy)).toBeLessThanOrEqual(2);
  });

  test("more upstreams than slots: as many as there are slots get one", () => {
    const all = Array.from({ length: 10 }, (_, i) => ({ key: `u${i}`, weight: 1 }));
    expect(new Set(assignSlots(all, 4)).size).toBe(4);
  });
});

/** How many turns in a row the same upstream has at most, from the last slot on to the first. */
function longestRun(slots: Slots): number {
  let longest = 0;
  let run = 0;
  for (let i = 0; i < 2 * slots.length; i++) {
    const isSame = slots[i % slots.length] === slots[(i + slots.length - 1) % slots.length];
    run = isSame ? run + 1 : 1;
    longest = Math.max(longest, run);
  }
  return longest;
}

describe("slots by hash", () => {
  const hashed = (all: readonly SlotMember[]) => {
    return all.map((each) => ({ ...each, hash: Bun.hash.crc32(each.key) }));
  };

  test("an upstream that goes or comes changes its own slots alone", () => {
    fc.assert(
      fc.property(members, fc.nat(), (all, which) => {
        const before = hashedSlots(hashed(all), count);
        const gone = `u${which % all.length}`;
        const after = hashedSlots(hashed(all.filter(({ key }) => key !== gone)), count);
        expect(moved(before, after)).toBe(shareOf(before, gone));
      }),
    );
  });

  test("a larger weight takes slots, and gives none away", () => {
    fc.assert(
      fc.property(members, fc.nat(), fc.integer({ min: 1, max: 100 }), (all, which, more) => {
        const key = `u${which % all.length}`;
        const heavier = all.map((each) => {
          return each.key === key ? { ...each, weight: each.weight + more } : each;
        });
        const before = hashedSlots(hashed(all), count);
        const after = hashedSlots(hashed(heavier), count);
        for (const [slot, now] of after.entries()) {
          if (now !== before[slot]) expect(now).toBe(key);
        }
      }),
    );
  });

  test("shares are near the weights", () => {
    const all = hashed([
      { key: "a", weight: 100 },
      { key: "b", weight: 300 },
    ]);
    const share = shareOf(hashedSlots(all, 65_536), "b") / 65_536;
    expect(share).toBeWithin(0.74, 0.76);
  });
});

describe("weights for the fewest connections", () => {
  const loads = fc.array(
    fc.record({ weight: fc.integer({ min: 1, max: 100 }), open: fc.nat(10_000) }),
    { minLength: 1, maxLength: 20 },
  );

  test("who has too many gets none, and what is expected brings the others to one level", () => {
    fc.assert(
      fc.property(loads, fc.integer({ min: 1, max: 10_000 }), (all, expected) => {
        const given = all.map((each, i) => ({ key: `u${i}`, ...each }));
        const found = leastConnectionWeights(given, expected);
        const total = found.reduce((sum, { weight }) => sum + weight, 0);
        expect(total).toBeCloseTo(expected, 3);
        const levels = given.map(({ open, weight }, i) => {
          return { level: (open + (found[i]?.weight ?? 0)) / weight, gets: found[i]?.weight ?? 0 };
        });
        const reached = levels.filter(({ gets }) => gets > 0).map(({ level }) => level);
        const [first = 0] = reached;
        for (const level of reached) expect(level).toBeCloseTo(first, 3);
        for (const { level, gets } of levels) {
          if (gets === 0) expect(level).toBeGreaterThanOrEqual(first - 1e-6);
        }
      }),
    );
  });

  test("an upstream without a weight gets none, however few it has", () => {
    const all = [
      { key: "a", weight: 0, open: 0 },
      { key: "b", weight: 10, open: 50 },
    ];
    expect(leastConnectionWeights(all, 10)).toEqual([
      { key: "a", weight: 0 },
      { key: "b", weight: 10 },
    ]);
    expect(leastConnectionWeights([], 10)).toEqual([]);
  });
});

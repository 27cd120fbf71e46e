import { expect, test } from "bun:test";
import fc from "fast-check";
import { hastyChecks } from "../../../src/engine/limits.ts";
import { HealthState } from "../../../src/health/health-state.ts";
import { generator } from "../../helpers/random.ts";

const settings = fc.record({
  intervalMs: fc.integer({ min: 100, max: 60_000 }),
  rise: fc.integer({ min: 1, max: 5 }),
  fall: fc.integer({ min: 1, max: 5 }),
  jitter: fc.integer({ min: 0, max: 50 }),
});

test("only so many results in a row change the state", () => {
  fc.assert(
    fc.property(settings, fc.boolean(), fc.array(fc.boolean()), (check, begin, results) => {
      const state = new HealthState(check, begin);
      let isUp = begin;
      let row: boolean[] = [];
      for (const result of results) {
        row = row.at(-1) === result ? [...row, result] : [result];
        const needed = result ? check.rise : check.fall;
        const changes = result !== isUp && row.length >= needed;
        if (changes) isUp = result;
        expect(state.note(result)).toBe(changes);
        expect(state.isUp).toBe(isUp);
      }
    }),
  );
});

test("checks come at the interval, and four times as often while the state may change", () => {
  fc.assert(
    fc.property(settings, fc.double({ min: 0, max: 0.999, noNaN: true }), (given, random) => {
      const check = { ...given, fall: 3 };
      const state = new HealthState(check, true);
      const expectDelay = (base: number) => {
        const delay = state.delay(random);
        expect(delay).toBeGreaterThanOrEqual(base * (1 - check.jitter / 100) - 1e-6);
        expect(delay).toBeLessThanOrEqual(base * (1 + check.jitter / 100) + 1e-6);
      };
      expect(state.firstDelay(random)).toBeLessThan(check.intervalMs / hastyChecks);
      expectDelay(check.intervalMs);
      state.note(false);
      expectDelay(check.intervalMs / hastyChecks);
      state.note(true);
      expectDelay(check.intervalMs);
      for (let i = 0; i < 3; i++) state.note(false);
      // It is down, and that is settled.
      expect(state.isUp).toBeFalse();
      expectDelay(check.intervalMs);
    }),
  );
});

test("a server that stays away is found down in time, and one that is back is found up", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = generator(seed);
    const unit = () => random(1_000) / 1_000;
    const check = {
      ...{ intervalMs: 200 + random(5_000), rise: 1 + random(4), fall: 1 + random(4) },
      jitter: random(51),
    };
    const timeoutMs = check.intervalMs / 2;
    const longest = (needed: number) => {
      const most = check.intervalMs * (1 + check.jitter / 100);
      return most + (needed - 1) * (most / hastyChecks) + needed * timeoutMs;
    };
    const goesAt = random(20_000);
    const comesAt = goesAt + longest(check.fall) + random(20_000);
    const state = new HealthState(check, true);
    let now = state.firstDelay(unit());
    let downAt = 0;
    let upAt = 0;
    while (now < comesAt + 2 * longest(check.rise)) {
      const isThere = now < goesAt || now >= comesAt;
      const took = isThere ? random(10) : timeoutMs;
      if (state.note(isThere)) {
        if (state.isUp) upAt = now + took;
        else downAt = now + took;
      }
      now += Math.max(took, state.delay(unit()));
    }
    expect([seed, downAt >= goesAt && downAt <= goesAt + longest(check.fall)]).toEqual([
      seed,
      true,
    ]);
    expect([seed, upAt >= comesAt && upAt <= comesAt + longest(check.rise)]).toEqual([seed, true]);
  }
});

import { expect, test } from "bun:test";
import fc from "fast-check";
import { Timer, TimerWheel } from "../../../src/engine/timers.ts";

/** What a wheel must do, done with a list. */
class Model {
  private readonly armed = new Map<number, number>();

  arm(id: number, deadline: number): void {
    this.armed.set(id, deadline);
  }

  disarm(id: number): void {
    this.armed.delete(id);
  }

  /** Which timers are overdue at `now` by more than a tick, and which are not due. */
  check(now: number, fired: readonly number[]): void {
    for (const id of fired) {
      expect(this.armed.get(id)).toBeLessThanOrEqual(now);
      this.armed.delete(id);
    }
    for (const deadline of this.armed.values()) expect(deadline).toBeGreaterThan(now - TICK_MS);
  }

  get size(): number {
    return this.armed.size;
  }

  get earliest(): number {
    return Math.min(...this.armed.values());
  }
}

const TICK_MS = 16;

test("timers fire once, never early, and at most a tick late", () => {
  const step = fc.oneof(
    fc.record({
      kind: fc.constant("arm"),
      id: fc.nat(30),
      by: fc.integer({ min: -50, max: 90_000 }),
    }),
    fc.record({ kind: fc.constant("disarm"), id: fc.nat(30), by: fc.constant(0) }),
    fc.record({ kind: fc.constant("advance"), id: fc.constant(0), by: fc.nat(40_000) }),
    fc.record({ kind: fc.constant("sleep"), id: fc.constant(0), by: fc.constant(0) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), fc.nat(1_000_000), (steps, start) => {
      let now = start;
      const wheel = new TimerWheel(now);
      const model = new Model();
      let fired: number[] = [];
      const timers = Array.from({ length: 31 }, (_, id) => new Timer(() => fired.push(id)));
      for (const { kind, id, by } of steps) {
        if (kind === "arm") {
          wheel.arm(timers[id] as Timer, now + by);
          // One that is overdue when it is armed has the same tick from then on.
          model.arm(id, Math.max(now, now + by));
        } else if (kind === "disarm") {
          wheel.disarm(timers[id] as Timer);
          model.disarm(id);
        } else {
          const delay = wheel.delay(now);
          if (model.size === 0) expect(delay).toBe(-1);
          // Sleeping for `delay` must not miss the next deadline by more than a tick.
          else expect(now + delay).toBeLessThanOrEqual(Math.max(now, model.earliest) + 2 * TICK_MS);
          now += kind === "sleep" ? Math.max(delay, 0) : by;
          fired = [];
          wheel.advance(now);
          model.check(now, fired);
        }
        expect(wheel.size).toBe(model.size);
      }
    }),
    { numRuns: 500 },
  );
});

test("a timer that fires may arm itself and disarm another", () => {
  const wheel = new TimerWheel(0);
  const log: string[] = [];
  const other = new Timer(() => log.push("other"));
  const repeating: Timer = new Timer((now) => {
    log.push(`at ${now}`);
    wheel.disarm(other);
    wheel.arm(repeating, now + 100);
  });
  wheel.arm(other, 30);
  wheel.arm(repeating, 30);
  for (const now of [40, 200, 400]) wheel.advance(now);
  expect(log.filter((line) => line !== "other")).toEqual(["at 40", "at 200", "at 400"]);
  expect(log.filter((line) => line === "other").length).toBeLessThanOrEqual(1);
  expect(wheel.size).toBe(1);
});

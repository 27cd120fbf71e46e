import { expect, test } from "bun:test";
import { SharedState } from "../../../src/workers/counters.ts";
import { TURN_CELLS, TurnTimes } from "../../../src/workers/turn-times.ts";

const minute = 60_000;
/** When a minute begins, as `performance.now()`. */
const start = minute - (performance.timeOrigin % minute);

test("the longest turn of a minute is there until the end of the next one", () => {
  const times = new TurnTimes(new Int32Array(TURN_CELLS));
  expect(times.longestMs(start)).toBe(0);
  times.note(2, start + 10);
  times.note(5.5, start + 20);
  times.note(3, start + 30);
  expect(times.longestMs(start + 40)).toBe(5.5);
  times.note(1, start + minute + 10);
  expect(times.longestMs(start + minute + 20)).toBe(5.5);
  times.note(1.5, start + 2 * minute + 10);
  expect(times.longestMs(start + 2 * minute + 20)).toBe(1.5);
});

test("a Worker that rests has no turn, and its last ones are forgotten", () => {
  const times = new TurnTimes(new Int32Array(TURN_CELLS));
  times.note(7, start + 10);
  expect(times.longestMs(start + minute + 10)).toBe(7);
  expect(times.longestMs(start + 2 * minute + 10)).toBe(0);
  times.note(1, start + 2 * minute + 20);
  expect(times.longestMs(start + 2 * minute + 30)).toBe(1);
});

test("one that lasts for ever is as long as a cell can say", () => {
  const times = new TurnTimes(new Int32Array(TURN_CELLS));
  times.note(1e9, start);
  expect(times.longestMs(start)).toBeGreaterThan(2_000_000);
});

test("the main thread reads what a Worker has noted", () => {
  const main = new SharedState();
  const { turnTimes } = new SharedState(main.memory);
  turnTimes.note(4, start);
  expect(main.turnTimes.longestMs(start)).toBe(4);
  expect(main.snapshot().accepted).toBe(0);
});

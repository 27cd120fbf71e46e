import { expect, test } from "bun:test";
import { History } from "../../../../src/control/page/history.ts";

const counted = (amount: number) => ({
  ...{ accepted: amount, active: 2, sessions: amount, activeSessions: 1 },
  ...{ clientBytes: 1_000 * amount, upstreamBytes: 2_000 * amount },
});

test("samples are rates between two times; the first one has none", () => {
  const history = new History();
  history.push(1_000, counted(10));
  expect(history.samples).toEqual([]);
  history.push(3_000, counted(14));
  expect(history.samples).toEqual([[3_000, 4, 2_000, 4_000, 3]]);
});

test("a clock that goes back, and counters that fall, give no negative rates", () => {
  const history = new History();
  history.push(5_000, counted(10));
  history.push(4_000, counted(20));
  history.push(5_000, counted(1));
  expect(history.samples).toEqual([[5_000, 0, 0, 0, 3]]);
});

test("five minutes are kept", () => {
  const history = new History();
  for (let second = 0; second <= 400; second++) history.push(1_000 * second, counted(second));
  expect(history.samples).toHaveLength(300);
  expect(history.samples[0]?.[0]).toBe(101_000);
  expect(history.samples.at(-1)?.[0]).toBe(400_000);
});

import { expect, test } from "bun:test";
import { SharedState } from "../../../src/workers/counters.ts";
import { endedByList, endReasonList } from "../../../src/workers/end-reason.ts";
import { TALLY_VALUES, Tally } from "../../../src/workers/tally.ts";
import { readTallies } from "../../helpers/tally.ts";

test("every end has a place of its own", () => {
  const values = new Float64Array(TALLY_VALUES);
  const tally = new Tally(values);
  let times = 0;
  for (const protocol of ["tcp", "udp"] as const) {
    for (const by of endedByList) {
      for (const reason of endReasonList) {
        times++;
        for (let i = 0; i < times; i++) tally.ended(protocol, by, reason);
      }
    }
  }
  const { ends } = readTallies([values]);
  expect(ends.length).toBe(2 * endedByList.length * endReasonList.length);
  expect(ends.map(({ count }) => count)).toEqual(ends.map((_, i) => i + 1));
  expect(ends.at(-1)).toEqual({
    protocol: "udp",
    by: "unknown",
    reason: endReasonList.at(-1) as (typeof endReasonList)[number],
    count: times,
  });
});

test("ends, rejected sessions and histograms do not touch each other", () => {
  const values = new Float64Array(TALLY_VALUES);
  const tally = new Tally(values);
  for (const reason of endReasonList) tally.refusedSession(reason);
  tally.lasted(10);
  tally.lasted(11);
  tally.lasted(1e9);
  tally.connected(0.4);
  tally.connected(20_000);
  const { ends, refusedSessions, duration, connect } = readTallies([values]);
  expect(ends).toEqual([]);
  expect(refusedSessions).toEqual(endReasonList.map((reason) => ({ reason, count: 1 })));
  expect(duration.counts).toEqual([1, 1, ...Array(duration.bounds.length - 2).fill(0), 1]);
  expect(duration.sum).toBeCloseTo(1e6 + 0.021);
  expect(connect.counts).toEqual([1, ...Array(connect.bounds.length - 1).fill(0), 1]);
  expect(connect.sum).toBeCloseTo(20.0004);
});

test("the tallies of all Workers make one, and outlive a Worker and a service", () => {
  const [main, other] = [new SharedState(), new SharedState()];
  const worker = new SharedState(main.memory);
  worker.block(3).tally.ended("tcp", "client", "done");
  other.block(3).tally.ended("tcp", "client", "done");
  const doneOf = (...states: SharedState[]) =>
    readTallies(states.map((state) => state.tallyOf(3))).ends.map(({ count }) => count);
  expect(doneOf(main, other)).toEqual([2]);
  expect(doneOf(main.successor())).toEqual([1]);
  worker.retire(3);
  expect(doneOf(main)).toEqual([]);
  expect(readTallies([main.tallyOf(0)]).ends.map(({ count }) => count)).toEqual([1]);
});

import { afterEach, expect, test } from "bun:test";
import { EFD_NONBLOCK, O_NONBLOCK } from "../../../ffi/constants.ts";
import { check } from "../../../ffi/errno.ts";
import * as sys from "../../../ffi/sys.ts";
import { servicesMax } from "../../../src/engine/limits.ts";
import { Counter, SharedState, sumValues } from "../../../src/workers/counters.ts";

afterEach(() => sys.keepOpenFds(new Uint8Array(0)));

test("the map of open descriptors has what this thread has made and not closed", () => {
  const { descriptors } = new SharedState();
  const before = check(sys.eventfd(0, EFD_NONBLOCK), "eventfd");
  sys.keepOpenFds(descriptors);
  const ends = sys.pipe(O_NONBLOCK) as [number, number];
  const epoll = check(sys.epollCreate(), "epoll_create1");
  for (const fd of [...ends, epoll]) expect(descriptors[fd]).toBe(1);
  expect(descriptors[before]).toBe(0);
  sys.close(epoll);
  expect(descriptors[epoll]).toBe(0);
  expect(descriptors.filter((owned) => owned === 1).length).toBe(2);
  for (const fd of [...ends, before]) sys.close(fd);
  expect(descriptors.includes(1)).toBe(false);
});

test("a stop does not undo the count of what is printed, nor wait for it", () => {
  const main = new SharedState();
  const worker = new SharedState(main.memory);
  worker.sendBatch();
  worker.sendBatch();
  worker.awaitPrinted(8);
  expect(main.outstanding).toBe(2);
  expect(worker.stopping).toBe(false);
  main.requestStop();
  expect(worker.stopping).toBe(true);
  // Would wait for ever: nobody prints.
  worker.sendBatch();
  worker.awaitPrinted(1);
  expect(main.outstanding).toBe(3);
  for (let batch = 0; batch < 3; batch++) main.batchPrinted();
  expect(main.outstanding).toBe(0);
  expect(worker.stopping).toBe(true);
});

test("each service counts by itself, and what a removed one has counted stays in the sum", () => {
  const main = new SharedState();
  const worker = new SharedState(main.memory);
  worker.count(Counter.lostLines, 1);
  const [first, last] = [worker.block(1), worker.block(servicesMax)];
  first.count(Counter.accepted, 2);
  last.count(Counter.accepted, 5);
  last.count(Counter.active, 1);
  expect(main.snapshot(servicesMax)).toMatchObject({ accepted: 5, active: 1, lostLines: 0 });
  expect(main.snapshot()).toMatchObject({ accepted: 7, active: 1, lostLines: 1 });
  const next = main.successor();
  expect(next.snapshot(servicesMax)).toMatchObject({ accepted: 5, active: 0 });
  last.count(Counter.active, -1);
  worker.retire(servicesMax);
  expect(main.snapshot(servicesMax)).toMatchObject({ accepted: 0 });
  expect(main.snapshot()).toMatchObject({ accepted: 7, active: 0, lostLines: 1 });
  expect(main.descriptors.includes(1)).toBe(false);
});

test("a successor goes on counting, but has nothing open", () => {
  const dead = new SharedState();
  dead.count(Counter.accepted, 7);
  dead.count(Counter.active, 3);
  dead.descriptors[9] = 1;
  const next = dead.successor();
  next.count(Counter.accepted, 1);
  expect(next.snapshot()).toMatchObject({ accepted: 8, active: 0 });
  expect(next.descriptors[9]).toBe(0);
  expect(sumValues([dead.read(), next.read()])).toMatchObject({
    accepted: 15,
    active: 3,
  });
});

test("a Worker has turned once it has passed a turn since the last that was asked for", () => {
  const main = new SharedState();
  const worker = new SharedState(main.memory);
  expect(main.hasTurned).toBe(true);
  main.askForTurn();
  expect(main.hasTurned).toBe(false);
  worker.passTurn(worker.askedTurn);
  expect(main.hasTurned).toBe(true);
  main.askForTurn();
  const turn = worker.askedTurn;
  main.askForTurn();
  worker.passTurn(turn);
  expect(main.hasTurned).toBe(false);
  worker.passTurn(worker.askedTurn);
  expect(main.hasTurned).toBe(true);
});

import { expect, test } from "bun:test";
import { servicesMax } from "../../../src/engine/limits.ts";
import { WorkerPool } from "../../../src/workers/pool.ts";
import type { ServiceChange, Task } from "../../../src/workers/protocol.ts";
import { forwardTask } from "../../helpers/forward-task.ts";
import { eventually } from "../../helpers/tproxy.ts";
import { fixedUpstreams } from "../../helpers/upstreams.ts";

const echo = new URL("../../helpers/echo-worker.ts", import.meta.url);
/** A task of which nothing is used. */
const noTask: Task = { kind: "datagrams", fd: -1, payload: undefined, timeoutMs: 0 };

function upstreams(port: number): ServiceChange {
  const address = { address: Uint8Array.of(192, 0, 2, 1), port, scopeId: 0 };
  return { route: { upstreams: fixedUpstreams([address]) } };
}

test("changes reach every worker, in order, without its event loop ever turning", async () => {
  const said: string[] = [];
  const pool = new WorkerPool(async (events) => {
    for (const event of events) if (event.kind === "warning") said.push(event.text);
    if (said.length === 6) pool.stop();
  });
  pool.start(echo);
  pool.start(echo);
  const service = pool.add([noTask, noTask]);
  const changes = [upstreams(1), { timeouts: { idleMs: 5 } }, upstreams(2)];
  // The first ones wait for their readers to be started.
  for (const change of changes) pool.update(service, change);
  await pool.finished();
  const expected = changes.map((each) => JSON.stringify(each));
  expect(said.toSorted()).toEqual([...expected, ...expected].toSorted());
  expect(said.filter((_, index) => said.indexOf(said[index] as string) === index)).toEqual(
    expected,
  );
  // Nobody is there any more: nothing happens.
  pool.update(service, {});
  await pool.remove(service);
  pool.stop();
});

test("every worker has to turn, be it asleep, and one that has ended has not", async () => {
  const pool = new WorkerPool(async () => {});
  pool.start(echo);
  pool.start(echo);
  pool.add([noTask, noTask]);
  // They are not there yet, as one that hangs would not be.
  expect(await pool.turned(0)).toEqual([1, 2]);
  expect(pool.allTurned).toBe(false);
  expect(await pool.turned()).toEqual([]);
  for (let round = 0; round < 3; round++) {
    await eventually("their turns", () => pool.allTurned);
    pool.askForTurn();
  }
  pool.stop();
  await pool.finished();
  expect(pool.allTurned).toBe(true);
  pool.askForTurn();
  expect(pool.allTurned).toBe(true);
  expect(await pool.turned()).toEqual([]);
});

test("services come and go; a number is given again, and what it had counted stays", async () => {
  let said = 0;
  const heard = Promise.withResolvers<void>();
  const pool = new WorkerPool(async (events) => {
    said += events.length;
    if (said === 3) heard.resolve();
  });
  for (let worker = 0; worker < 2; worker++) pool.start(echo);
  expect([pool.add([noTask, noTask]), pool.add([noTask])]).toEqual([1, 2]);
  for (const id of [1, 2]) pool.update(id, {});
  await heard.promise;
  expect([pool.counters(1), pool.counters(2), pool.counters()]).toMatchObject([
    ...[{ accepted: 2 }, { accepted: 1 }, { accepted: 3 }],
  ]);
  // All at once, and once more: it goes once.
  await Promise.all([pool.remove(1), pool.remove(1)]);
  expect([pool.counters(1).accepted, pool.counters().accepted]).toEqual([0, 3]);
  expect(pool.add([noTask, noTask])).toBe(1);
  for (let id = 3; id <= servicesMax; id++) pool.add([]);
  expect(() => pool.add([])).toThrow(`more than ${servicesMax} services`);
  // With none left the Workers wait for others, until they are told to end.
  await Promise.all([pool.remove(1), pool.remove(2)]);
  expect(pool.add([noTask, noTask])).toBe(1);
  pool.stop();
  expect((await pool.finished()).length).toBe(2);
});

test("what another process has counted is of the service with that name, and of all", async () => {
  const pool = new WorkerPool(async () => {});
  const named = (name: string) => [{ ...forwardTask([], 1), name }];
  const first = pool.add(named("web"));
  pool.inherited.set("web", { counters: { accepted: 7 }, tally: [] });
  expect([pool.counters(first).accepted, pool.counters().accepted]).toEqual([7, 7]);
  await pool.remove(first);
  // It gets the number, and nothing else.
  expect(pool.add(named("dns"))).toBe(first);
  expect([pool.counters(first).accepted, pool.counters().accepted]).toEqual([0, 7]);
  // The other process drains yet.
  pool.inherited.set("web", { counters: { accepted: 9 }, tally: [] });
  expect([pool.counters(first).accepted, pool.counters().accepted]).toEqual([0, 9]);
});

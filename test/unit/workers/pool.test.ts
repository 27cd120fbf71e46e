import { expect, test } from "bun:test";
import { WorkerPool } from "../../../src/workers/pool.ts";
import type { Command, Task } from "../../../src/workers/protocol.ts";

const echo = new URL("../../helpers/echo-worker.ts", import.meta.url);
/** A task of which nothing is used. */
const noTask: Task = { kind: "datagrams", fd: -1, payload: undefined, timeoutMs: 0 };

function upstreams(port: number): Command {
  const address = { address: Uint8Array.of(192, 0, 2, 1), port, scopeId: 0 };
  return { kind: "upstreams", upstreams: { kind: "fixed", addresses: [address] } };
}

test("commands reach every worker, in order, without its event loop ever turning", async () => {
  const said: string[] = [];
  const pool = new WorkerPool(async (events) => {
    for (const event of events) if (event.kind === "warning") said.push(event.text);
    if (said.length === 6) pool.stop();
  });
  pool.start(echo, noTask);
  pool.start(echo, noTask);
  // The first ones wait for their readers to be started.
  pool.send(upstreams(1));
  pool.send({ kind: "table" });
  pool.send(upstreams(2));
  await pool.finished();
  const expected = [upstreams(1), { kind: "table" }, upstreams(2)].map((each) =>
    JSON.stringify(each),
  );
  expect(said.toSorted()).toEqual([...expected, ...expected].toSorted());
  expect(said.filter((_, index) => said.indexOf(said[index] as string) === index)).toEqual(
    expected,
  );
  // Nobody is there any more: nothing happens.
  pool.send({ kind: "table" });
  pool.stop();
});

import { expect, test } from "bun:test";
import { Crew } from "../../../src/engine/crew.ts";
import type { Command, Task } from "../../../src/engine/protocol.ts";

const echo = new URL("../../helpers/echo-worker.ts", import.meta.url);
/** A task of which nothing is used. */
const noTask: Task = { kind: "datagrams", fd: -1, payload: undefined, timeoutMs: 0 };

function upstreams(port: number): Command {
  const address = { address: Uint8Array.of(192, 0, 2, 1), port, scopeId: 0 };
  return { kind: "upstreams", upstreams: { kind: "fixed", addresses: [address] } };
}

test("commands reach every worker, in order, without its event loop ever turning", async () => {
  const said: string[] = [];
  const crew = new Crew(async (events) => {
    for (const event of events) if (event.kind === "warning") said.push(event.text);
    if (said.length === 6) crew.stop();
  });
  crew.start(echo, noTask);
  crew.start(echo, noTask);
  // The first ones wait for their readers to be started.
  crew.send(upstreams(1));
  crew.send({ kind: "table" });
  crew.send(upstreams(2));
  await crew.finished();
  const expected = [upstreams(1), { kind: "table" }, upstreams(2)].map((each) =>
    JSON.stringify(each),
  );
  expect(said.toSorted()).toEqual([...expected, ...expected].toSorted());
  expect(said.filter((_, index) => said.indexOf(said[index] as string) === index)).toEqual(
    expected,
  );
  // Nobody is there any more: nothing happens.
  crew.send({ kind: "table" });
  crew.stop();
});

import { expect, test } from "bun:test";
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { KEY_WORDS } from "../../../src/engine/flow-key.ts";
import { loopRoundsMax, ownFlowsMax } from "../../../src/engine/limits.ts";
import { OutboundFlows, OWN_END } from "../../../src/forward/outbound-flows.ts";
import { generator } from "../../helpers/random.ts";

const words = generator(7);
const randomWord = () => words(2 ** 32);
const newMemory = () => OutboundFlows.memory(randomWord);
const contents = (memory: SharedArrayBuffer) => Int32Array.from(new Int32Array(memory));

/** A flow from an end of ours to another one. */
function flow(own: number, ownPort: number, remote: number, remotePort: number): Uint32Array {
  const key = new Uint32Array(KEY_WORDS);
  key[2] = 0xffff0000;
  key[3] = own;
  key[6] = 0xffff0000;
  key[7] = remote;
  key[8] = (ownPort << 16) | remotePort;
  return key;
}

const few = fc.integer({ min: 1, max: 2 });
const steps = fc.array(
  fc.record({
    key: fc.tuple(few, few, few, few).map((ends) => flow(...ends)),
    visits: fc.integer({ min: 1, max: loopRoundsMax }),
    protocol: fc.constantFrom("tcp" as const, "udp" as const),
    worker: fc.nat(1),
  }),
  { maxLength: 100 },
);

test("finds what a Map would find, whichever Worker has entered it", () => {
  fc.assert(
    fc.property(steps, (all) => {
      const memory = newMemory();
      const both = (protocol: "tcp" | "udp") =>
        [0, 1].map(() => new OutboundFlows(memory, protocol));
      const tables = { tcp: both("tcp"), udp: both("udp") };
      const open = new Map<string, { end: string; flowHandle: number; visits: number }>();
      for (const { key, visits, protocol, worker } of all) {
        const flows = tables[protocol][worker] as OutboundFlows;
        const end = `${protocol} ${key[3]} ${(key[8] as number) >>> 16}`;
        const name = `${protocol} ${key.join()}`;
        const known = open.get(name);
        const hasEnd = [...open.values()].some((each) => each.end === end);
        expect(flows.find(key)).toBe(known?.visits ?? (hasEnd ? OWN_END : 0));
        if (known === undefined)
          open.set(name, { end, visits, flowHandle: flows.enter(key, visits) });
        else {
          flows.forget(known.flowHandle);
          open.delete(name);
        }
      }
    }),
  );
});

test("of more flows than have room the newest are known, and none that has ended is", () => {
  const memory = newMemory();
  const flows = new OutboundFlows(memory, "tcp");
  const before = contents(memory);
  const tickets: number[] = [];
  for (let remote = 1; remote <= 100; remote++) {
    const key = flow(1, 1, remote, 80);
    tickets.push(flows.enter(key, 1));
    expect(flows.find(key)).toBe(1);
  }
  for (const flowHandle of tickets) flows.forget(flowHandle);
  expect(contents(memory)).toEqual(before);
  flows.enter(flow(1, 1, 1, 80), 1);
  OutboundFlows.clear(memory);
  expect(contents(memory)).toEqual(before);
});

test("what was not entered is not found, however alike it is", () => {
  const flows = new OutboundFlows(newMemory(), "tcp");
  for (let i = 0; i < ownFlowsMax; i++) flows.enter(flow(1 + (i >>> 15), i % 30_000, 7, 80), 1);
  let found = 0;
  for (let port = 0; port < 30_000; port++) {
    if (flows.find(flow(3, port, 7, 80)) !== 0) found++;
    if (flows.find(flow(1, port, 8, 80)) > 0) found++;
    if (flows.find(flow(1, port, 7, 81)) > 0) found++;
    if (flows.find(flow(7, 80, 1, port)) !== 0) found++;
  }
  expect(found).toBe(0);
});

test("threads at once leave nothing, and each finds what is its own", async () => {
  const memory = newMemory();
  const before = contents(memory);
  const entry = new URL("../../helpers/flow-worker.ts", import.meta.url);
  const threads = [1, 2].map((worker) => {
    const workerData = { memory, worker, times: 200_000 };
    return once(new Worker(entry, { workerData }), "message");
  });
  expect(await Promise.all(threads)).toEqual([[0], [0]]);
  expect(contents(memory)).toEqual(before);
});

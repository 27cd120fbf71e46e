/** A thread that enters flows into a shared table and takes them out, again and again. */

import { parentPort, workerData } from "node:worker_threads";
import { KEY_WORDS } from "../../src/engine/flow-key.ts";
import { OutboundFlows } from "../../src/forward/outbound-flows.ts";

const { memory, worker, times } = workerData as {
  memory: SharedArrayBuffer;
  worker: number;
  times: number;
};

const flows = new OutboundFlows(memory, "tcp");
const key = new Uint32Array(KEY_WORDS);
const open: number[] = [];
let missed = 0;
for (let time = 0; time < times; time++) {
  // All threads have the same few own ends, and so meet in the same buckets.
  key[3] = time % 3;
  key[7] = worker;
  key[8] = time;
  open.push(flows.enter(key, 1));
  if (flows.find(key) !== 1) missed++;
  if (open.length > 2) flows.forget(open.shift() as number);
}
for (const ticket of open) flows.forget(ticket);
parentPort?.postMessage(missed);

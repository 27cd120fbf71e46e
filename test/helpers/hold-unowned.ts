/**
 * Holds a set-up as on a kernel that knows no table owners: `bun hold-unowned.ts`, in the namespace
 * that it is started in, until SIGTERM.
 */

import type { Port } from "../../ffi/types.ts";
import { applyParts } from "../../src/capture/live/apply.ts";
import { readCurrentState } from "../../src/capture/live/current-state.ts";
import { partsOf } from "../../src/capture/live/desired-state.ts";
import { Hold } from "../../src/capture/live/hold.ts";
import { interfaceIndex, openKernel } from "../../src/capture/live/kernel.ts";
import { parseIntent } from "../../src/capture/plan/intent.ts";
import { makePlan } from "../../src/capture/plan/plan.ts";

const range = { from: 80 as Port, to: 80 as Port };
const intent = parseIntent({ ports: [range], toPort: 50080 as Port });
if (!intent.ok) throw new Error(intent.issue.code);
const kernel = openKernel();
const parts = partsOf(makePlan(intent.value), (name) => interfaceIndex(kernel, name));
const question = { tables: [100], tag: 116, name: "tproxyd" };
applyParts(kernel, parts, readCurrentState(kernel, question), { tag: 116 });
const hold = new Hold({
  ...{ kernel, parts, question, owned: false, closed: false, staysHeld: true },
  deadlineMs: undefined,
  keepSettings: () => [],
  conflictLine: ({ text }) => text,
  now: () => performance.now(),
  say: (line) => void process.stdout.write(`${line}\n`),
});
process.on("SIGTERM", () => hold.signal("SIGTERM"));
const ended = hold.run();
process.stdout.write("held\n");
await ended;

/** A new process of an upgrade that dies at one of its steps. */

import { readlinkSync } from "node:fs";
import { Takeover, takeoverVariable } from "../../src/control/upgrade/takeover.ts";

const step = process.argv[2];

function die(): never {
  process.kill(process.pid, "SIGKILL");
  throw new Error("it is still there");
}

if (step === "start") die();
if (!readlinkSync(`/proc/self/fd/${process.env[takeoverVariable]}`).startsWith("socket:")) {
  throw new Error("no channel");
}
const begun = Takeover.begin(process.env, "mortal");
if (step === "hello") {
  await Bun.sleep(20);
  die();
}
const takeover = (await begun) as Takeover;
if (step === "offered") die();
if (step === "gives up") {
  await takeover.failed(["it gives up"]);
  process.exit(2);
}
const served = takeover.ready(true);
if (step === "ready") die();
if (step === "batch") takeover.onBatch = () => die();
await served;
if (step === "served") die();

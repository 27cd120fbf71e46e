/** `bun sabotaged-demo.ts KIND`: the demo, unable to add the steps of that kind to the kernel. */

import { runDemo } from "../../src/cli/commands/demo.ts";
import { processIo } from "../../src/cli/process-io.ts";
import { ownMeans } from "../../src/demo/context.ts";

const [kind] = process.argv.slice(2);
const means = {
  ...ownMeans,
  perform: (...[host, step]: Parameters<typeof ownMeans.perform>) => {
    if (step.kind !== kind) ownMeans.perform(host, step);
  },
};
const entry = new URL("../../src/worker.ts", import.meta.url);
process.exit(await runDemo({ command: "demo", json: true }, processIo(entry), means));

/** `bun sabotaged-demo.ts KIND`: the demo, unable to add the steps of that kind to the kernel. */

import { ownMeans } from "../../src/cli/demo/context.ts";
import { runDemo } from "../../src/cli/demo.ts";
import { processEdges } from "../../src/cli/edges.ts";

const [kind] = process.argv.slice(2);
const means = {
  ...ownMeans,
  perform: (...[host, step]: Parameters<typeof ownMeans.perform>) => {
    if (step.kind !== kind) ownMeans.perform(host, step);
  },
};
const entry = new URL("../../src/worker.ts", import.meta.url);
process.exit(await runDemo({ command: "demo", json: true }, processEdges(entry), means));

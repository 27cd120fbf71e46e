#!/usr/bin/env bun
/** The entry point: arguments, the process's edges, the exit status; nothing else. */

import { writeSync } from "node:fs";
import { versionText } from "./version.ts";

const args = process.argv.slice(2);

if (args.length === 1 && args[0] === "--version") {
  // What scripts ask most often does not wait for every command to be loaded: 3 times as fast.
  try {
    writeSync(1, `${versionText()}\n`);
  } catch {
    process.exitCode = 1;
  }
} else {
  const { processEdges } = await import("./cli/edges.ts");
  const { runProgram } = await import("./cli/program.ts");
  // A Worker is an entry point of the build of its own, found beside this one.
  const workerEntry = new URL("./worker.ts", import.meta.url);
  const edges = processEdges(workerEntry);
  const status = await runProgram(args, edges);
  const failure = edges.outputFailure();
  if (failure !== undefined) await edges.stderr.write(`tproxy: standard output: ${failure}\n`);
  process.exit(failure === undefined ? status : 1);
}

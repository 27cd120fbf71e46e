#!/usr/bin/env bun
/** The entry point: arguments, the process's edges, the exit status; nothing else. */

import { processEdges } from "./cli/edges.ts";
import { runProgram } from "./cli/program.ts";

// A Worker is an entry point of the build of its own, found beside this one.
const workerEntry = new URL("./worker.ts", import.meta.url);

process.exit(await runProgram(process.argv.slice(2), processEdges(workerEntry)));

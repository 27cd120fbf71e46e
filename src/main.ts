#!/usr/bin/env bun
/** The entry point: arguments, the process's io, the exit status; nothing else. */

import { writeSync } from "node:fs";
import { faultText } from "./internal-error.ts";
import { versionText } from "./version.ts";

// A request for counters or for an upgrade that comes too early finds nothing, and ends nothing.
process.on("SIGUSR1", () => {});
process.on("SIGUSR2", () => {});

const args = process.argv.slice(2);

/** In front of everything else, the loading of it included: the runtime would print its source. */
function fail(error: unknown): never {
  try {
    writeSync(2, faultText(error));
  } catch {
    // Nobody reads it.
  }
  process.exit(1);
}
process.on("uncaughtException", fail);
process.on("unhandledRejection", fail);

if (args.length === 1 && (args[0] === "--version" || args[0] === "-V")) {
  // What scripts ask most often does not wait for every command to be loaded: 3 times as fast.
  try {
    writeSync(1, `${versionText()}\n`);
  } catch {
    process.exitCode = 1;
  }
} else {
  try {
    const { processIo } = await import("./cli/process-io.ts");
    const { runProgram } = await import("./cli/program.ts");
    // A Worker is an entry point of the build of its own, found beside this one.
    const workerEntry = new URL("./worker.ts", import.meta.url);
    const io = processIo(workerEntry);
    const status = await runProgram(args, io);
    const failure = io.outputFailure();
    if (failure !== undefined) await io.stderr.write(`tproxy: standard output: ${failure}\n`);
    process.exit(failure === undefined ? status : 1);
  } catch (error) {
    fail(error);
  }
}

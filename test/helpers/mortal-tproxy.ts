/** `bun mortal-tproxy.ts ARGUMENTS`: tproxy with Workers that can be made to die. */

import { processIo } from "../../src/cli/process-io.ts";
import { runProgram } from "../../src/cli/program.ts";

const entry = new URL("mortal-worker.ts", import.meta.url);
process.exit(await runProgram(process.argv.slice(2), processIo(entry)));

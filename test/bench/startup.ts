/** How soon tproxy answers: against programs that do nothing, and the seed's server in Python. */

import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isolation } from "../../build/compile.ts";
import { which } from "../helpers/tools.ts";
import { markdownTable, Recorder, type Series } from "./statistics.ts";

const executable = join(import.meta.dir, "../../dist/tproxy");

// The listener of the seed, on loopback.
const PYTHON_SERVER = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', 0))
s.listen(32)
print("[+] Bound to tcp://127.0.0.1:%d" % s.getsockname()[1], flush=True)
s.accept()
`;

/** Milliseconds from the start of a program to its first line, or to its end without one. */
async function untilFirstLine(command: readonly string[]): Promise<number> {
  const started = performance.now();
  const child = Bun.spawn([...command], { stdin: "ignore", stdout: "pipe", stderr: "ignore" });
  let spent: number | undefined;
  for await (const chunk of child.stdout) {
    if (!chunk.includes(10)) continue;
    spent = performance.now() - started;
    break;
  }
  if (spent === undefined) {
    await child.exited;
    spent = performance.now() - started;
  }
  child.kill("SIGKILL");
  await child.exited;
  return spent;
}

async function makeCommands(folder: string): Promise<Record<string, readonly string[]>> {
  const hello = join(folder, "hello");
  await Bun.write(`${hello}.ts`, 'await Bun.write(Bun.stdout, "hello\\n");\n');
  await Bun.build({ entrypoints: [`${hello}.ts`], compile: { outfile: hello, ...isolation } });
  // A version manager's wrapper called python3 would be measured instead of Python.
  const python = existsSync("/usr/bin/python3") ? "/usr/bin/python3" : which("python3");
  const listen = [executable, "listen", "--no-transparent", "127.0.0.1:0"];
  const peers = ["nginx", "haproxy"].flatMap((name) => {
    const program = which(name);
    // nginx prints its version to standard error.
    return program === undefined
      ? []
      : [[`${name} -v`, ["sh", "-c", `${program} -v 2>&1`]] as const];
  });
  return {
    "/bin/true": ["/bin/true"],
    ...Object.fromEntries(peers),
    "bun --version": [process.execPath, "--version"],
    "hello world, compiled by Bun": [hello],
    "tproxy --version": [executable, "--version"],
    ...(python === undefined ? {} : { "python3 server, listening": [python, "-c", PYTHON_SERVER] }),
    "tproxy routes --print": [executable, "routes", "--print"],
    "tproxy listen, listening": listen,
  };
}

/** Measures `rounds` times, all programs in turns. Milliseconds to the first line. */
export async function measureStartup(rounds: number): Promise<Series[]> {
  const recorder = new Recorder();
  const folder = await mkdtemp(join(tmpdir(), "tproxy-bench-"));
  try {
    const commands = Object.entries(await makeCommands(folder));
    for (const [, command] of commands) await untilFirstLine(command);
    for (let round = 0; round < rounds; round++) {
      for (const [name, command] of commands) recorder.add(name, await untilFirstLine(command));
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return recorder.series;
}

/** The table of what `measureStartup` found, each against a compiled program that does nothing. */
export function startupTable(
  rows: readonly { name: string; median: number; min: number; max: number }[],
): string {
  const base = rows.find(({ name }) => name.startsWith("hello"))?.median ?? Number.NaN;
  return markdownTable(
    ["to the first line of", "median, ms", "min", "max", "of hello world"],
    rows.map(({ name, median, min, max }) => [
      name,
      median.toFixed(1),
      min.toFixed(1),
      max.toFixed(1),
      (median / base).toFixed(2),
    ]),
  );
}

/**
 * Variables by which Bun would run other code: the static executable takes them out of its
 * environment before Bun starts. A file with capabilities or of root hands nothing to those who may
 * start it.
 */

import { afterAll, beforeAll, describe, expect } from "bun:test";
import { existsSync } from "node:fs";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ArchitectureName } from "../build/architecture.ts";
import { isolation } from "../build/compile.ts";
import { debianLibraries, muslRuntime, muslTarget, readBytes } from "../build/inputs.ts";
import { linkStatic } from "../build/link.ts";
import { asStatic, executable, folderWithCopy, isRoot, isStatic } from "./helpers/static-file.ts";
import { testWith, which } from "./helpers/tools.ts";

const architecture = process.arch as ArchitectureName;
let folder = "";

/** What the foreign code leaves behind, in a folder in which everybody may. */
const mark = () => join(folder, "open", "evil-ran");

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "tproxy-variables-"));
  await chmod(folder, 0o755);
  const evil = `require("node:fs").writeFileSync(${JSON.stringify(mark())}, "");\n`;
  await Bun.write(join(folder, "evil.js"), evil);
  await Bun.write(join(folder, "open", "empty"), "");
  await chmod(join(folder, "open"), 0o777);
  const names = "process.stdout.write(JSON.stringify(Object.keys(process.env)));\n";
  await Bun.write(join(folder, "names.js"), names);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Compiles `names.js`, which prints the names of all variables that it sees. */
async function compileNames(outfile: string, musl?: string): Promise<void> {
  const target = musl === undefined ? {} : { target: muslTarget(architecture) };
  const runtime = musl === undefined ? {} : { executablePath: musl };
  const compile = { outfile, ...target, ...runtime, ...isolation };
  await Bun.build({ entrypoints: [join(folder, "names.js")], compile });
}

async function run(command: readonly string[], env: Record<string, string>, argv0?: string) {
  const child = Bun.spawn([...command], {
    env,
    ...{ stdin: "ignore", stdout: "pipe", stderr: "pipe" },
    ...(argv0 === undefined ? {} : { argv0 }),
  });
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  await child.exited;
  return { status: child.exitCode, stdout, stderr };
}

/**
 * Every name in the runtime that may be one of a variable, and those that its documentation has.
 */
async function namesInRuntime(): Promise<string[]> {
  const text = Buffer.from(await readBytes(executable)).toString("latin1");
  const names = text.match(/\b(BUN|NODE|JSC|MIMALLOC|ICU|UV)_[A-Za-z][A-Za-z0-9_]{1,60}\b/gi) ?? [];
  const documented =
    "BUN_OPTIONS BUN_BE_BUN BUN_INSPECT BUN_INSPECT_CONNECT_TO BUN_INSPECT_NOTIFY " +
    "BUN_INSPECT_PRELOAD BUN_RUNTIME_TRANSPILER_CACHE_PATH BUN_TMPDIR BUN_CONFIG_REGISTRY " +
    "BUN_JSC_useJIT NODE_OPTIONS NODE_PATH NODE_EXTRA_CA_CERTS NODE_TLS_REJECT_UNAUTHORIZED " +
    "NODE_CHANNEL_FD NODE_REPL_EXTERNAL_MODULE LD_PRELOAD LD_LIBRARY_PATH";
  return [...new Set([...names, ...documented.split(" ")])];
}

/** What each of them may say to do harm. */
const hostile = () => ({
  BUN_OPTIONS: `--preload ${join(folder, "evil.js")}`,
  BUN_BE_BUN: "1",
  BUN_INSPECT: `unix://${mark()}`,
  BUN_INSPECT_NOTIFY: `unix://${mark()}`,
  BUN_INSPECT_PRELOAD: join(folder, "evil.js"),
  BUN_RUNTIME_TRANSPILER_CACHE_PATH: join(folder, "open"),
  BUN_TMPDIR: join(folder, "open"),
  NODE_OPTIONS: `--require ${join(folder, "evil.js")}`,
  NODE_PATH: folder,
  LD_PRELOAD: join(folder, "evil.so"),
  LD_LIBRARY_PATH: folder,
});

describe("what a program that is linked in the same way sees", () => {
  const program = () => join(folder, "names");

  if (isStatic) {
    beforeAll(async () => {
      const runtime = await muslRuntime(architecture, folder);
      await compileNames(program(), runtime);
      const inputs = { app: await readBytes(program()), ...(await debianLibraries(architecture)) };
      await Bun.write(program(), linkStatic(inputs));
      await chmod(program(), 0o755);
    }, 240_000);
  }

  const seen = async (env: Record<string, string>) =>
    JSON.parse((await run([program()], env)).stdout) as string[];

  testWith([], asStatic)("none of the names in the runtime", async () => {
    const names = await namesInRuntime();
    expect(names.length).toBeGreaterThan(300);
    const env = Object.fromEntries(names.map((name) => [name, "1"]));
    expect(await seen({ FIRST: "1", ...env, ...hostile(), LAST: "1" })).toEqual(["FIRST", "LAST"]);
  });

  testWith([], asStatic)("all others, in their order, and none at all", async () => {
    const others = ["A", "BUN", "BUNX", "NODE", "PATH", "_BUN_OPTIONS", "XBUN_", "LD", "Z"];
    expect(await seen(Object.fromEntries(others.map((name) => [name, ""])))).toEqual(others);
    expect(await seen({})).toEqual([]);
    expect(await seen({ BUN_OPTIONS: "x" })).toEqual([]);
    expect(await seen({ mimalloc_verbose: "1", Bun_Options: "x", A: "" })).toEqual(["A"]);
  });
});

describe("a copy with capabilities, started by nobody", () => {
  const nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
  const asRoot = { ...asStatic, root: isRoot };
  const give = (file: string) =>
    Bun.spawnSync([which("setcap") as string, "cap_net_admin,cap_net_raw+ep", file]).success;
  const forget = () => rm(mark(), { force: true });

  testWith(["setpriv", "setcap"], { root: isRoot })(
    "runs foreign code where it is a plain one: the tests below can fail",
    async () => {
      const plain = join(folder, "plain");
      await compileNames(plain);
      expect(give(plain)).toBe(true);
      const { BUN_OPTIONS, BUN_BE_BUN } = hostile();
      await run([...nobody, plain], { BUN_OPTIONS });
      expect(existsSync(mark())).toBe(true);
      await forget();
      await run([...nobody, plain, join(folder, "evil.js")], { BUN_BE_BUN });
      expect(existsSync(mark())).toBe(true);
      await forget();
    },
  );

  testWith(["setpriv", "setcap"], asRoot)(
    "runs none, whatever a variable or its own name says",
    async () => {
      await using own = await folderWithCopy();
      expect(give(own.copy)).toBe(true);
      const names = await namesInRuntime();
      const evil = `--preload=${join(folder, "evil.js")}`;
      const all = Object.fromEntries(names.map((name) => [name, evil]));
      const environments = [
        ...Object.entries(hostile()).map(([name, value]) => ({ [name]: value })),
        hostile(),
        { ...all, ...hostile() },
        all,
      ];
      const expected = (await run([own.copy, "--version"], {})).stdout;
      for (const env of environments) {
        const found = await run([...nobody, own.copy, "--version"], env);
        // setpriv(1) is dynamic: its loader complains of the LD_PRELOAD that is meant for the copy.
        const stderr = found.stderr.replace(/^ERROR: ld\.so: .*\n/gm, "");
        expect({ ...found, stderr }).toEqual({ status: 0, stdout: expected, stderr: "" });
        const script = await run([...nobody, own.copy, join(folder, "evil.js")], env);
        expect(script.status).toBe(2);
        expect(existsSync(mark())).toBe(false);
      }
      for (const name of ["bun", "bunx", "node"]) {
        const found = await run([own.copy, "--version"], hostile(), name);
        expect(found.stdout).toBe(expected);
      }
    },
    240_000,
  );
});

const evilLibrary = () => `
  #include <fcntl.h>
  #include <unistd.h>
  __attribute__((constructor)) static void evil(void) {
    close(open("${mark()}", O_CREAT | O_WRONLY, 0666));
  }`;

testWith(["musl-gcc"], asStatic)("a library of LD_PRELOAD is not loaded", async () => {
  await Bun.write(join(folder, "evil.c"), evilLibrary());
  await Bun.write(join(folder, "victim.c"), "int main(void) { return 0; }");
  const library = join(folder, "evil.so");
  const victim = join(folder, "victim");
  for (const args of [
    ["-shared", "-fPIC", "-o", library, join(folder, "evil.c")],
    ["-o", victim, join(folder, "victim.c")],
  ]) {
    expect(Bun.spawnSync(["musl-gcc", ...args]).success).toBe(true);
  }
  const env = { LD_PRELOAD: library, LD_LIBRARY_PATH: folder };
  await run([victim], env);
  expect(existsSync(mark())).toBe(true);
  await rm(mark());
  expect(await run([executable, "--version"], env)).toMatchObject({ status: 0, stderr: "" });
  expect(existsSync(mark())).toBe(false);
});

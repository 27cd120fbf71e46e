/**
 * The executables: nothing of the folder they are started in reaches into them, the checksums are
 * right, and the one for arm64 runs as far as qemu's user mode goes.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isolation } from "../build/compile.ts";
import packageJson from "../package.json" with { type: "json" };
import { canUnshare } from "./helpers/netns.ts";
import { testWith } from "./helpers/tools.ts";
import { eventually } from "./helpers/tproxy.ts";

const root = join(import.meta.dir, "..");
const executable = join(root, "dist/tproxy");

interface Finished {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const barely = { PATH: process.env.PATH ?? "", HOME: process.env.HOME ?? "/" };

/** Runs a command to its end, in an environment with hardly anything in it. */
async function run(
  command: readonly string[],
  cwd = root,
  env: Record<string, string | undefined> = barely,
): Promise<Finished> {
  const child = Bun.spawn([...command], {
    cwd,
    env,
    stdout: "pipe",
    stderr: "pipe",
    stdin: "ignore",
  });
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  await child.exited;
  return { status: child.exitCode, stdout, stderr };
}

/** `bun build.ts`, in the environment of this machine: a download may need what it says. */
const build = (...args: string[]) =>
  run([process.execPath, "build.ts", ...args], root, process.env);

/** Starts a server, gives `use` the port of its first line, ends it and answers its output. */
async function serve(
  command: readonly string[],
  cwd: string,
  use: (port: number) => Promise<void>,
): Promise<string> {
  const child = Bun.spawn([...command], {
    cwd,
    stdout: "pipe",
    stderr: "inherit",
    stdin: "ignore",
  });
  const decoder = new TextDecoder();
  let output = "";
  let used = false;
  for await (const chunk of child.stdout) {
    output += decoder.decode(chunk, { stream: true });
    const port = /Bound to tcp:\/\/127\.0\.0\.1:(\d+)\n/.exec(output)?.[1];
    if (port === undefined || used) continue;
    used = true;
    await use(Number(port));
    child.kill("SIGTERM");
  }
  await child.exited;
  return output;
}

/** Sends a text and answers what comes back until the end. */
function ask(port: number, text: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  let answer = "";
  void Bun.connect({
    hostname: "127.0.0.1",
    port,
    socket: {
      open: (socket) => void socket.write(text),
      data: (_, data) => {
        answer += data.toString();
      },
      close: () => resolve(answer),
      error: (_, error) => reject(error),
      connectError: (_, error) => reject(error),
    },
  });
  return promise;
}

function newestSource(): number {
  const files = ["build.ts", "package.json", "bun.lock"];
  for (const folder of ["build", "ffi", "src"]) {
    for (const file of readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })) {
      files.push(join(folder, file));
    }
  }
  return Math.max(...files.map((file) => statSync(join(root, file)).mtimeMs));
}

beforeAll(async () => {
  if (existsSync(executable) && statSync(executable).mtimeMs > newestSource()) return;
  expect(await build()).toMatchObject({ status: 0, stderr: "" });
}, 240_000);

test("--version tells release, commit, Bun, libc and architecture", async () => {
  const { status, stdout, stderr } = await run([executable, "--version"]);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(stdout).toStartWith(`tproxy ${packageJson.version} `);
  for (const part of [
    Bun.version,
    /\b([0-9a-f]{7,}(-dirty)?|unknown)\b/,
    /glibc 2|musl/,
    process.arch,
  ]) {
    expect(stdout).toMatch(part);
  }
});

/** A tree of mounts and a network of its own, in which apt is gone and nothing was downloaded. */
const withoutApt = `
mount -t tmpfs none dist
mkdir -p node_modules/.cache
mount -t tmpfs none node_modules/.cache
mount -t tmpfs none /usr/lib/apt
exec "$0" build.ts "$@"`;

testWith(["unshare", "mount"], { "mount namespaces": canUnshare })(
  "where what it is linked from cannot be had, the build says so and makes a dynamic one",
  async () => {
    const unshare = ["unshare", "--map-root-user", "--user", "--mount", "--net"];
    const command = [...unshare, "sh", "-ec", withoutApt, process.execPath];
    const reason =
      "musl_1.2.3-1_amd64.deb comes from Debian, and /usr/lib/apt/apt-helper is not here";
    const plain = await run(command);
    expect(plain).toMatchObject({ status: 0, stderr: "" });
    expect(plain.stdout.replace("arm64", "amd64")).toMatch(
      new RegExp(
        `^not static, so it needs the C library of a machine like this one: ${reason}\n` +
          `dist/tproxy: linux-(x64|arm64)(-musl)?, .* MB in .* s\n$`,
      ),
    );
    const strict = await run([...command, "--static"]);
    expect(strict).toMatchObject({ status: 1, stdout: "" });
    expect(strict.stderr.replace("arm64", "amd64")).toBe(`build: ${reason}\n`);
  },
  240_000,
);

test.each([
  [["--odd"], 'unknown argument "--odd": there are --all, --dynamic, --static'],
  [["--static", "--dynamic"], "--dynamic and --static exclude each other"],
])("build.ts %p is refused", async (args, problem) => {
  const refused = { status: 1, stdout: "", stderr: `build: ${problem}\n` };
  expect(await build(...args)).toEqual(refused);
});

test("a build leaves nothing in the tree", () => {
  const left = [...readdirSync(root), ...readdirSync(join(root, "dist"))];
  expect(left.filter((name) => /\.bun-build$|^\.build-/.test(name))).toEqual([]);
});

describe("a hostile folder", () => {
  let folder = "";
  const evilRan = () => existsSync(join(folder, "evil-ran"));
  const control = (name: string) => join(folder, name);

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "tproxy-hostile-"));
    const mark = JSON.stringify(join(folder, "evil-ran"));
    const evil = `require("node:fs").writeFileSync(${mark}, "");\n`;
    const files: Record<string, string> = {
      "bunfig.toml": 'preload = ["./evil.ts"]\n[run]\npreload = ["./evil.ts"]\n',
      ".env": "HOSTILE=.env\n",
      ".env.local": "HOSTILE=.env.local\n",
      ".env.production": "HOSTILE=.env.production\n",
      "tsconfig.json": '{"compilerOptions":{"paths":{"*":["./evil.ts"]},"baseUrl":"."}}',
      "package.json": '{"type":"commonjs","imports":{"#*":"./evil.ts"},"main":"./evil.ts"}',
      "evil.ts": evil,
      "worker.ts": evil,
      "src/worker.ts": evil,
      // What a control executable tells of itself and of a Worker of its own.
      "control/main.ts":
        'const worker = new Worker(new URL("./thread.ts", import.meta.url));\n' +
        "worker.onmessage = ({ data }) => {\n" +
        '  process.stdout.write("main " + process.env.HOSTILE + " worker " + data);\n' +
        "  process.exit(0);\n};\n",
      "control/thread.ts": 'postMessage(process.env.HOSTILE ?? "undefined");\n',
    };
    for (const [name, text] of Object.entries(files)) await Bun.write(join(folder, name), text);
    // The API takes its files from where they are, so the control programs are built elsewhere.
    for (const [name, options] of Object.entries({ open: {}, shut: isolation })) {
      await Bun.build({
        entrypoints: ["main.ts", "thread.ts"].map((file) => join(folder, "control", file)),
        compile: { outfile: control(name), ...options },
      });
    }
  }, 240_000);
  afterAll(() => rm(folder, { recursive: true, force: true }));

  test("reaches into an executable that is built without the options", async () => {
    const { stdout } = await run([control("open")], folder);
    expect(stdout).toMatch(/^main \.env\S* worker \.env/);
    expect(evilRan()).toBe(true);
    await rm(join(folder, "evil-ran"));
  });

  test("does not reach into one that is built with them, nor into its Worker", async () => {
    const { stdout } = await run([control("shut")], folder);
    expect(stdout).toBe("main undefined worker undefined");
    expect(evilRan()).toBe(false);
  });

  test("runs nothing in tproxy and its Workers", async () => {
    expect((await run([executable, "--version"], folder)).status).toBe(0);
    const listen = [executable, "listen", "--no-transparent", "127.0.0.1:0"];
    const output = await serve(listen, folder, async (port) => {
      expect(await ask(port, "hello")).toBe("hello world\n");
    });
    expect(output).toContain("hello");
    expect(evilRan()).toBe(false);
  });

  testWith(["strace"])("is not even looked at", async () => {
    const names = ["bunfig.toml", ".env", "tsconfig.json", "package.json", "evil.ts", "worker.ts"];
    // -D: the tracer stands aside, so that a signal goes to the program.
    const trace = join(folder, "control", "trace");
    const strace = ["strace", "-D", "-f", "-o", trace, "-e", "trace=%file"];
    const touched = async () => {
      let text = "";
      const complete = () => {
        text = readFileSync(trace, "utf8");
        return new RegExp(`^${Number.parseInt(text, 10)} +\\+\\+\\+ `, "m").test(text);
      };
      await eventually("the end of the trace", complete);
      await rm(trace);
      return text.split("\n").filter((call) => names.some((name) => call.includes(name)));
    };
    await run([...strace, control("open")], folder);
    expect((await touched()).join("\n")).toContain("bunfig.toml");
    await rm(join(folder, "evil-ran"));
    const listen = [executable, "listen", "--no-transparent", "127.0.0.1:0"];
    await serve([...strace, ...listen], folder, async () => {});
    expect(await touched()).toEqual([]);
  });
});

// The other architecture needs Bun's runtime for it, which is downloaded once: on request only.
const all = process.env.TPROXY_TEST_ALL === "1";
const why = all ? "" : " [not without TPROXY_TEST_ALL=1: downloads]";

describe.skipIf(!all)(`both architectures${why}`, () => {
  const names = ["tproxy-linux-x64", "tproxy-linux-arm64"];
  const arm64 = ["qemu-aarch64-static", "dist/tproxy-linux-arm64"];

  if (all) {
    beforeAll(async () => {
      expect(await build("--all")).toMatchObject({ status: 0, stderr: "" });
    }, 300_000);
  }

  testWith(["sha256sum"])(
    "SHA256SUMS is right, and the same sources give the same",
    async () => {
      const sums = await Bun.file(join(root, "dist/SHA256SUMS")).text();
      const lines = sums.trimEnd().split("\n");
      expect(lines.map((line) => line.split("  ")[1])).toEqual(names);
      const checked = await run(["sha256sum", "--strict", "-c", "SHA256SUMS"], join(root, "dist"));
      expect(checked).toMatchObject({ status: 0, stderr: "" });
      expect((await build("--all")).status).toBe(0);
      expect(await Bun.file(join(root, "dist/SHA256SUMS")).text()).toBe(sums);
    },
    240_000,
  );

  testWith(["file"])("file(1) calls both static, without sections", async () => {
    const { stdout } = await run(["file", ...names.map((name) => join("dist", name))]);
    const [x64, aarch64] = stdout.trimEnd().split("\n");
    expect(x64).toMatch(/x86-64.*, statically linked, no section header$/);
    expect(aarch64).toMatch(/aarch64.*, statically linked, no section header$/);
  });

  for (const pageBytes of [4096, 16384, 65536]) {
    testWith(["qemu-aarch64-static"])(
      `arm64 by qemu with pages of ${pageBytes / 1024} KiB`,
      async () => {
        const [qemu, ...command] = arm64 as [string, string];
        // With these Bun would say its own version, or miss the file.
        const env = { ...barely, BUN_BE_BUN: "1", BUN_OPTIONS: "--preload /nonexistent.js" };
        const words = [qemu, "-p", String(pageBytes), ...command, "--version"];
        const version = await run(words, root, env);
        expect(version).toMatchObject({ status: 0, stderr: "" });
        expect(version.stdout).toMatch(/linux-arm64-static\)$/m);
      },
      240_000,
    );
  }

  testWith(["qemu-aarch64-static"])(
    "arm64 by qemu: routes, errors",
    async () => {
      for (const dialect of ["iptables", "nft", "json"]) {
        const args = ["routes", "--print", "--dialect", dialect, "--family", "both"];
        const [there, here] = await Promise.all([
          run([...arm64, ...args]),
          run([executable, ...args]),
        ]);
        expect(there).toEqual(here);
      }
      expect((await run([...arm64, "nonsense"])).status).toBe(2);
      // qemu's user mode does not pass IP_TRANSPARENT on; real arm64 kernels do.
      const bound = await run([...arm64, "listen", "127.0.0.1:0"]);
      expect(bound).toMatchObject({ status: 1, stdout: "" });
      expect(bound.stderr).toMatch(/IP_TRANSPARENT: Protocol not available/);
    },
    240_000,
  );

  testWith(["qemu-aarch64-static"])(
    "arm64 by qemu: listen, with epoll in its Workers",
    async () => {
      const args = ["listen", "--no-transparent", "127.0.0.1:0"];
      const output = await serve([...arm64, ...args], root, async (port) => {
        for (const name of ["one", "two"]) expect(await ask(port, name)).toBe("hello world\n");
      });
      expect(output).toMatch(
        /\[ \] Connection from tcp:\/\/127\.0\.0\.1:\d+ to tcp:\/\/127\.0\.0\.1/,
      );
      expect(output).toMatch(/one[\s\S]*two/);
    },
    240_000,
  );
});

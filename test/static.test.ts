/**
 * The static executable: it needs no file of the machine, and runs where hardly anything is. Each
 * test runs a copy in a place of its own.
 */

import { expect } from "bun:test";
import { copyFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { canUnshare } from "./helpers/netns.ts";
import { asStatic, executable, folderWithCopy, isRoot } from "./helpers/static-file.ts";
import { testWith, which } from "./helpers/tools.ts";
import { listening, run, type StartOptions, start } from "./helpers/tproxy.ts";
import { ask, udpPeer } from "./helpers/udp.ts";

const inNamespaces = { ...asStatic, namespaces: canUnshare };
const asRoot = { ...asStatic, root: isRoot };
const plain = ["--no-transparent"];

/** What the executable itself says, here, of that which does not depend on the place. */
const here = async (...args: string[]) => (await run(args)).stdout;

/** Becomes root of a user namespace, with mounts of its own, and runs a shell script as $0 $@. */
function inMounts(script: string, ...words: string[]): StartOptions {
  const unshare = ["unshare", "--user", "--map-root-user", "--mount"];
  return { prefix: [...unshare, "sh", "-ec", script, ...words], command: ["/tproxy"] };
}

/** Only the executable is in this root folder; /proc as well, if wanted. */
const alone = (root: string, withProc: boolean) =>
  inMounts(`${withProc ? 'mount --rbind /proc "$0/proc"; ' : ""}exec chroot "$0" "$@"`, root);

/** Serves TCP and UDP and is ended by SIGTERM. */
async function serves(options: StartOptions): Promise<void> {
  const args = [...plain, "tcp://127.0.0.1:0", "udp://127.0.0.1:0", "--echo"];
  const { server, port } = await listening(args, options);
  const [, udpPort] = await server.until(/Bound to udp:\/\/127\.0\.0\.1:(\d+)\n/);
  expect(await exchange(port, "by TCP")).toBe("by TCP");
  expect(await ask(await udpPeer(), Number(udpPort), "by UDP")).toBe("by UDP");
  server.kill("SIGTERM");
  expect(await server.finished()).toMatchObject({ status: 0, stderr: "" });
}

/** Sends a text by TCP, ends, and answers all that comes back. */
async function exchange(port: number, text: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  let answer = "";
  await Bun.connect({
    hostname: "127.0.0.1",
    port,
    allowHalfOpen: true,
    socket: {
      open: (socket) => {
        socket.write(text);
        socket.shutdown();
      },
      data: (_, data) => {
        answer += data.toString();
      },
      end: (socket) => void socket.end(),
      close: () => resolve(answer),
      error: (_, error) => reject(error),
    },
  });
  return promise;
}

testWith(["file", "ldd"], asStatic)("file(1) and ldd(1) call it static", async () => {
  const [file, ldd] = ["file", "ldd"].map((tool) => {
    const { stdout, stderr } = Bun.spawnSync([tool, executable]);
    return `${stdout}${stderr}`;
  });
  expect(file).toMatch(/statically linked, no section header$/m);
  expect(ldd).toContain("not a dynamic executable");
});

testWith(["strace"], asStatic)("it opens no file outside /proc and /sys", async () => {
  const home = {
    HOME: "/nonexistent/home",
    XDG_CACHE_HOME: "/nonexistent/c",
    TMPDIR: "/nonexistent/t",
  };
  const strace = ["strace", "-f", "-qq", "-e", "trace=%file,memfd_create"];
  const { stderr } = await run(["routes", "--print"], { prefix: strace, env: home });
  const calls = stderr.split("\n").filter((line) => !/ resumed>|^$/.test(line));
  expect(calls.length).toBeGreaterThan(2);
  const elsewhere = calls.filter((call) => !/\b(execve|getcwd)\(|^[^"]*"\/(proc|sys)\//.test(call));
  expect(elsewhere).toEqual([]);
});

testWith(["unshare"], inNamespaces)("alone in a root folder, without /proc", async () => {
  await using folder = await folderWithCopy();
  const options = alone(folder.path, false);
  expect((await run(["--version"], options)).stdout).toBe(await here("--version"));
  const routes = await run(["routes", "--print", "--in", "eth0"], options);
  expect(routes).toMatchObject({ status: 0, stderr: "" });
  expect(routes.stdout).toBe(await here("routes", "--print", "--in", "eth0"));
  await serves(options);
  expect(await run(["demo"], options)).toMatchObject({
    status: 1,
    stderr: "tproxy: /proc is not mounted here, and this command reads it\n",
  });
});

testWith(["unshare", "mount"], inNamespaces)("alone in a root folder, with /proc", async () => {
  await using folder = await folderWithCopy();
  const { prefix = [], command = [] } = alone(folder.path, true);
  const options = { prefix: [...prefix.toSpliced(1, 0, "--net")], command };
  const demo = await run(["demo"], options);
  expect(demo.stdout.trimEnd()).toEndWith("all of them true. Nothing on this machine was changed.");
  expect(demo.status).toBe(0);
});

testWith(["unshare", "mount"], inNamespaces)(
  "forward, TCP and UDP with two Workers, alone in a root folder: localhost needs no file",
  async () => {
    await using folder = await folderWithCopy();
    const options = alone(folder.path, true);
    const backend = await listening([...plain, "tcp://127.0.0.1:0", "udp://127.0.0.1:0", "--echo"]);
    const [, udpPort] = await backend.server.until(/Bound to udp:\/\/127\.0\.0\.1:(\d+)\n/);
    for (const [protocol, to] of [
      ["tcp", backend.port],
      ["udp", udpPort],
    ] as const) {
      const args = [
        `${protocol}://127.0.0.1:0`,
        "--to",
        `${protocol === "tcp" ? "localhost" : "127.0.0.1"}:${to}`,
        "--workers",
        "2",
      ];
      const proxy = start(["forward", ...plain, "--source", "self", ...args], options);
      const [, port] = await proxy.until(/Bound to \w+:\/\/127\.0\.0\.1:(\d+)\n/);
      for (const text of ["one", "two", "three"]) {
        const answer =
          protocol === "tcp"
            ? await exchange(Number(port), text)
            : await ask(await udpPeer(), Number(port), text);
        expect(answer).toBe(text);
      }
      proxy.kill("SIGTERM");
      expect(await proxy.finished()).toMatchObject({ status: 0, stderr: "" });
    }
    backend.server.kill("SIGTERM");
    await backend.server.finished();
  },
);

const loader = { x64: "ld-musl-x86_64.so.1", arm64: "ld-musl-aarch64.so.1" }[
  process.arch as string
];

testWith(["unshare", "busybox"], { ...inNamespaces, musl: which("musl-gcc") !== undefined })(
  "in a root folder of only musl and busybox",
  async () => {
    await using folder = await folderWithCopy();
    await mkdir(join(folder.path, "lib"));
    await copyFile(`/lib/${loader}`, join(folder.path, "lib", `${loader}`));
    await copyFile(which("busybox") as string, join(folder.path, "busybox"));
    const options = inMounts('exec chroot "$0" /busybox env PATH=/ "$@"', folder.path);
    expect((await run(["--version"], options)).stdout).toBe(await here("--version"));
    await serves(options);
  },
);

/** As user nobody. */
const nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

testWith(["setpriv"], asRoot)("as nobody, with no-new-privileges", async () => {
  await using folder = await folderWithCopy();
  const prefix = [...nobody, "--no-new-privs", "--bounding-set=-all"];
  const options = { prefix, command: [folder.copy] };
  await serves(options);
  const { status, stderr } = await run(["listen", "127.0.0.1:0"], options);
  expect(status).toBe(1);
  expect(stderr).toMatch(/CAP_NET_(ADMIN|RAW)/);
});

testWith(["setpriv", "setcap"], asRoot)("nobody has what a file's capabilities give", async () => {
  await using folder = await folderWithCopy();
  const setcap = which("setcap") as string;
  Bun.spawnSync([setcap, "cap_net_admin,cap_net_raw,cap_net_bind_service+ep", folder.copy]);
  const { server } = await listening(["192.0.2.1:0"], { prefix: nobody, command: [folder.copy] });
  server.kill("SIGTERM");
  expect(await server.finished()).toMatchObject({ status: 0, stderr: "" });
});

testWith(["setpriv"], asRoot)("nobody has what a setuid file gives", async () => {
  await using folder = await folderWithCopy();
  Bun.spawnSync(["chmod", "4755", folder.copy]);
  const { server } = await listening(["192.0.2.1:0"], { prefix: nobody, command: [folder.copy] });
  server.kill("SIGTERM");
  expect(await server.finished()).toMatchObject({ status: 0, stderr: "" });
});

testWith(["bash"], asStatic)("under small limits: files of 1 KiB, 16 descriptors", async () => {
  for (const limit of ["-f 1", "-n 16"]) {
    const prefix = ["bash", "-c", `ulimit ${limit}; exec "$@"`, "bash"];
    const { server, port } = await listening([...plain, "127.0.0.1:0", "--echo"], { prefix });
    expect(await exchange(port, limit)).toBe(limit);
    server.kill("SIGTERM");
    expect((await server.finished()).status).toBe(0);
  }
});

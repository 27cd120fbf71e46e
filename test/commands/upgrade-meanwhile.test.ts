/** Executables that are none, and what else is asked of a process while it upgrades. */

import { afterEach, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cleanUp, cleanups } from "../helpers/forward.ts";
import { freePort } from "../helpers/ports.ts";
import { executable, isStatic } from "../helpers/static-file.ts";
import { eventually, run, start } from "../helpers/tproxy.ts";

afterEach(cleanUp);

test.skipIf(!isStatic)(
  "an executable that is none is named, and changes meanwhile are rejected",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "tproxy-meanwhile-"));
    cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
    const path = (name: string) => join(folder, name);
    const [file, admin] = [path("tproxy.toml"), path("admin.sock")];
    writeFileSync(
      file,
      `workers = 1\n[admin]\nsocket = "${admin}"\n[[service]]\nname = "web"\n` +
        `listen = "127.0.0.1:${freePort()}"\nto = "127.0.0.1:1"\n` +
        'transparent = false\nsource = "self"\n',
    );
    const proxy = start(["run", "-c", file]);
    cleanups.push(() => proxy.kill("SIGKILL"));
    await proxy.until(/Bound to/);
    const tproxy = (...args: string[]) => run([...args, "--admin", admin]);
    const status = async () => JSON.parse((await tproxy("status", "--json")).stdout);

    // Of another architecture (e_machine), of none, without the permission, a folder.
    const other = new Uint8Array(readFileSync(executable).subarray(0, 4_096));
    other[18] = 0xf3;
    other[19] = 0xee;
    writeFileSync(path("other"), other, { mode: 0o755 });
    writeFileSync(path("text"), "no program\n", { mode: 0o755 });
    writeFileSync(path("plain"), other, { mode: 0o644 });
    for (const [name, error] of [
      ["other", "ENOEXEC"],
      ["text", "ENOEXEC"],
      ["plain", "EACCES"],
      ["", "EACCES"],
    ] as const) {
      const answer = await tproxy("upgrade", "--exec", path(name));
      expect([name, answer.status]).toEqual([name, 1]);
      expect(answer.stderr).toContain(`the new process cannot be started: ${error}`);
      expect((await status()).pid).toBe(proxy.pid);
    }

    // One that takes its time.
    writeFileSync(
      path("slow"),
      `#!/bin/sh\n: > '${path("begun")}'\nwhile [ ! -e '${path("go")}' ]; do sleep 0.05; done\n` +
        `exec '${executable}' "$@"\n`,
    );
    chmodSync(path("slow"), 0o755);
    const upgrade = tproxy("upgrade", "--exec", path("slow"));
    await eventually("its start", () => existsSync(path("begun")));
    const others = [
      ["upgrade"],
      ["drain", "web"],
      ["down", "web/127.0.0.1:1", "--force"],
      ["reload"],
      ["log", "level", "debug"],
    ];
    // All at once: the new process has a minute to be ready.
    const answers = await Promise.all(others.map((args) => tproxy(...args)));
    expect(answers.map(({ status }) => status)).toEqual([1, 1, 1, 1, 1]);
    for (const { stderr } of answers) expect(stderr).toContain("an upgrade is under way");
    writeFileSync(file, readFileSync(file, "utf8").replace('"127.0.0.1:1"', '"127.0.0.1:2"'));
    proxy.kill("SIGHUP");
    await eventually("the answer", () =>
      proxy.stdout().includes("reload: an upgrade is under way"),
    );
    writeFileSync(path("go"), "");
    const { status: exit, stdout, stderr } = await upgrade;
    const [, pid = ""] = /^process (\d+) serves now/.exec(stdout) ?? [];
    cleanups.push(() => void tryKill(Number(pid)));
    expect([exit, stderr]).toEqual([0, ""]);
    expect(await status()).toMatchObject({ pid: Number(pid), generation: 2 });
    expect((await tproxy("stop")).status).toBe(0);
  },
  120_000,
);

function tryKill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended.
  }
}

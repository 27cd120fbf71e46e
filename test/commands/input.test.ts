/** Files and standard input that a user names: what never comes, and what never ends. */

import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { cleanUp, cleanups } from "../helpers/forward.ts";
import { eventually, run, start, tproxy } from "../helpers/tproxy.ts";

afterEach(cleanUp);

function fifo(): string {
  const folder = mkdtempSync(join(tmpdir(), "tproxy-test-"));
  cleanups.push(() => rmSync(folder, { recursive: true }));
  const path = join(folder, "fifo");
  expect(Bun.spawnSync(["mkfifo", path]).success).toBe(true);
  return path;
}

/** Whether a process handles (SigCgt) or ignores (SigIgn) a signal, in proc(5)'s words. */
function has(pid: number, what: "SigCgt" | "SigIgn", signal: NodeJS.Signals): boolean {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const mask = new RegExp(`^${what}:\\s*(\\S+)$`, "m").exec(status)?.[1] ?? "0";
  return (BigInt(`0x${mask}`) & (1n << BigInt(constants.signals[signal] - 1))) !== 0n;
}

describe("what is never written", () => {
  test.each([
    ["SIGINT", "routes --print --dst @FIFO", 130],
    ["SIGTERM", "routes --print --dst @-", 143],
    ["SIGTERM", "listen --no-transparent 127.0.0.1:0 --reply-file FIFO", 143],
    ["SIGTERM", "forward --no-transparent 127.0.0.1:0 --to 127.0.0.1:1 --accept-proxy=@-", 143],
    ["SIGINT", "doctor --dst @FIFO --dport 80", 130],
  ] as const)("%s ends %s", async (signal, line, status) => {
    const running = start(line.replace("FIFO", fifo()).split(" "));
    await eventually("it has begun", () => has(running.pid, "SigCgt", signal));
    running.kill(signal);
    const ended = await running.finished();
    // Whether it has been caught or was too early, it is an end by that signal.
    expect(ended.signal ?? ended.status).toBe(ended.signal === null ? status : signal);
    expect(ended.stdout).toBe("");
  });

  test("a terminal is left by Ctrl-C", async () => {
    // The terminal sends the signal to the program that has it.
    const script = `
import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
def catches():
    if os.readlink(f"/proc/{pid}/exe") != os.path.realpath(sys.argv[1]):
        return False
    with open(f"/proc/{pid}/status") as status:
        caught = [line.split()[1] for line in status if line.startswith("SigCgt")]
    return int(caught[0], 16) & 2
while not catches():
    time.sleep(0.01)
os.write(terminal, b"\\x03")
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))`;
    const args = ["python3", "-c", script, ...tproxy, "routes", "--print", "--dst", "@-"];
    const child = Bun.spawn(args, { stdout: "pipe" });
    expect(["130\n", "-2\n"]).toContain(await new Response(child.stdout).text());
  });
});

test.each([
  ["routes --print --dst @/dev/zero", /^tproxy: Cannot read "@\/dev\/zero": more than 16777216 b/],
  ["listen :0 --reply-file /dev/zero", /^tproxy: --reply-file "\/dev\/zero" cannot be read: more/],
  ["routes --print --dst @/", /^tproxy: Cannot read "@\/": EISDIR; give a readable file\n$/],
  ["listen :0 --reply-file /", /^tproxy: --reply-file "\/" cannot be read: EISDIR\n$/],
  ["forward :0 --to 192.0.2.1:1 --accept-proxy=@/dev/null", /"@\/dev\/null" has no network in it/],
  ["routes --print --dst @- --src @-", /^tproxy: standard input can be read once: give "@-" to on/],
])("%s is refused in one line", async (line, message) => {
  const { status, stdout, stderr } = await run(line.split(" "));
  expect(stderr).toMatch(message);
  expect(stderr.trimEnd().split("\n").length).toBe(1);
  expect(stdout).toBe("");
  expect(status).toBe(2);
});

test("a list comes from standard input or a FIFO as from a file", async () => {
  const given = await run(["routes", "--print", "--dst", "8.8.8.8"]);
  const input = await run(["routes", "--print", "--dst", "@-"], { input: "8.8.8.8 # one\n" });
  expect(input).toEqual(given);
  const path = fifo();
  const running = start(["routes", "--print", "--dst", `@${path}`]);
  Bun.spawn(["sh", "-c", 'echo 8.8.8.8 > "$1"', "sh", path]);
  expect((await running.finished()).stdout).toBe(given.stdout);
});

// What runs in front of the runtime is part of the static build alone.
test.skipIf(!/static/.test(await versionOf()))("SIGUSR1 ends nothing, however early", async () => {
  // It is ignored before there is a handler for it.
  let ignored = 0;
  for (let i = 0; i < 10; i++) {
    const running = start(["listen", "--no-transparent", "127.0.0.1:0"]);
    while (!has(running.pid, "SigCgt", "SIGUSR1") && !has(running.pid, "SigIgn", "SIGUSR1"));
    if (!has(running.pid, "SigCgt", "SIGUSR1")) ignored++;
    running.kill("SIGUSR1");
    await running.until(/Bound to/);
    running.kill("SIGTERM");
    expect((await running.finished()).status).toBe(0);
  }
  expect(ignored).toBeGreaterThan(0);
});

async function versionOf(): Promise<string> {
  return (await run(["--version"])).stdout;
}

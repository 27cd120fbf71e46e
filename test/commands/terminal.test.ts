/** What others have sent or named reaches no terminal as control characters. */

import { afterEach, expect, test } from "bun:test";
import { createSocket } from "node:dgram";
import { cleanUp, cleanups } from "../helpers/forward.ts";
import { eventually, run, start, tproxy } from "../helpers/tproxy.ts";

afterEach(cleanUp);

const unsafe = /[\p{C}\p{Zl}\p{Zp}]/u;
const evil = "\x1b]0;x\x07\x9b2J\x7f\u202e\u2028end";

test.each(["", "--json"])("listen shows what it is sent: %p", async (json) => {
  const words = ["listen", "--udp", "--no-transparent", "127.0.0.1:0", json].filter(Boolean);
  const running = start(words);
  cleanups.push(() => running.kill("SIGKILL"));
  const [, port] = await running.until(/127\.0\.0\.1:(\d+)\D/);
  const socket = createSocket("udp4");
  cleanups.push(() => socket.close());
  socket.send(evil, Number(port), "127.0.0.1");
  await running.until(/end/);
  running.kill("SIGTERM");
  const { stdout } = await running.finished();
  expect(stdout.replaceAll("\n", "")).not.toMatch(unsafe);
  if (json !== "") {
    const events = stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(events.find(({ event }) => event === "datagram").text).toBe(evil);
  }
});

test("a process may call itself anything: who holds a port is told in one line", async () => {
  const script = `
import socket, time
open("/proc/self/comm", "wb").write(b"a\\n\\x1b[31mb\\xc2\\x9b")
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen()
print(server.getsockname()[1], flush=True)
time.sleep(60)`;
  const holder = start([], { command: ["python3", "-c", script] });
  cleanups.push(() => holder.kill("SIGKILL"));
  const [, port] = await holder.until(/(\d+)\n/);
  await eventually("it listens", () => Number(port) > 0);
  const { status, stderr } = await run(["listen", "--no-transparent", `127.0.0.1:${port}`]);
  expect(status).toBe(1);
  expect(stderr.trimEnd()).not.toMatch(unsafe);
  expect(stderr).toMatch(/^tproxy: Cannot bind /);
});

test.each([
  [["routes", "--print", "--in", "a\x1b[2J"]],
  [["forward", ":80", "--to", "\u202ename:80"]],
  [["listen", "\x9b:80"]],
  [["listen", ":80", "--reply-file", "/no\n\x1b[31m"]],
  [["\x1b[2J"]],
  [["routes", "--print", "--dst", "@/no\u2028pe"]],
])("an argument is quoted: %j", async (args) => {
  const { status, stderr } = await run(args);
  expect(status).toBe(2);
  expect(stderr.trimEnd()).not.toMatch(unsafe);
});

test("the help on a terminal has its colours", async () => {
  const script = "import pty, sys; pty.spawn(sys.argv[1:])";
  for (const command of ["listen", "doctor", "routes"]) {
    const args = ["python3", "-c", script, ...tproxy, command, "--help"];
    const { NO_COLOR, ...env } = process.env;
    const child = Bun.spawn(args, {
      stdin: "ignore",
      stdout: "pipe",
      env: { ...env, TERM: "xterm" },
    });
    const text = await new Response(child.stdout).text();
    expect(text).toContain("\x1b[");
    expect(text).not.toContain("\\x1b");
  }
});

test.each([
  [{ TERM: "xterm", NO_COLOR: "" }, true],
  [{ TERM: "xterm", NO_COLOR: "1" }, false],
  [{ TERM: "dumb", NO_COLOR: "" }, false],
])("colours on a terminal with %p: %p", async (variables, hasColors) => {
  const script = `
import fcntl, os, pty, struct, sys, termios
pid, fd = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    try:
        data = os.read(fd, 65536)
    except OSError:
        break
    if not data:
        break
    os.write(1, data)
`;
  const args = ["python3", "-c", script, ...tproxy, "listen", "-h"];
  const child = Bun.spawn(args, { stdout: "pipe", env: { ...process.env, ...variables } });
  const text = await new Response(child.stdout).text();
  expect(text.includes("\x1b[")).toBe(hasColors);
  // Lines end at the terminal's width; examples stay whole.
  const [help = ""] = Bun.stripANSI(text).split("Examples:");
  const widths = help.split(/\r?\n/).map((line) => line.length);
  expect(Math.max(...widths)).toBeLessThanOrEqual(60);
  expect(Math.max(...widths)).toBeGreaterThan(50);
});

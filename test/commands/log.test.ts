/** What is logged ends nothing and stops nothing: full disks, and readers slow or gone. */

import { afterEach, describe, expect, test } from "bun:test";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { join } from "node:path";
import { backend, cleanUp, cleanups, eventsOf, exchange, forward } from "../helpers/forward.ts";
import { eventually, type Running, start, tproxy } from "../helpers/tproxy.ts";

afterEach(cleanUp);

const own = ["--no-transparent", "127.0.0.1:0"];
const blocked = ["python3", join(import.meta.dir, "..", "helpers", "blocked.py")];

/** Starts what is killed at the end of the test. */
function started(args: readonly string[], command?: readonly string[]): Running {
  const running = start(args, command === undefined ? {} : { command });
  cleanups.push(async () => {
    running.kill("SIGKILL");
    await running.finished();
  });
  return running;
}

/** tproxy in a shell that does something with its standard output. */
const shell = (args: readonly string[], redirection: string): Running =>
  started([], ["sh", "-c", `exec ${[...tproxy, ...args].join(" ")} ${redirection}`]);

const echo = () => backend((socket) => socket.pipe(socket));

/** The port at which a process listens, whatever it prints. */
async function portOf(pid: number, protocol: "tcp" | "udp"): Promise<number> {
  let port: number | undefined;
  await eventually("it listens", () => {
    const flag = protocol === "tcp" ? "-tlnpH" : "-ulnpH";
    const { stdout } = Bun.spawnSync(["ss", flag]);
    const line = String(stdout)
      .split("\n")
      .find((each) => each.includes(`pid=${pid},`));
    port = Number(/:(\d+)\s/.exec(line ?? "")?.[1]);
    return port > 0;
  });
  return port as number;
}

/** Sends datagrams of `bytes` one after the other; how many were answered. */
async function ask(port: number, count: number, bytes: number): Promise<number> {
  const socket = createSocket("udp4");
  cleanups.push(() => socket.close());
  socket.connect(port, "127.0.0.1");
  await once(socket, "connect");
  let answered = 0;
  for (let i = 0; i < count; i++) {
    socket.send(new Uint8Array(bytes).fill(0x61));
    const isAnswered = await Promise.race([
      once(socket, "message").then(() => true),
      Bun.sleep(20_000).then(() => false),
    ]);
    if (!isAnswered) break;
    answered++;
  }
  return answered;
}

describe("a full disk", () => {
  test.each([
    ["forward", (to: number) => ["--source", "self", "--to", `127.0.0.1:${to}`]],
    ["listen", () => ["--echo"]],
    ["bind --tcp", () => []],
  ])("does not end %s, which says so once", async (command, more) => {
    const to = await echo();
    const args = [...command.split(" "), ...own, ...more(to)];
    const running = shell(args, "> /dev/full");
    const port = await portOf(running.pid, "tcp");
    for (let i = 0; i < 3; i++) {
      const received = String(await exchange(port, [new TextEncoder().encode("hi")]));
      if (command !== "bind --tcp") expect(received).toBe("hi");
    }
    await eventually("it says so", () => running.stderr() !== "");
    running.kill("SIGTERM");
    const { status, stderr } = await running.finished();
    expect(stderr).toBe(
      "tproxy: standard output: ENOSPC: the log waits, and the traffic goes on\n",
    );
    expect(status).toBe(0);
  });
});

describe("a reader that stands still", () => {
  test.each(["pipe", "terminal"])(
    "loses lines, which are counted, and no traffic: a %s",
    async (kind) => {
      const args = ["listen", "--udp", "--reply", "ok", "--json", ...own];
      const running = started(args, [...blocked, kind, ...tproxy]);
      const [, port] = await running.until(/127\.0\.0\.1:(\d+)\D/);
      const count = 1500;
      expect(await ask(Number(port), count, 60_000)).toBe(count);
      running.write("\n");
      await running.until(/"event":"lost"/);
      running.kill("SIGTERM");
      const { status } = await running.finished();
      expect(status).toBe(0);
      let lost = 0;
      for (const [, lines] of running.stdout().matchAll(/"event":"lost".*"lines":(\d+)/g)) {
        lost += Number(lines);
      }
      expect(lost).toBeGreaterThan(0);
      expect(shownIn(running.stdout()) + lost).toBe(count);
    },
    240_000,
  );

  test.each(["pipe", "terminal"])(
    "does not keep forward from its end: a %s",
    async (kind) => {
      const to = await echo();
      const args = ["forward", ...own, "--source", "self", "--to", `127.0.0.1:${to}`];
      const log = ["--json", "--log-level", "debug", "--workers", "2"];
      const running = started([...args, ...log], [...blocked, kind, ...tproxy]);
      const [, port] = await running.until(/127\.0\.0\.1:(\d+)\D/);
      // 64 KiB are in the pipe after some 100 of them.
      for (let turn = 0; turn < 10; turn++) {
        const burst = Array.from({ length: 50 }, () => exchange(Number(port), [new Uint8Array(1)]));
        for (const received of await Promise.all(burst)) expect(received.length).toBe(1);
      }
      running.kill("SIGTERM");
      running.endInput();
      expect((await running.finished()).status).toBe(0);
    },
    240_000,
  );

  test("is waited for with --log-lossless, but not at the end", async () => {
    const args = ["listen", "--udp", "--reply", "ok", "--json", "--log-lossless", ...own];
    const running = started(args, [...blocked, "pipe", ...tproxy]);
    const [, port] = await running.until(/127\.0\.0\.1:(\d+)\D/);
    const count = 1500;
    const answered = await ask(Number(port), count, 60_000);
    expect(answered).toBeLessThan(count);
    running.kill("SIGTERM");
    running.endInput();
    const { status, stderr } = await running.finished();
    expect(stderr).toBe("tproxy: standard output: it was not read in time\n");
    expect(status).toBe(1);
  }, 240_000);
});

/** How many lines of datagrams there are. */
const shownIn = (text: string) => text.match(/^{"event":"datagram"/gm)?.length ?? 0;

describe("a reader that has gone", () => {
  const to = (port: number) => ["--source", "self", "--to", `127.0.0.1:${port}`];

  test("does not end forward", async () => {
    const args = ["forward", ...own, ...to(await echo())].join(" ");
    const line = `{ ${tproxy.join(" ")} ${args}; echo "status $?" >&2; } | head -n 1`;
    const running = started([], ["sh", "-c", line]);
    const [, port] = await running.until(/127\.0\.0\.1:(\d+)\D/);
    const [pid] = pidsOf(running.pid);
    for (let i = 0; i < 3; i++) await exchange(Number(port), [new Uint8Array(1)]);
    await eventually("it says so", () => running.stderr() !== "");
    expect((await exchange(Number(port), [new Uint8Array(1)])).length).toBe(1);
    process.kill(pid as number, "SIGTERM");
    expect((await running.finished()).stderr).toBe(
      "tproxy: standard output: EPIPE: nobody reads the log, and the traffic goes on\nstatus 0\n",
    );
  });

  test("ends forward with --log-lossless", async () => {
    const args = ["forward", ...own, ...to(await echo()), "--log-lossless"].join(" ");
    const line = `{ ${tproxy.join(" ")} ${args}; echo "status $?" >&2; } | head -n 1`;
    const running = started([], ["sh", "-c", line]);
    const [, port] = await running.until(/127\.0\.0\.1:(\d+)\D/);
    await eventually("the end", () => {
      void exchange(Number(port), [new Uint8Array(1)]);
      return running.stderr() === "status 141\n";
    });
  });
});

/** The processes named tproxy below a shell. */
function pidsOf(parent: number): number[] {
  const { stdout } = Bun.spawnSync(["ps", "-eo", "pid=,ppid=,args="]);
  const rows = String(stdout)
    .trim()
    .split("\n")
    .map((row) => row.trim().split(/\s+/));
  const below = rows.filter(([, ppid]) => Number(ppid) === parent);
  return below.flatMap(([pid = "", , name = ""]) => [
    ...(name === tproxy[0] ? [Number(pid)] : []),
    ...pidsOf(Number(pid)),
  ]);
}

test("--quiet: failures that a peer causes are a few lines and a count", async () => {
  const unanswered = createSocket("udp4");
  unanswered.bind(0, "127.0.0.1");
  await once(unanswered, "listening");
  const { port: closed } = unanswered.address();
  unanswered.close();
  const { proxy, port } = await forward(closed, "--udp", "--quiet", "--json");
  for (let i = 0; i < 300; i++) {
    const socket = createSocket("udp4");
    socket.send("x", port, "127.0.0.1", () => socket.close());
    await once(socket, "close");
  }
  const failed = () => Number(eventsOf(proxy, "counters").at(-1)?.failed_sessions ?? 0);
  await eventually("all have failed", () => {
    proxy.kill("SIGUSR1");
    return failed() >= 250;
  });
  proxy.kill("SIGTERM");
  await proxy.finished();
  const lines = eventsOf(proxy, "forwarded").length;
  expect(lines).toBe(10);
  const counts = eventsOf(proxy, "warning").flatMap(
    ({ text }) => /^udp: refused by upstream \((\d+) more\)$/.exec(String(text))?.[1] ?? [],
  );
  expect(lines + counts.reduce((sum, count) => sum + Number(count), 0)).toBeGreaterThanOrEqual(250);
  expect(eventsOf(proxy, "warning").length).toBeLessThan(10);
});

describe("--log-time", () => {
  const firstLine = async (args: readonly string[], env: Record<string, string> = {}) => {
    const running = start(["listen", ...own, ...args], { env });
    const [line] = await running.until(/.*\n/);
    running.kill("SIGTERM");
    await running.finished();
    return line;
  };

  test("is local with its offset, UTC, or none; --json has its own", async () => {
    const bound = "\\[\\+\\] Bound to tcp://127\\.0\\.0\\.1:\\d+\\n$";
    const time = "\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}";
    const berlin = await firstLine([], { TZ: "Asia/Kolkata" });
    expect(berlin).toMatch(new RegExp(`^${time}\\+05:30 ${bound}`));
    expect(Math.abs(Date.parse(berlin.split(" ")[0] as string) - Date.now())).toBeLessThan(60_000);
    expect(await firstLine(["--log-time", "utc"])).toMatch(new RegExp(`^${time}Z ${bound}`));
    expect(await firstLine(["--log-time", "none"])).toMatch(new RegExp(`^${bound}`));
    expect(await firstLine(["--json"])).toMatch(/^{"event":"bound","time":"[^"]*Z"/);
  });

  test("the journal has its own time, and gets the priority of each line", async () => {
    // What systemd sets: the device and inode of the stream.
    const script =
      'exec 3>&1; JOURNAL_STREAM=$(stat -Lc %d:%i /dev/fd/3); export JOURNAL_STREAM; exec "$@"';
    const prefix = ["sh", "-c", script, "sh"];
    const running = start(["listen", ...own], { prefix });
    const [, port] = await running.until(/Bound to tcp:\/\/127\.0\.0\.1:(\d+)\n/);
    await exchange(Number(port), [new TextEncoder().encode("<0>[!] forged\n\n<0>more")]);
    await running.until(/more/);
    running.kill("SIGTERM");
    await running.finished();
    const lines = running
      .stdout()
      .split("\n")
      .filter((line) => line !== "");
    expect(lines[0]).toStartWith("<6>[+] Bound to ");
    expect(lines).toContain("<6><0>[!] forged");
    expect(lines.filter((line) => !line.startsWith("<6>"))).toEqual([]);
    const plain = start(["listen", ...own, "--json"], { prefix });
    expect((await plain.until(/.*\n/))[0]).toStartWith('{"event":"bound"');
    plain.kill("SIGTERM");
    await plain.finished();
    const failing = start(["forward", ...own, "--source", "self", "--to", "127.0.0.1:1"], {
      prefix,
    });
    const [, entry] = await failing.until(/Bound to tcp:\/\/127\.0\.0\.1:(\d+)\n/);
    await exchange(Number(entry), []);
    await failing.until(/^<4>\[-\] .*Connection refused/m);
    failing.kill("SIGTERM");
    await failing.finished();
  });
});

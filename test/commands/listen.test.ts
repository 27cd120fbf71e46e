import { afterEach, describe, expect, test } from "bun:test";
import { connect, type Socket } from "node:net";
import {
  descriptors,
  eventually,
  listening,
  type Running,
  run,
  start,
  timeless,
  tproxy,
} from "../helpers/tproxy.ts";

const running: Running[] = [];
const isRoot = process.getuid?.() === 0;
// Without privileges the same tests run on own addresses, without IP_TRANSPARENT.
const plain = isRoot ? [] : ["--no-transparent"];

async function listen(...args: string[]) {
  const started = await listening([...plain, ...args]);
  running.push(started.server);
  return started;
}

afterEach(async () => {
  for (const server of running.splice(0)) {
    server.kill("SIGKILL");
    await server.finished();
  }
});

interface Peer {
  readonly socket: Socket;
  readonly connected: Promise<void>;
  /** Everything received, when the other side has ended or the connection has failed. */
  readonly received: Promise<Buffer>;
}

function peer(port: number, host = "127.0.0.1"): Peer {
  const socket = connect({ port, host, allowHalfOpen: true });
  const chunks: Buffer[] = [];
  const received = new Promise<Buffer>((resolve) => {
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    socket.on("end", () => resolve(Buffer.concat(chunks)));
    socket.on("close", () => resolve(Buffer.concat(chunks)));
  });
  const connected = new Promise<void>((resolve, reject) => {
    socket.on("connect", () => resolve());
    socket.on("error", reject);
  });
  connected.catch(() => {});
  return { socket, connected, received };
}

async function ask(port: number, text: string, host?: string): Promise<string> {
  const { socket, received } = peer(port, host);
  socket.end(text);
  return (await received).toString();
}

/** How many descriptors a server has once its last connection is closed. */
async function settled(server: Running): Promise<number> {
  let count = -1;
  await eventually("the count is steady", () => {
    const last = count;
    count = descriptors(server.pid).length;
    return count === last;
  });
  return count;
}

describe("the seed's server", () => {
  test("prints the seed's transcript and answers hello world", async () => {
    const { server, port } = await listen("127.0.0.1:0");
    expect(await ask(port, "GET / HTTP/1.1\r\nHost: 8.8.8.8\r\n\r\n")).toBe("hello world\n");
    await server.until(/Host: 8\.8\.8\.8/);
    server.kill("SIGINT");
    const { status, stdout } = await server.finished();
    expect(
      timeless(stdout).replace(/tcp:\/\/127\.0\.0\.1:(?!PORT)\d+ to/, "tcp://127.0.0.1:CLIENT to"),
    ).toBe(
      `[+] Bound to tcp://127.0.0.1:${port}\n` +
        `[ ] Connection from tcp://127.0.0.1:CLIENT to tcp://127.0.0.1:${port}\n` +
        "GET / HTTP/1.1\nHost: 8.8.8.8\n\n",
    );
    expect(status).toBe(0);
  });

  test("a client that asks and waits gets its answer without closing first", async () => {
    const { port } = await listen("127.0.0.1:0");
    const { socket, received } = peer(port);
    socket.write("question");
    expect((await received).toString()).toBe("hello world\n");
    socket.end();
  });

  test("a client that ends without a word is answered too", async () => {
    const { port } = await listen("127.0.0.1:0");
    expect(await ask(port, "")).toBe("hello world\n");
  });

  test("control characters of a peer never reach the terminal", async () => {
    const { server, port } = await listen("127.0.0.1:0");
    await ask(port, "\x1b[31mred\x07\x00\u202e");
    await server.until(/\\x1b\[31mred\\x07\\x00\\u\{202e\}\n/);
  });

  test("--reply, --reply-file, --echo and --discard", async () => {
    const first = await listen("--reply", "good day", "127.0.0.1:0");
    expect(await ask(first.port, "x")).toBe("good day\n");
    const file = await listen("--reply-file", import.meta.path, "127.0.0.1:0");
    expect(await ask(file.port, "x")).toBe(await Bun.file(import.meta.path).text());
    const echo = await listen("--echo", "127.0.0.1:0");
    expect(await ask(echo.port, "ping")).toBe("ping");
    const discard = await listen("--discard", "127.0.0.1:0");
    expect(await ask(discard.port, "ping")).toBe("");
  });

  test("several addresses at once, each with its protocol", async () => {
    const server = start([
      "listen",
      ...plain,
      "127.0.0.1:0",
      "tcp://127.0.0.2:0",
      "udp://127.0.0.1:0",
    ]);
    running.push(server);
    const match = await server.until(
      /tcp:\/\/127\.0\.0\.1:(\d+)\n.*tcp:\/\/127\.0\.0\.2:(\d+)\n.*udp:\/\/127\.0\.0\.1:(\d+)\n/,
    );
    expect(await ask(Number(match[1]), "a")).toBe("hello world\n");
    expect(await ask(Number(match[2]), "b", "127.0.0.2")).toBe("hello world\n");
  });

  test("[::] serves both families and shows IPv4 peers as what they are", async () => {
    const { server, port } = await listen("[::]:0");
    expect(await ask(port, "four", "127.0.0.1")).toBe("hello world\n");
    expect(await ask(port, "six", "::1")).toBe("hello world\n");
    await server.until(/from tcp:\/\/127\.0\.0\.1:\d+ to tcp:\/\/127\.0\.0\.1:/);
    await server.until(/from tcp:\/\/\[::1\]:\d+ to tcp:\/\/\[::1\]:/);
  });

  test("--max ends with status 0 after so many, and lets the last one finish", async () => {
    const { server, port } = await listen("--max", "3", "127.0.0.1:0");
    for (let i = 0; i < 3; i++) expect(await ask(port, "x")).toBe("hello world\n");
    expect((await server.finished()).status).toBe(0);
  });

  test("--quiet shows no connections; --json is one object a line", async () => {
    const quiet = await listen("--quiet", "127.0.0.1:0");
    await ask(quiet.port, "x");
    quiet.server.kill("SIGTERM");
    expect(timeless((await quiet.server.finished()).stdout)).toBe(
      `[+] Bound to tcp://127.0.0.1:${quiet.port}\n`,
    );

    const server = start(["listen", ...plain, "--json", "127.0.0.1:0"]);
    running.push(server);
    const [, port] = await server.until(/"address":"127\.0\.0\.1:(\d+)"/);
    await ask(Number(port), "caf\u00e9");
    await server.until(/"forwarded"/);
    server.kill("SIGTERM");
    const lines = (await server.finished()).stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(lines.map((line) => line.event)).toEqual(["bound", "accepted", "data", "forwarded"]);
    expect(lines[2]).toMatchObject({ text: "caf\u00e9", bytes: 5, id: 1, protocol: "tcp" });
    expect(lines[3]).toMatchObject({ reason: "done", client_bytes: 5, upstream_bytes: 12 });
  });

  test("--workers share one port", async () => {
    const { port } = await listen("--workers", "3", "127.0.0.1:0");
    for (let i = 0; i < 30; i++) expect(await ask(port, "x")).toBe("hello world\n");
  });
});

describe("many at once", () => {
  test("2,000 connections, resets and silent ones among them; no descriptor is left", async () => {
    const { server, port } = await listen("--echo", "--quiet", "127.0.0.1:0");
    // An answer shows that the Worker runs, and has opened what it needs for itself.
    await ask(port, "x");
    const before = await settled(server);
    const peers = Array.from({ length: 2000 }, () => peer(port));
    await Promise.all(peers.map(({ connected }) => connected));
    await eventually("all are accepted", () => descriptors(server.pid).length >= before + 2000);
    const answers: Promise<string>[] = [];
    peers.forEach(({ socket, received }, index) => {
      if (index % 4 === 0) socket.resetAndDestroy();
      else if (index % 4 === 1) socket.destroy();
      else if (index % 4 === 2) {
        socket.end(`echo ${index}`);
        answers.push(received.then((bytes) => bytes.toString()));
      }
    });
    const expected = peers.flatMap((_, index) => (index % 4 === 2 ? [`echo ${index}`] : []));
    expect(await Promise.all(answers)).toEqual(expected);
    await eventually("only the silent ones are open", () => {
      return descriptors(server.pid).length === before + 500;
    });
    for (const { socket } of peers) socket.destroy();
    await eventually("none is left", () => descriptors(server.pid).length === before);
    expect(await ask(port, "still here")).toBe("still here");
  }, 240_000);

  test("a peer that stalls holds up nobody and costs no memory", async () => {
    const { server, port } = await listen("--echo", "--quiet", "127.0.0.1:0");
    await ask(port, "x");
    const before = await settled(server);
    const stalled = Array.from({ length: 20 }, () => peer(port));
    await Promise.all(stalled.map(({ connected }) => connected));
    for (const { socket } of stalled) {
      socket.pause();
      socket.removeAllListeners("data");
      socket.write(Buffer.alloc(8 * 1024 * 1024, "x"));
    }
    for (let i = 0; i < 20; i++) expect(await ask(port, `${i}`)).toBe(`${i}`);
    for (const { socket } of stalled) socket.destroy();
    await eventually("all are gone", () => descriptors(server.pid).length === before);
  });

  test("32 MiB each way through --echo on 8 connections, every byte as sent", async () => {
    const { port } = await listen("--echo", "--quiet", "127.0.0.1:0");
    const block = crypto.getRandomValues(new Uint8Array(64 * 1024));
    const hashes = await Promise.all(
      Array.from({ length: 8 }, async () => {
        const { socket, received } = peer(port);
        for (let i = 0; i < 64; i++) {
          if (!socket.write(block)) await new Promise((resolve) => socket.once("drain", resolve));
        }
        socket.end();
        return Bun.hash(await received);
      }),
    );
    const whole = new Uint8Array(64 * block.length);
    for (let i = 0; i < 64; i++) whole.set(block, i * block.length);
    expect(new Set(hashes)).toEqual(new Set([Bun.hash(whole)]));
  });

  test("a reply of 8 MiB reaches a slow reader whole", async () => {
    const path = `${process.env.TMPDIR ?? "/tmp"}/tproxy-reply-${process.pid}`;
    const bytes = crypto.getRandomValues(new Uint8Array(65_536));
    const reply = Buffer.concat(Array.from({ length: 128 }, () => bytes));
    await Bun.write(path, reply);
    try {
      const { port } = await listen("--reply-file", path, "--quiet", "127.0.0.1:0");
      const { socket, received } = peer(port);
      socket.write("x");
      socket.on("data", () => {
        socket.pause();
        setImmediate(() => socket.resume());
      });
      expect(Bun.hash(await received)).toBe(Bun.hash(reply));
    } finally {
      await Bun.file(path).delete();
    }
  });

  test("at the limit on descriptors accepting pauses, logs it once, and goes on", async () => {
    const server = start(["listen", ...plain, "--discard", "127.0.0.1:0"], {
      prefix: ["prlimit", "--nofile=128:128"],
    });
    running.push(server);
    const [, port] = await server.until(/Bound to tcp:\/\/127\.0\.0\.1:(\d+)\D/);
    const peers = Array.from({ length: 200 }, () => peer(Number(port)));
    await Promise.all(peers.map(({ connected }) => connected));
    const used = () => descriptors(server.pid).length;
    await eventually("it holds what it may", () => used() > 60);
    for (const { socket } of peers) socket.destroy();
    await eventually("it has taken and closed them all", () => {
      return (server.stdout().match(/Connection from/g) ?? []).length === 200;
    });
    await eventually("none is left", () => used() < 60);
  });

  test("a silent connection is closed after --timeout, and the others are not", async () => {
    const { server, port } = await listen("--echo", "--timeout", "300ms", "127.0.0.1:0");
    const silent = peer(port);
    await silent.connected;
    expect((await silent.received).length).toBe(0);
    await server.until(/Silent for too long: tcp:\/\/127\.0\.0\.1:/);
    expect(await ask(port, "x")).toBe("x");
  });
});

describe("its end", () => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    test(`${signal} closes everything and the status is 0`, async () => {
      const { server, port } = await listen("--echo", "127.0.0.1:0");
      const open = peer(port);
      await open.connected;
      await server.until(/Connection from/);
      server.kill(signal);
      expect((await server.finished()).status).toBe(0);
      expect((await open.received).length).toBe(0);
      expect(await ask(port, "x").catch(() => "refused")).toBe("");
    });
  }

  test("a reader of its output that goes away ends it", async () => {
    const command = [...tproxy, "listen", ...plain, "127.0.0.1:0"].join(" ");
    // `head` takes one line and closes the pipe; tproxy learns of it at its next line.
    const shell = Bun.spawn(["sh", "-c", `${command} | head -n 1`], { stdout: "pipe" });
    const { value } = await shell.stdout.getReader().read();
    const [, port] = new TextDecoder().decode(value).match(/:(\d+)\n/) ?? [];
    expect(Number(port)).toBeGreaterThan(0);
    await ask(Number(port), "x").catch(() => "");
    // The shell waits for both sides of the pipe, so its end is tproxy's.
    expect(await shell.exited).toBe(0);
  });

  test("a taken address is refused in one line", async () => {
    const { port } = await listen("127.0.0.1:0");
    const { status, stderr, stdout } = await run(["listen", ...plain, `127.0.0.1:${port}`]);
    expect(stderr).toMatch(
      /^tproxy: Cannot bind tcp:\/\/127\.0\.0\.1:\d+: EADDRINUSE: port \d+ is held here by tproxy/,
    );
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
    expect(stdout).toBe("");
    expect(status).toBe(1);
  });
});

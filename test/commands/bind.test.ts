import { afterEach, describe, expect, test } from "bun:test";
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import type { Socket } from "node:net";
import { cleanUp, cleanups, backend as tcpServer } from "../helpers/forward.ts";
import { type Running, run, start } from "../helpers/tproxy.ts";

const isRoot = process.getuid?.() === 0;
const plain = isRoot ? [] : ["--no-transparent"];
const foreign = test.skipIf(!isRoot);

afterEach(cleanUp);

function begin(...args: string[]): Running {
  const running = start(["bind", ...plain, ...args]);
  cleanups.push(async () => {
    running.kill("SIGKILL");
    await running.finished();
  });
  return running;
}

interface UdpPeer {
  readonly socket: UdpSocket;
  readonly port: number;
  readonly seen: string[];
}

/** A UDP peer on loopback that answers each datagram with `answer`'s text. */
async function udpPeer(answer: (text: string) => string | undefined): Promise<UdpPeer> {
  const socket = createSocket("udp4");
  const seen: string[] = [];
  socket.on("message", (bytes, from) => {
    seen.push(`${from.address}:${from.port} ${bytes.length} ${bytes.toString().slice(0, 40)}`);
    const text = answer(bytes.toString());
    if (text !== undefined) socket.send(text, from.port, from.address);
  });
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  cleanups.push(() => socket.close());
  return { socket, port: socket.address().port, seen };
}

describe("bind without --to", () => {
  test("holds an own address, says so, and prints what arrives until SIGINT", async () => {
    const holder = begin("127.0.0.1:0");
    const [, port] = await holder.until(
      / \[\+\] Bound to udp:\/\/127\.0\.0\.1:(\d+)\n {4}127\.0\.0\.1 is an address of this host\n/,
    );
    const peer = await udpPeer(() => undefined);
    peer.socket.send("good morning", Number(port), "127.0.0.1");
    await holder.until(
      /Datagram from udp:\/\/127\.0\.0\.1:\d+ to udp:\/\/127\.0\.0\.1:\d+\ngood morning\n/,
    );
    holder.kill("SIGINT");
    expect((await holder.finished()).status).toBe(0);
    expect(peer.seen).toEqual([]);
  });

  foreign("holds an address that the host does not own", async () => {
    const holder = begin("192.0.2.8:8080");
    await holder.until(/192\.0\.2\.8 is not an address of this host: bound by IP_TRANSPARENT\n/);
    holder.kill("SIGTERM");
    expect((await holder.finished()).status).toBe(0);
  });

  test(":PORT is every address, and said to be", async () => {
    const any = await run(["bind", ...plain, ":0", "--timeout", "1ms"]);
    expect(any.stdout).toMatch(
      / \[\+\] Bound to udp:\/\/0\.0\.0\.0:\d+\n {4}0\.0\.0\.0 stands for every/,
    );
    const any6 = await run(["bind", ...plain, "[::]:0", "--timeout", "1ms"]);
    expect(any6.stdout).toMatch(/Bound to udp:\/\/\[::\]:\d+\n {4}:: stands for every address/);
  });

  test("--no-transparent: the kernel's refusal, explained", async () => {
    const { status, stderr, stdout } = await run(["bind", "192.0.2.8:8080", "--no-transparent"]);
    expect(stderr).toBe(
      "tproxy: Cannot bind udp://192.0.2.8:8080: " +
        "EADDRNOTAVAIL (Cannot assign requested address) " +
        "because 192.0.2.8 is not an address of this host, net.ipv4.ip_nonlocal_bind is 0 and " +
        "the socket has neither IP_TRANSPARENT nor IP_FREEBIND\n",
    );
    expect(stdout).toBe("");
    expect(status).toBe(1);
  });

  test("IPv6 the same, and --freebind binds without privilege", async () => {
    const refused = await run(["bind", "[2001:db8::9]:8080", "--no-transparent"]);
    expect(refused.stderr).toContain("because 2001:db8::9 is not an address of this host");
    expect(refused.status).toBe(1);
    for (const address of ["192.0.2.8:8080", "[2001:db8::9]:8080"]) {
      const free = await run([
        "bind",
        address,
        "--no-transparent",
        "--freebind",
        "--timeout",
        "1ms",
      ]);
      expect(free.stdout).toContain("is not an address of this host: bound by IP_FREEBIND");
      expect(free.status).toBe(0);
    }
  });

  test("--tcp prints what a connection brings and answers nothing", async () => {
    const holder = begin("--tcp", "127.0.0.1:0");
    const [, port] = await holder.until(/Bound to tcp:\/\/127\.0\.0\.1:(\d+)\D/);
    const answer = await run(
      ["bind", ...plain, "--tcp", "127.0.0.1:0", "--to", `127.0.0.1:${port}`],
      {
        input: "anyone?",
      },
    );
    expect(answer).toMatchObject({ status: 0, stdout: "" });
    await holder.until(/anyone\?\n/);
  });

  test("--json", async () => {
    const { stdout, status } = await run([
      "bind",
      ...plain,
      "127.0.0.1:0",
      "--json",
      "--timeout",
      "1ms",
    ]);
    expect(JSON.parse(stdout)).toMatchObject({
      event: "bound",
      protocol: "udp",
      local: true,
      transparent: isRoot,
    });
    expect(status).toBe(0);
  });

  test("--device of an interface that is not there names those that are", async () => {
    const { stderr, status } = await run(["bind", ...plain, "127.0.0.1:0", "--device", "nope0"]);
    expect(stderr).toMatch(/there is no interface "nope0": this host has lo/);
    expect(status).toBe(1);
  });
});

describe("bind --to over UDP", () => {
  test("each line is a datagram, replies are printed, the rest is on standard error", async () => {
    const peer = await udpPeer((text) => `<${text}>`);
    const { status, stdout, stderr } = await run(
      ["bind", ...plain, "127.0.0.1:0", "--to", `127.0.0.1:${peer.port}`, "--timeout", "300ms"],
      { input: "one\n\nthree without an end" },
    );
    expect(stdout).toBe("<one>\n<>\n<three without an end>\n");
    expect(stderr).toMatch(
      /^\[\+\] Bound to udp:\/\/127\.0\.0\.1:\d+, sending to 127\.0\.0\.1:\d+\n/,
    );
    expect(status).toBe(0);
    expect(peer.seen.map((line) => line.split(" ")[1])).toEqual(["3", "0", "20"]);
  });

  foreign("--send one datagram from a foreign address: the peer sees that address", async () => {
    const peer = await udpPeer(() => undefined);
    const to = `127.0.0.1:${peer.port}`;
    const sent = await run([
      "bind",
      "192.0.2.8:8080",
      "--to",
      to,
      "--send",
      "hi",
      "--timeout",
      "1ms",
    ]);
    expect(sent.status).toBe(0);
    expect(peer.seen).toEqual(["192.0.2.8:8080 2 hi"]);
  });

  test("a refusal by ICMP is told, and the status is 1", async () => {
    const peer = await udpPeer(() => undefined);
    const { port } = peer;
    await new Promise<void>((resolve) => peer.socket.close(() => resolve()));
    cleanups.pop();
    const { status, stderr } = await run([
      "bind",
      ...plain,
      "127.0.0.1:0",
      "--to",
      `127.0.0.1:${port}`,
      "--send",
      "x",
    ]);
    expect(stderr).toMatch(/\[!\] udp: Connection refused \(ECONNREFUSED\)/);
    expect(status).toBe(1);
  });

  test("a line that no datagram can hold is said, the next one is sent", async () => {
    const peer = await udpPeer(() => undefined);
    const { stderr } = await run(
      ["bind", ...plain, "127.0.0.1:0", "--to", `127.0.0.1:${peer.port}`, "--timeout", "100ms"],
      { input: `${"x".repeat(200_000)}\nshort\n` },
    );
    expect(stderr).toMatch(/EMSGSIZE/);
    expect(peer.seen.map((line) => line.split(" ")[2])).toEqual(["short"]);
  });

  test("5,000 lines arrive in order", async () => {
    const peer = await udpPeer(() => undefined);
    peer.socket.setRecvBufferSize(8 * 1024 * 1024);
    const lines = Array.from({ length: 5000 }, (_, index) => `line-${index}`);
    await run(
      ["bind", ...plain, "127.0.0.1:0", "--to", `127.0.0.1:${peer.port}`, "--timeout", "300ms"],
      { input: `${lines.join("\n")}\n` },
    );
    const seen = peer.seen.map((line) => line.split(" ")[2] as string);
    const order = seen.map((line) => Number(line.slice(5)));
    expect(order).toEqual([...order].sort((a, b) => a - b));
    expect(new Set(order).size).toBe(order.length);
    expect(order.length).toBeGreaterThan(0);
  });
});

describe("bind --to over TCP", () => {
  test("pipes both ways, and passes each half-close on", async () => {
    const port = await tcpServer((socket) => {
      const chunks: Buffer[] = [];
      socket.on("data", (chunk: Buffer) => chunks.push(chunk));
      // Answers only after the client has ended its side: without a half-close this never comes.
      socket.on("end", () => socket.end(`got ${Buffer.concat(chunks).length}`));
    });
    const { status, stdout } = await run(
      ["bind", ...plain, "--tcp", "127.0.0.1:0", "--to", `127.0.0.1:${port}`],
      { input: "x".repeat(300_000) },
    );
    expect(stdout).toBe("got 300000");
    expect(status).toBe(0);
  });

  test("a peer that has ended and then resets costs no processor time", async () => {
    const { promise: peer, resolve } = Promise.withResolvers<Socket>();
    const port = await tcpServer((socket) => {
      socket.end("all");
      resolve(socket);
    });
    const running = begin("--tcp", "127.0.0.1:0", "--to", `127.0.0.1:${port}`);
    await running.until(/all/);
    (await peer).resetAndDestroy();
    const busyMs = () => {
      const stat = readFileSync(`/proc/${running.pid}/stat`, "latin1").split(") ")[1] ?? "";
      const [user, system] = stat.split(" ").slice(11, 13).map(Number);
      return 10 * ((user ?? 0) + (system ?? 0));
    };
    const before = busyMs();
    await Bun.sleep(500);
    expect(busyMs() - before).toBeLessThan(250);
  });

  test("32 MiB each way at once, every byte as sent", async () => {
    const port = await tcpServer((socket) => socket.pipe(socket));
    const block = crypto.getRandomValues(new Uint8Array(1024 * 1024));
    const input = Buffer.concat(Array.from({ length: 32 }, () => block));
    const path = `${process.env.TMPDIR ?? "/tmp"}/tproxy-bind-${process.pid}`;
    const { tproxy } = await import("../helpers/tproxy.ts");
    await Bun.write(path, input);
    cleanups.push(() => Bun.file(path).delete());
    const args = ["bind", ...plain, "--tcp", "127.0.0.1:0", "--to", `127.0.0.1:${port}`];
    // From a file and through a pipe: epoll watches the one and not the other.
    for (const stdin of [Bun.file(path), new Blob([input])]) {
      const child = Bun.spawn([...tproxy, ...args], { stdin, stdout: "pipe", stderr: "ignore" });
      const output = await new Response(child.stdout).arrayBuffer();
      expect(Bun.hash(output)).toBe(Bun.hash(input));
      expect(await child.exited).toBe(0);
    }
  });

  foreign("connects from a foreign address of this host's loopback network", async () => {
    let client = "";
    const port = await tcpServer((socket) => {
      client = `${socket.remoteAddress}:${socket.remotePort}`;
      socket.end("bye");
    });
    const args = ["bind", "tcp://127.9.9.9:12345", "--to", `127.0.0.1:${port}`];
    const { stdout, status } = await run(args, { input: "" });
    expect(client).toBe("127.9.9.9:12345");
    expect(stdout).toBe("bye");
    expect(status).toBe(0);
  });

  test("nobody listens: one line, status 1", async () => {
    const port = await tcpServer(() => {});
    await cleanups.pop()?.();
    const { stderr, status } = await run([
      "bind",
      ...plain,
      "--tcp",
      "127.0.0.1:0",
      "--to",
      `127.0.0.1:${port}`,
    ]);
    expect(stderr).toMatch(
      /^tproxy: Cannot reach tcp:\/\/127\.0\.0\.1:\d+: ECONNREFUSED: nothing listens/m,
    );
    expect(status).toBe(1);
  });

  test("a reset in the middle is a failure, and SIGINT a cut-off", async () => {
    const port = await tcpServer((socket) => socket.once("data", () => socket.resetAndDestroy()));
    const args = ["--tcp", "127.0.0.1:0", "--to", `127.0.0.1:${port}`];
    const reset = begin(...args);
    reset.write("x");
    expect((await reset.finished()).status).toBe(1);
    expect(reset.stderr()).toMatch(/ECONNRESET/);

    const silent = await tcpServer(() => {});
    const cut = begin("--tcp", "127.0.0.1:0", "--to", `127.0.0.1:${silent}`);
    await Bun.sleep(0);
    cut.write("x");
    while (!cut.stderr().includes("Bound to")) await Bun.sleep(5);
    cut.kill("SIGINT");
    expect((await cut.finished()).status).toBe(130);
  });

  test("a name is looked up", async () => {
    const port = await tcpServer((socket) => socket.end("by name"));
    const args = ["bind", ...plain, "--tcp", "127.0.0.1:0", "--to", `localhost:${port}`];
    expect((await run(args, { input: "" })).stdout).toBe("by name");
  });
});

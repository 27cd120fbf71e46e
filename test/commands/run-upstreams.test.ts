/** Upstreams of a running process, as an administrator drains, takes down and weighs them. */

import { afterEach, expect, test } from "bun:test";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isStatic } from "../helpers/static-file.ts";
import { eventually, run, start } from "../helpers/tproxy.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** A server that greets with its name, and echoes; its port. */
async function server(name: string): Promise<number> {
  const listening = createServer((socket) => {
    socket.on("error", () => {});
    socket.write(name);
    socket.pipe(socket);
  }).listen(0, "127.0.0.1");
  await once(listening, "listening");
  cleanups.push(() => listening.close());
  return (listening.address() as { port: number }).port;
}

/** An open connection: what it was greeted with, and whether it still carries. */
class Open {
  readonly socket: Socket;
  received = "";
  isClosed = false;

  constructor(port: number) {
    this.socket = connect(port, "127.0.0.1");
    this.socket.on("data", (chunk) => {
      this.received += chunk;
    });
    this.socket.on("error", () => {});
    this.socket.on("close", () => {
      this.isClosed = true;
    });
    cleanups.push(() => this.socket.destroy());
  }

  async greeted(): Promise<string> {
    await eventually("it is greeted", () => this.received !== "" || this.isClosed);
    return this.received;
  }

  async echoes(): Promise<void> {
    const before = this.received.length;
    this.socket.write("still there");
    await eventually("it echoes", () => this.received.length === before + 11);
  }
}

/** A running proxy of two upstreams, `a` and `b`, and the commands of its administrator. */
async function serve() {
  const [a, b] = await Promise.all([server("a"), server("b")]);
  const home = mkdtempSync(join(tmpdir(), "tproxy-upstreams-"));
  cleanups.push(() => rmSync(home, { recursive: true }));
  const file = join(home, "tproxy.toml");
  const socket = join(home, "admin.sock");
  writeFileSync(
    file,
    `[admin]\nsocket = "${socket}"
    [[pool]]\nname = "web"\non-down = "close"
    [[pool.upstream]]\nname = "a"\nto = "127.0.0.1:${a}"
    [[pool.upstream]]\nname = "b"\nto = "127.0.0.1:${b}"
    [[service]]\nname = "s"\nlisten = "127.0.0.1:0"\npool = "web"\nsource = "self"
    transparent = false\n`,
  );
  const proxy = start(["run", "-c", file]);
  cleanups.push(async () => {
    proxy.kill("SIGKILL");
    await proxy.finished();
  });
  const port = Number((await proxy.until(/Bound to tcp:\/\/127\.0\.0\.1:(\d+)\D/))[1]);
  const admin = async (...args: string[]) => {
    const [command = "", ...rest] = args;
    return run([command, ...rest, "--admin", socket]);
  };
  const done = async (...args: string[]) => {
    const { status, stderr } = await admin(...args);
    expect([status, stderr]).toEqual([0, ""]);
  };
  return { proxy, port, admin, done };
}

interface Status {
  readonly pid: number;
  readonly pools: readonly {
    readonly upstreams: readonly {
      readonly name: string;
      readonly state: string;
      readonly weight: number;
      readonly addresses: readonly { readonly counters: Readonly<Record<string, number>> }[];
    }[];
  }[];
}

test("drain, down, ready and weights; on-down = close; the last one stays", async () => {
  const { proxy, port, admin, done } = await serve();
  const greetings = async (count: number) => {
    const names: string[] = [];
    for (let i = 0; i < count; i++) {
      const open = new Open(port);
      names.push(await open.greeted());
      open.socket.destroy();
    }
    return names.sort().join("");
  };
  const both = [new Open(port), new Open(port)];
  const names = [await both[0]?.greeted(), await both[1]?.greeted()];
  expect([...names].sort()).toEqual(["a", "b"]);
  const [ofA, ofB] = (names[0] === "a" ? both : both.toReversed()) as [Open, Open];

  await done("drain", "web/a");
  expect(await greetings(4)).toBe("bbbb");
  await ofA.echoes();
  await done("down", "web/a");
  await eventually("its connection is closed", () => ofA.isClosed);
  await proxy.until(/its upstream is down/);
  const last = await admin("down", "web/b");
  expect(last.status).toBe(1);
  expect(last.stderr).toContain("no other upstream of pool web takes connections");
  await ofB.echoes();

  await done("ready", "web/a");
  await done("ready", "web/b", "--weight", "25");
  expect(await greetings(10)).toBe("aaaaaaaabb");
  expect((await admin("ready", "web/b", "--weight", "257")).status).toBe(2);
  expect((await admin("drain", "web/c")).status).not.toBe(0);
  const status = JSON.parse((await admin("status", "--json")).stdout);
  const [first, second] = status.pools[0].upstreams;
  expect(first).toMatchObject({ name: "a", state: "up", weight: 100, admin: "ready" });
  expect(second).toMatchObject({ name: "b", weight: 25, addresses: [{ counters: { open: 1 } }] });
  expect(second.addresses[0].counters.connects).toBe(1 + 4 + 2);
});

test.skipIf(!isStatic)(
  "what was asked for and counted goes on over an upgrade",
  async () => {
    const { proxy, port, admin, done } = await serve();
    const status = async () => JSON.parse((await admin("status", "--json")).stdout) as Status;
    for (let i = 0; i < 4; i++) {
      const open = new Open(port);
      await open.greeted();
      open.socket.destroy();
    }
    await done("drain", "web/a");
    await done("ready", "web/b", "--weight", "7");
    proxy.kill("SIGUSR2");
    const [, pid] = await proxy.until(/process (\d+) serves now/);
    cleanups.push(() => {
      try {
        process.kill(Number(pid), "SIGKILL");
      } catch {
        // It has ended.
      }
    });
    // The old process closes its admin socket a moment later.
    let after = await status();
    while (after.pid !== Number(pid)) after = await status();
    const [a, b] = after.pools[0]?.upstreams ?? [];
    expect(a).toMatchObject({
      state: "drained",
      weight: 100,
      addresses: [{ counters: { open: 0 } }],
    });
    expect(b).toMatchObject({ state: "up", weight: 7 });
    const connects = [a, b].map((each) => each?.addresses[0]?.counters.connects);
    expect(connects).toEqual([2, 2]);
    const next = new Open(port);
    expect(await next.greeted()).toBe("b");
    next.socket.destroy();
    process.kill(Number(pid), "SIGTERM");
    await proxy.finished();
  },
  240_000,
);

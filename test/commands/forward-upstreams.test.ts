import { afterEach, expect, test } from "bun:test";
import { once } from "node:events";
import { connect, createServer, type Server } from "node:net";
import { freePort } from "../helpers/ports.ts";
import { eventually, type Running, start } from "../helpers/tproxy.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** A server at `address` that answers with its name and closes; its port. */
async function backend(name: string, address = "127.0.0.1", port = 0): Promise<number> {
  const server: Server = createServer((socket) => {
    socket.on("error", () => {});
    socket.end(name);
  });
  return listen(server, port, address);
}

async function listen(server: Server, at = 0, address = "127.0.0.1"): Promise<number> {
  server.listen(at, address);
  await once(server, "listening");
  cleanups.push(() => server.close());
  return (server.address() as { port: number }).port;
}

async function forward(...args: string[]): Promise<{ proxy: Running; port: number; ask: Ask }> {
  const proxy = start(["forward", "--no-transparent", "--source", "self", "127.0.0.1:0", ...args]);
  cleanups.push(async () => {
    proxy.kill("SIGKILL");
    await proxy.finished();
  });
  const [, port] = await proxy.until(/Bound to tcp:\/\/127\.0\.0\.1:(\d+)\n/);
  return { proxy, port: Number(port), ask: (from) => answer(Number(port), from) };
}

type Ask = (from?: string) => Promise<string>;

/** What a connection from `from` gets; empty if it is refused. */
async function answer(port: number, from = "127.0.0.1"): Promise<string> {
  const socket = connect({ port, host: "127.0.0.1", localAddress: from });
  let text = "";
  socket.on("data", (chunk) => {
    text += chunk;
  });
  socket.on("error", () => {});
  await new Promise((resolve) => socket.on("close", resolve));
  return text;
}

test("a dead upstream backs off after three failures, said once; clients see none", async () => {
  const [dead, alive] = [freePort(), await backend("alive")];
  const { proxy, ask } = await forward("--to", `127.0.0.1:${dead}`, "--to", `127.0.0.1:${alive}`);
  for (let i = 0; i < 12; i++) expect(await ask()).toBe("alive");
  const rests = `upstream 127.0.0.1:${dead} backs off for 10 s: 3 failures in a row`;
  const reason = "connect: Connection refused \\(ECONNREFUSED\\)";
  await proxy.until(new RegExp(`\\[!\\] ${rests}, the last: ${reason}\n`));
  expect(proxy.stdout().match(/ backs off /g)).toHaveLength(1);
});

test("when all rest one is tried all the same, and is back once it answers", async () => {
  const dead = freePort();
  const { proxy, ask } = await forward("--to", `127.0.0.1:${dead}`);
  for (let i = 0; i < 4; i++) expect(await ask()).toBe("");
  await proxy.until(/backs off for 10 s/);
  await backend("again", "127.0.0.1", dead);
  expect(await ask()).toBe("again");
  await proxy.until(new RegExp(`\\[!\\] upstream 127.0.0.1:${dead} is back\n`));
});

test("--balance least-connections: what has ended, in whatever way, does not count", async () => {
  let held = 0;
  const holding = createServer((socket) => {
    socket.on("error", () => {});
    socket.write("held");
    held++;
  });
  let ended = 0;
  const ending = createServer((socket) => {
    socket.on("error", () => {});
    // A reset before anything is said would be one of the connect, and another would stand in.
    socket.once("data", () => {
      const way = ended++ % 3;
      if (way === 0) socket.resetAndDestroy();
      else if (way === 1) socket.end("bye");
      else socket.write("reset me");
    });
  });
  const ports = [await listen(holding), await listen(ending), freePort()];
  const to = ports.flatMap((port) => ["--to", `127.0.0.1:${port}`]);
  const { proxy, port } = await forward("--balance", "least-connections", ...to);
  for (let i = 0; i < 20; i++) {
    const socket = connect({ port, host: "127.0.0.1" });
    cleanups.push(() => socket.destroy());
    const seen: unknown[] = [];
    for (const event of ["connect", "data", "end", "error", "close"]) {
      socket.on(event, (value) => seen.push(`${event} ${value ?? ""}`));
    }
    socket.write("hello");
    socket.on("end", () => socket.end());
    socket.on("data", (text) => String(text) === "reset me" && socket.resetAndDestroy());
    const isOver = () => held + (proxy.stdout().match(/ bytes out, /g)?.length ?? 0) > i;
    await eventually("it is held or has ended", isOver, () => ({ i, held, ended, seen, ports }));
  }
  expect([held, ended]).toEqual([1, 19]);
});

test("--balance source-hash: a client's connections stay together", async () => {
  const ports = await Promise.all(["a", "b", "c"].map((name) => backend(name)));
  const to = ports.flatMap((port) => ["--to", `127.0.0.1:${port}`]);
  const { ask } = await forward("--balance", "source-hash", ...to);
  const names = new Set<string>();
  for (let host = 1; host <= 20; host++) {
    const from = `127.0.0.${host}`;
    const first = await ask(from);
    for (let i = 0; i < 3; i++) expect(await ask(from)).toBe(first);
    names.add(first);
  }
  expect([...names].toSorted()).toEqual(["a", "b", "c"]);
});

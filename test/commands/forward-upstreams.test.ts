import { afterEach, expect, test } from "bun:test";
import { once } from "node:events";
import { connect, createServer, type Server } from "node:net";
import { type Running, start } from "../helpers/tproxy.ts";

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
  server.listen(port, address);
  await once(server, "listening");
  cleanups.push(() => server.close());
  return (server.address() as { port: number }).port;
}

/** A port on which nothing listens: one that the kernel chose a moment ago. */
async function deadPort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

async function forward(...args: string[]): Promise<{ proxy: Running; ask: Ask }> {
  const proxy = start(["forward", "--no-transparent", "--source", "self", "127.0.0.1:0", ...args]);
  cleanups.push(async () => {
    proxy.kill("SIGKILL");
    await proxy.finished();
  });
  const [, port] = await proxy.until(/Bound to tcp:\/\/127\.0\.0\.1:(\d+)/);
  return { proxy, ask: (from) => answer(Number(port), from) };
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

test("a dead upstream rests after three failures, said once; clients see none", async () => {
  const [dead, alive] = [await deadPort(), await backend("alive")];
  const { proxy, ask } = await forward("--to", `127.0.0.1:${dead}`, "--to", `127.0.0.1:${alive}`);
  for (let i = 0; i < 12; i++) expect(await ask()).toBe("alive");
  const rests = `upstream 127.0.0.1:${dead} rests for 10 s: 3 failures in a row`;
  const reason = "connect: Connection refused \\(ECONNREFUSED\\)";
  await proxy.until(new RegExp(`\\[!\\] ${rests}, the last: ${reason}\n`));
  expect(proxy.stdout().match(/ rests /g)).toHaveLength(1);
});

test("when all rest one is tried all the same, and is back once it answers", async () => {
  const dead = await deadPort();
  const { proxy, ask } = await forward("--to", `127.0.0.1:${dead}`);
  for (let i = 0; i < 4; i++) expect(await ask()).toBe("");
  await proxy.until(/rests for 10 s/);
  await backend("again", "127.0.0.1", dead);
  expect(await ask()).toBe("again");
  await proxy.until(new RegExp(`\\[!\\] upstream 127.0.0.1:${dead} is back\n`));
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

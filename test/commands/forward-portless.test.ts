/** Upstreams without a port: each connection goes on to the port that its client has asked for. */

import { afterEach, expect, test } from "bun:test";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer } from "node:net";
import { cleanUp, cleanups, eventsOf, exchange } from "../helpers/forward.ts";
import { runServer } from "../helpers/run.ts";
import { eventually, run, start } from "../helpers/tproxy.ts";
import { ask, udpPeer } from "../helpers/udp.ts";

afterEach(cleanUp);

/** Servers at two ports of 127.0.0.2, which name the port; the first one, free at 127.0.0.1 too. */
async function servers(): Promise<number> {
  for (let attempt = 0; attempt < 50; attempt++) {
    const first = 20_000 + 2 * Math.floor(Math.random() * 5_000);
    const opened = await Promise.all(
      [first, first + 1].flatMap((port) => [
        ...["127.0.0.1", "127.0.0.2"].map((host) => serveTcp(port, host)),
        ...["127.0.0.1", "127.0.0.2"].map((host) => serveUdp(port, host)),
      ]),
    );
    const isFree = opened.every((close) => close !== undefined);
    for (const [i, close] of opened.entries()) {
      // Those at 127.0.0.1 have shown that the proxy gets its ports.
      if (!isFree || i % 2 === 0) await close?.();
      else cleanups.push(() => close?.());
    }
    if (isFree) return first;
  }
  throw new Error("no two ports are free");
}

async function serveTcp(port: number, host: string) {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.on("data", () => {});
    socket.on("end", () => socket.end(`port ${port}`));
  });
  server.on("connection", (socket) => cleanups.push(() => socket.destroy()));
  const isOpen = await listens(server, () => server.listen({ port, host }));
  return isOpen ? () => new Promise<void>((done) => server.close(() => done())) : undefined;
}

async function serveUdp(port: number, host: string) {
  const socket = createSocket("udp4");
  socket.on("message", (_, from) => socket.send(`port ${port}`, from.port, from.address));
  const isOpen = await listens(socket, () => socket.bind(port, host));
  return isOpen ? () => new Promise<void>((done) => socket.close(() => done())) : undefined;
}

/** Whether an emitter says that it listens. */
async function listens(emitter: NodeJS.EventEmitter, begin: () => void): Promise<boolean> {
  const failed = once(emitter, "error").then(() => false);
  const opened = once(emitter, "listening").then(() => true);
  begin();
  return Promise.race([opened, failed]).catch(() => false);
}

async function goesOn(first: number): Promise<void> {
  for (const port of [first, first + 1]) {
    expect(String(await exchange(port, [Buffer.from("x")]))).toBe(`port ${port}`);
    expect(await ask(await udpPeer(), port, "x")).toBe(`port ${port}`);
  }
}

test("run: a range of ports, TCP and UDP, one to one", async () => {
  const first = await servers();
  const range = `127.0.0.1:${first}-${first + 1}`;
  const { proxy } = await runServer(
    `[[service]]
     name = "ports"
     listen = ["${range}", "udp://${range}"]
     to = "127.0.0.2"
     source = "self"
     transparent = false`,
    2,
  );
  await goesOn(first);
  await eventually("the lines", () => eventsOf(proxy, "forwarded").length === 2);
  const upstreams = eventsOf(proxy, "forwarded").map(({ upstream }) => upstream);
  expect(upstreams).toEqual([`127.0.0.2:${first}`, `127.0.0.2:${first + 1}`]);
});

test("forward: the same by flags; an upstream that refuses is the next one's turn", async () => {
  const first = await servers();
  const args = ["--tcp", "--udp", "--no-transparent", "--source", "self", "--json"];
  const to = ["--to", "127.0.0.3", "--to", "127.0.0.2"];
  const proxy = start(["forward", `127.0.0.1:${first}-${first + 1}`, ...args, ...to]);
  cleanups.push(async () => {
    proxy.kill("SIGKILL");
    await proxy.finished();
  });
  await eventually("its listeners", () => eventsOf(proxy, "bound").length === 2);
  for (const port of [first, first + 1]) {
    expect(String(await exchange(port, [Buffer.from("x")]))).toBe(`port ${port}`);
  }
});

test("forward: to its own port is to itself", async () => {
  const args = ["--no-transparent", "--source", "self", "--to", "127.0.0.1"];
  const { status, stderr } = await run(["forward", "127.0.0.1:29999", ...args]);
  expect([status, stderr]).toEqual([
    2,
    "tproxy: --to 127.0.0.1:29999 is this proxy itself: give the address of the server\n",
  ]);
});

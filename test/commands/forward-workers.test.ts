/** Workers of `forward` that die. The tproxy here is the sources, with a Worker that is mortal. */

import { afterEach, expect, test } from "bun:test";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { backend, cleanUp, cleanups, exchange, forwardBy } from "../helpers/forward.ts";
import { descriptors, eventually } from "../helpers/tproxy.ts";

afterEach(cleanUp);

const mortal = {
  command: [process.execPath, join(import.meta.dir, "..", "helpers", "mortal-tproxy.ts")],
};

function open(port: number): Socket {
  const socket = connect({ port, host: "127.0.0.1" });
  socket.on("error", () => {});
  cleanups.push(() => socket.destroy());
  return socket;
}

/** Makes the Worker die that this connection comes to. */
async function kill(port: number): Promise<void> {
  const socket = connect({ port, host: "127.0.0.1", localAddress: "127.0.0.66" });
  const [error] = await once(socket, "error");
  expect(error.code).toBe("ECONNRESET");
}

/** What kinds of descriptors are open, and how many of each. */
function census(pid: number): Record<string, number> {
  const kinds: Record<string, number> = {};
  for (const name of descriptors(pid)) {
    const kind = name.replace(/:?\[\d+\]$/, "");
    kinds[kind] = (kinds[kind] ?? 0) + 1;
  }
  return kinds;
}

test("one that dies is reported and replaced, and the others never notice", async () => {
  const port = await backend((socket) => socket.pipe(socket));
  const { proxy, port: entry } = await forwardBy(mortal, port, "--workers", "2", "--json");
  const sockets = Array.from({ length: 24 }, () => open(entry));
  const broken = new Set<Socket>();
  const received = new Map<Socket, number>();
  for (const socket of sockets) {
    socket.on("error", () => broken.add(socket));
    // Whatever comes back is sent again: traffic that never rests.
    socket.on("data", (chunk) => {
      received.set(socket, (received.get(socket) ?? 0) + chunk.length);
      socket.write(chunk);
    });
    socket.write("x".repeat(1000));
  }
  await eventually("all are carried", () => received.size === sockets.length);
  await kill(entry);
  const [line] = await proxy.until(/.*"died".*/);
  const died = JSON.parse(line);
  expect(died).toMatchObject({ error: "deadly", replaced: true });
  await eventually("its connections are reset", () => broken.size === died.lost);
  expect(died.lost).toBeGreaterThan(0);
  expect(died.lost).toBeLessThan(24);
  const survivors = sockets.filter((socket) => !broken.has(socket));
  const before = new Map(received);
  await eventually("the others go on", () =>
    survivors.every((socket) => (received.get(socket) ?? 0) > (before.get(socket) ?? 0) + 5000),
  );
  expect(broken.size).toBe(died.lost);
  // Both share the new ones: one of 24 in a row reaches the Worker that is new.
  for (let turn = 0; turn < 24; turn++) {
    const answer = await exchange(entry, [new TextEncoder().encode(`${turn}`)]);
    expect(answer.toString()).toBe(`${turn}`);
  }
}, 240_000);

test("nothing of it stays open, neither connections nor pipes nor its epoll", async () => {
  const held: Socket[] = [];
  const port = await backend((socket) => {
    if (held.push(socket.pause()) === 1) socket.end("first");
  });
  const { proxy, port: entry } = await forwardBy(mortal, port, "--quiet");
  const { socket: own } = census(proxy.pid);
  // From here on the Worker runs, with what its runtime has open.
  expect((await exchange(entry, [])).toString()).toBe("first");
  await eventually("the first is gone", () => census(proxy.pid).socket === own);
  // A pool of pipes may have been begun.
  const { pipe: _, ...before } = census(proxy.pid);
  const sockets = Array.from({ length: 8 }, () => open(entry));
  const resets = sockets.map((socket) => once(socket, "error"));
  const much = Buffer.alloc(64 * 1024 * 1024);
  for (const socket of sockets) socket.write(much);
  await eventually("pipes hold what the backend does not take", () => {
    return (census(proxy.pid).pipe ?? 0) >= 16;
  });
  await kill(entry);
  await proxy.until(/\[!\] Worker 1 died with 8 connections, another takes its place: deadly\n/);
  for (const [error] of await Promise.all(resets)) expect(error.code).toMatch(/ECONNRESET|EPIPE/);
  await eventually("as many are open as in the beginning", () =>
    Bun.deepEquals(census(proxy.pid), before),
  );
  for (const socket of held) socket.destroy();
}, 240_000);

test("what connects while there is no Worker waits for the next one", async () => {
  const port = await backend((socket) => socket.pipe(socket));
  const { port: entry } = await forwardBy(mortal, port, "--quiet");
  const dying = kill(entry);
  const answers = Array.from({ length: 20 }, (_, turn) =>
    exchange(entry, [new TextEncoder().encode(`${turn}`)]),
  );
  await dying;
  const texts = (await Promise.all(answers)).map(String);
  expect(texts.filter((text, turn) => text === `${turn}`).length).toBeGreaterThan(0);
  for (const [turn, text] of texts.entries()) expect([`${turn}`, ""]).toContain(text);
  expect((await exchange(entry, [new TextEncoder().encode("new")])).toString()).toBe("new");
});

test("when they die again and again the process ends, and says so", async () => {
  const { proxy, port: entry } = await forwardBy(mortal, 1, "--workers", "2");
  // Those that are queued kill the next Workers as soon as these accept: 6 in 10 s on any machine.
  await Promise.allSettled(Array.from({ length: 30 }, () => kill(entry)));
  const { status, stdout, stderr } = await proxy.finished();
  expect(stderr).toBe("tproxy: workers died 6 times within 10 s, the last of: deadly\n");
  expect(stdout.match(/another takes its place/g)?.length).toBeGreaterThanOrEqual(5);
  expect(status).toBe(1);
});

test("one that dies while it is told to end is not replaced", async () => {
  const port = await backend((socket) => socket.pipe(socket));
  const { proxy, port: entry } = await forwardBy(mortal, port, "--workers", "1");
  const held = open(entry);
  held.write("x");
  await once(held, "data");
  // Both are seen in one turn or the connection is refused; the process ends in either case.
  const dying = connect({ port: entry, host: "127.0.0.1", localAddress: "127.0.0.66" });
  dying.on("error", () => {});
  proxy.kill("SIGTERM");
  held.end();
  expect((await proxy.finished()).status).toBe(0);
});

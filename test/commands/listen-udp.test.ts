/** `listen --udp` on loopback: who is answered what, and what is told of it. */

import { afterEach, expect, test } from "bun:test";
import { cleanUp, cleanups } from "../helpers/forward.ts";
import { type Running, start } from "../helpers/tproxy.ts";
import { ask, udpPeer } from "../helpers/udp.ts";

afterEach(cleanUp);

async function listen(...args: string[]): Promise<{ server: Running; port: number }> {
  const server = start(["listen", "--udp", "--no-transparent", "--json", "127.0.0.1:0", ...args]);
  cleanups.push(async () => {
    server.kill("SIGKILL");
    await server.finished();
  });
  const [, port] = await server.until(/"address":"127\.0\.0\.1:(\d+)"/);
  return { server, port: Number(port) };
}

/** The datagrams that it tells of, by the end. */
async function told(server: Running): Promise<Record<string, unknown>[]> {
  const { stdout } = await server.finished();
  const lines = stdout.split("\n").filter((line) => line.includes('"event":"datagram"'));
  return lines.map((line) => JSON.parse(line));
}

test("many at once of several clients: each gets its own, every size, in order", async () => {
  const { server, port } = await listen("--echo");
  const clients = [await udpPeer(), await udpPeer(), await udpPeer()];
  const sizes = [0, 1, 1200, 0, 7, 40, 40, 40, 1200, 2];
  for (const [number, size] of sizes.entries()) {
    for (const client of clients) client.send(port, String(number).repeat(size));
  }
  for (const [number, size] of sizes.entries()) {
    for (const client of clients) {
      const { text, from } = await client.next();
      expect([text, from.port]).toEqual([String(number).repeat(size), port]);
    }
  }
  const [first] = clients;
  const largest = "x".repeat(65_507);
  expect((await ask(first as (typeof clients)[0], port, largest)) === largest).toBe(true);
  server.kill("SIGTERM");
  const datagrams = await told(server);
  const bySender = Map.groupBy(datagrams, ({ client }) => client);
  expect(bySender.size).toBe(3);
  for (const client of clients) {
    const sent = bySender
      .get(`127.0.0.1:${client.port}`)
      ?.map(({ upstream_bytes }) => upstream_bytes);
    expect(sent).toEqual(client === first ? [...sizes, largest.length] : sizes);
  }
});

test("--max ends after so many, however many have come at once", async () => {
  const { server, port } = await listen("--reply", "once", "--max", "3");
  const client = await udpPeer();
  for (let number = 0; number < 10; number++) client.send(port, `${number}`);
  for (let number = 0; number < 3; number++) expect((await client.next()).text).toBe("once\n");
  expect((await told(server)).map(({ text, upstream_bytes }) => [text, upstream_bytes])).toEqual([
    ["0", 5],
    ["1", 5],
    ["2", 5],
  ]);
  expect((await server.finished()).status).toBe(0);
});

test("--discard answers nothing, and tells of all", async () => {
  const { server, port } = await listen("--discard");
  const client = await udpPeer();
  for (const text of ["one", "two"]) client.send(port, text);
  await server.until(/"text":"two"/);
  server.kill("SIGTERM");
  expect((await told(server)).map(({ upstream_bytes }) => upstream_bytes)).toEqual([0, 0]);
});

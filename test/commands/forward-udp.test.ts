/** `forward --udp` on loopback, without privileges: what it tells, what it takes and refuses. */

import { afterEach, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { connect } from "node:net";
import { backend, cleanUp, cleanups, events, eventsOf, forward } from "../helpers/forward.ts";
import { eventually, timeless } from "../helpers/tproxy.ts";
import { ask, type UdpPeer, udpPeer } from "../helpers/udp.ts";

afterEach(cleanUp);

const echo = () => udpPeer((data) => data);

describe("the access log", () => {
  test("tells of a session what it tells of a connection, by the same names", async () => {
    const { port } = await echo();
    const { proxy, port: entry } = await forward(port, "--udp", "--json", "--log-level", "debug");
    const client = await udpPeer();
    await ask(client, entry, "one");
    await ask(client, entry, "three");
    proxy.kill("SIGTERM");
    await proxy.finished();
    const session = {
      protocol: "udp",
      worker: 1,
      id: "1.1.1",
      client: `127.0.0.1:${client.port}`,
      original_destination: `127.0.0.1:${entry}`,
    };
    const where = { upstream: `127.0.0.1:${port}`, source: "self", ms: expect.any(Number) };
    const time = expect.any(String);
    expect(events(proxy).slice(1)).toEqual([
      { event: "accepted", time, level: "debug", ...session },
      { event: "reached", time, level: "debug", ...session, ...where },
      {
        ...{ event: "forwarded", time, level: "info", ...session, ...where },
        ...{ client_bytes: 8, upstream_bytes: 8, client_datagrams: 2, upstream_datagrams: 2 },
        ...{ ended_by: "proxy", reason: "stopped" },
      },
    ]);
  });

  test.each([
    ["error", []],
    ["warning", ["[-]"]],
    ["info", ["[ ]", "[-]"]],
    ["debug", ["[.]", "[.]", "[.]", "[ ]", "[-]"]],
  ])("at the level %s", async (level, signs) => {
    const { port } = await echo();
    const log = ["--udp", "--udp-timeout", "100ms", "--log-level", level];
    const good = await forward(port, ...log);
    await ask(await udpPeer(), good.port, "x");
    const refused = await forward(1, ...log);
    (await udpPeer()).send(refused.port, "x");
    /** What it has said by its end, which comes once it has no session any more. */
    const signsOf = async ({ proxy }: typeof good) => {
      const counters = () => proxy.stdout().match(/(?<= )sessions \d, active sessions \d/g) ?? [];
      while (counters().at(-1) !== "sessions 1, active sessions 0") {
        const before = counters().length;
        proxy.kill("SIGUSR1");
        await eventually("counters", () => counters().length > before);
      }
      proxy.kill("SIGTERM");
      return timeless((await proxy.finished()).stdout).match(/^\[[ .-]\]/gm) ?? [];
    };
    const shown = [...(await signsOf(good)), ...(await signsOf(refused))];
    expect(shown.toSorted()).toEqual(signs.toSorted());
  });
});

describe("SIGUSR1", () => {
  test("prints the sessions too, and all before the counters; the traffic goes on", async () => {
    const { port } = await echo();
    const log = ["--json", "--quiet", "--workers", "2"];
    const { proxy, port: entry } = await forward(port, "--udp", ...log);
    const clients: UdpPeer[] = [];
    for (let i = 0; i < 300; i++) {
      const client = await udpPeer();
      await ask(client, entry, "first");
      clients.push(client);
    }
    await ask(clients[0] as UdpPeer, entry, "second");
    proxy.kill("SIGUSR1");
    await eventually("the table is complete", () => eventsOf(proxy, "counters").length === 3);
    const rows = eventsOf(proxy, "open");
    expect(new Set(rows.map(({ client }) => client))).toEqual(
      new Set(clients.map((client) => `127.0.0.1:${client.port}`)),
    );
    const rowOf = (client: UdpPeer | undefined) =>
      rows.find((row) => row.client === `127.0.0.1:${client?.port}`);
    const session = { protocol: "udp", upstream: `127.0.0.1:${port}`, source: "self" };
    expect(rowOf(clients[0])).toMatchObject({
      ...{ ...session, state: "confirmed", client_bytes: 11, upstream_bytes: 11 },
      ...{ client_datagrams: 2, upstream_datagrams: 2 },
    });
    expect(rowOf(clients[1])).toMatchObject({
      ...{ ...session, state: "answered", client_bytes: 5, upstream_bytes: 5 },
      ...{ client_datagrams: 1, upstream_datagrams: 1 },
      ...{ ms: expect.any(Number), idle_ms: expect.any(Number) },
    });
    expect(rows).toHaveLength(300);
    expect(events(proxy).at(-1)).toMatchObject({ event: "counters", active_sessions: 300 });
    expect(await ask(clients[299] as UdpPeer, entry, "third")).toBe("third");
  }, 240_000);

  test("of connections and sessions there is one table, before the counters", async () => {
    const { proxy } = await forward(await echoOfBoth(), "--tcp", "--udp", "--json", "--quiet");
    await eventually("both are bound", () => eventsOf(proxy, "bound").length === 2);
    const [tcp, udp] = eventsOf(proxy, "bound").map(({ address }) =>
      Number(`${address}`.split(":")[1]),
    );
    const socket = connect({ port: tcp as number, host: "127.0.0.1" });
    cleanups.push(() => socket.destroy());
    socket.write("x");
    await once(socket, "data");
    await ask(await udpPeer(), udp as number, "x");
    proxy.kill("SIGUSR1");
    await eventually("the counters of all", () => eventsOf(proxy, "counters").length === 2);
    const told = events(proxy).slice(2);
    expect(told.map(({ event, protocol }) => protocol ?? event)).toEqual([
      ...["tcp", "udp", "counters", "counters"],
    ]);
  });
});

/** One port at which both protocols are answered. */
async function echoOfBoth(): Promise<number> {
  for (;;) {
    const port = await backend((socket) => socket.pipe(socket));
    const peer = await udpPeer((data) => data, port).catch(() => undefined);
    if (peer !== undefined) return port;
  }
}

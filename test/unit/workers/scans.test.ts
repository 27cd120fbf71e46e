/** Queries and kills, in Workers over loopback and over simulated rows. */

import { afterEach, expect, test } from "bun:test";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { connect } from "node:net";
import { TimerWheel } from "../../../src/engine/timers.ts";
import { parseConnectionId } from "../../../src/workers/connection-id.ts";
import { ended } from "../../../src/workers/end-reason.ts";
import { WorkerPool } from "../../../src/workers/pool.ts";
import type { Command, WorkerEvent, WorkerMessage } from "../../../src/workers/protocol.ts";
import type { RowQuery } from "../../../src/workers/query.ts";
import { scannedRowsPerTurn, scansWaitingMax } from "../../../src/workers/scan-limits.ts";
import { ScanError, ScanRequests, type Selection } from "../../../src/workers/scan-requests.ts";
import { Scans } from "../../../src/workers/scans.ts";
import type { Open } from "../../../src/workers/table.ts";
import { backend, cleanUp, cleanups } from "../../helpers/forward.ts";
import { forwardTask, socketAt } from "../../helpers/forward-task.ts";
import { eventually } from "../../helpers/tproxy.ts";
import { udpPeer } from "../../helpers/udp.ts";

afterEach(cleanUp);

const entry = new URL("../../../src/worker.ts", import.meta.url);
const query: RowQuery = { filter: {}, sort: "age", limit: 10, rates: false };

/** A connection that is carried, and how it ends. */
async function connected(port: number) {
  const socket = connect({ port, host: "127.0.0.1" });
  const end = Promise.withResolvers<string>();
  socket.on("error", ({ code }: NodeJS.ErrnoException) => end.resolve(String(code)));
  socket.on("close", () => end.resolve("closed"));
  cleanups.push(() => socket.destroy());
  await once(socket, "data");
  return { socket, end: end.promise, client: `127.0.0.1:${socket.localPort}` };
}

test("what is killed is what its clients see, by id and by filter, of TCP and UDP", async () => {
  const events: WorkerEvent[] = [];
  const pool = new WorkerPool(async (batch) => void events.push(...batch));
  for (let worker = 0; worker < 2; worker++) pool.start(entry);
  const upstreamEnds: string[] = [];
  const upstream = await backend((socket) => {
    socket.on("error", ({ code }: NodeJS.ErrnoException) => upstreamEnds.push(String(code)));
    socket.write("hello");
  });
  const [first, second, datagrams] = [socketAt("tcp"), socketAt("tcp"), socketAt("udp")];
  const peer = await udpPeer();
  pool.add([forwardTask([first], upstream), forwardTask([second], upstream)]);
  pool.add([forwardTask([datagrams], peer.port)]);
  const one = await connected(first.port);
  const others = [
    await connected(first.port),
    await connected(second.port),
    await connected(second.port),
  ];
  const client = createSocket("udp4");
  cleanups.push(() => client.close());
  client.send("question", datagrams.port, "127.0.0.1");
  await eventually("the session", () => pool.counters().activeSessions === 1);

  const all = await pool.query(query);
  expect(all).toMatchObject({ total: 5, matched: 5 });
  expect(new Set(all.rows.map(({ id }) => id)).size).toBe(5);
  const known = [one, ...others].map(({ client }) => client);
  expect(all.rows.flatMap(({ protocol, client }) => (protocol === "tcp" ? client : []))).toEqual(
    known,
  );
  expect(all.rows[0]).toMatchObject({ service: "test", pool: "test-pool", state: "relaying" });
  const two = await pool.query({ ...query, limit: 2, filter: { state: "relaying" } });
  expect(two).toMatchObject({ total: 5, matched: 4 });
  expect(two.rows.map(({ id }) => id)).toEqual(all.rows.slice(0, 2).map(({ id }) => id));

  const kill = (...texts: string[]) => {
    const ids = texts.flatMap((text) => {
      const parsed = parseConnectionId(text);
      return parsed.ok ? [parsed.value] : [];
    });
    return pool.kill({ kind: "ids", ids });
  };
  const { id } = all.rows.find((row) => row.client === one.client) as { id: string };
  expect(await kill(id, id.replace(/\.1$/, ".2"), "1.99999.1")).toBe(1);
  expect(await one.end).toBe("ECONNRESET");
  await eventually("the upstream's reset", () => upstreamEnds.length === 1);
  expect(await kill(id)).toBe(0);

  const ofPort = { kind: "filter", filter: { original: { port: second.port } } } as const;
  expect(await pool.kill(ofPort)).toBe(2);
  expect(await Promise.all(others.slice(1).map(({ end }) => end))).toEqual([
    "ECONNRESET",
    "ECONNRESET",
  ]);
  expect(await pool.kill({ kind: "filter", filter: { state: "unanswered" } })).toBe(1);
  expect(pool.counters()).toMatchObject({ active: 1, activeSessions: 0 });
  // The session's client begins another one.
  client.send("question", datagrams.port, "127.0.0.1");
  await eventually("another session", () => pool.counters().activeSessions === 1);
  expect(await pool.kill({ kind: "filter", filter: {} })).toBe(2);
  expect(await others[0]?.end).toBe("ECONNRESET");
  await eventually("the lines", () => reasons(events).length === 6);
  expect(reasons(events)).toEqual(Array(6).fill("killed"));
  pool.stop();
  await pool.finished();
  expect(await pool.query(query)).toEqual({ total: 0, matched: 0, rows: [] });
});

function reasons(events: readonly WorkerEvent[]): unknown[] {
  return events.flatMap((event) => (event.kind === "forwarded" ? [event.end?.reason] : []));
}

test("rates are measured, for those that are asked for them", async () => {
  const pool = new WorkerPool(async () => {});
  pool.start(entry);
  const upstream = await backend((socket) => void socket.pipe(socket).write("hello"));
  const listener = socketAt("tcp");
  pool.add([forwardTask([listener], upstream)]);
  const [idle, busy] = [await connected(listener.port), await connected(listener.port)];
  const bytes = Buffer.alloc(1000);
  const sending = setInterval(() => busy.socket.write(bytes), 5);
  const { rows } = await pool.query({ ...query, sort: "rate", rates: true });
  clearInterval(sending);
  expect(rows.map(({ client }) => client)).toEqual([busy.client, idle.client]);
  expect(rows[0]?.rate?.client).toBeGreaterThan(0);
  expect((await pool.query(query)).rows[0]?.rate).toBeUndefined();
  await pool.kill({ kind: "filter", filter: {} });
  pool.stop();
  await pool.finished();
});

/** A row that is made up. */
function row(id: number): Open {
  const socket = { address: Uint8Array.of(127, 0, 0, 1), port: id % 65536, scopeId: 0 };
  return {
    ...{ protocol: "tcp", id, client: socket, original: socket, upstream: undefined, source: "" },
    ...{ phase: "relaying", sent: id, received: 0, sentDatagrams: 0, receivedDatagrams: 0 },
    ...{ startedAt: id, lastActive: id, end: undefined, sample: undefined },
    ...{ connectMs: 1, retries: 0 },
  };
}

/** A Worker's scans over rows that are made up, and a loop that turns by hand. */
function scans(count: number) {
  const open = new Set(Array.from({ length: count }, (_, index) => row(index + 1)));
  const messages: WorkerMessage[] = [];
  let deferred: (() => void)[] = [];
  const killed: number[] = [];
  const part = {
    open,
    names: { service: "web", pool: "web" },
    kill(one: Open) {
      killed.push(one.id);
      Object.assign(one, { end: ended("killed") });
      open.delete(one);
    },
  };
  const loop = {
    now: 1_000_000,
    timers: new TimerWheel(1_000_000),
    defer: (callback: () => void) => void deferred.push(callback),
  };
  const worker = new Scans({
    loop,
    rows: () => [part],
    lastId: count,
    post: (message) => void messages.push(message),
  });
  const turn = () => {
    const callbacks = deferred;
    deferred = [];
    for (const callback of callbacks) callback();
    return callbacks.length;
  };
  return { worker, open, messages, killed, turn };
}

test("a scan takes a bounded part of each turn, whatever comes and goes meanwhile", () => {
  const { worker, open, messages, turn } = scans(10 * scannedRowsPerTurn);
  worker.add({ kind: "query", request: 1, query: { ...query, sort: "bytes", limit: 3 } });
  let turns = 1;
  const last = [...open].at(-1) as Open;
  while (turn() > 0) {
    turns++;
    open.add(row(1_000_000 + turns));
    const [first] = open;
    open.delete(first as Open);
  }
  expect(turns).toBeGreaterThanOrEqual(10);
  const [answer] = messages;
  if (answer?.kind !== "rows") throw new Error("no rows");
  expect(answer.rows.total).toBe(10 * scannedRowsPerTurn);
  expect(answer.rows.extras.map(({ key }) => key)).toEqual([last.id, last.id - 1, last.id - 2]);
});

test("kills end few in a turn, and those that wait have their turn after them", () => {
  const { worker, messages, killed, turn } = scans(200);
  worker.add({ kind: "kill", request: 1, selection: { kind: "filter", filter: {} } });
  worker.add({ kind: "query", request: 2, query });
  expect(killed.length).toBeLessThan(50);
  while (turn() > 0);
  expect(killed.length).toBe(200);
  expect(messages.map((message) => message.kind)).toEqual(["killed", "rows"]);
  expect(messages[0]).toMatchObject({ ended: 200 });
  expect(messages[1]).toMatchObject({ rows: { total: 0 } });
});

test("a Worker that dies owes no answer, and too many that wait are rejected", async () => {
  const sent: Command[] = [];
  const worker = { number: 1, generation: 1, send: (command: Command) => void sent.push(command) };
  const requests = new ScanRequests(() => [worker]);
  const selection: Selection = { kind: "filter", filter: {} };
  const all = [requests.kill(selection)];
  await eventually("the first one", () => sent.length === 1);
  while (all.length <= scansWaitingMax) all.push(requests.kill(selection));
  const tooMany = requests.kill(selection).catch((error: unknown) => error);
  expect(await tooMany).toBeInstanceOf(ScanError);
  requests.gone(worker);
  expect(await all[0]).toBe(0);
  for (let at = 1; at < all.length; at++) {
    await eventually("the next one", () => sent.length === at + 1);
    const { request } = sent[at] as { request: number };
    requests.answered(worker, request - 1, { ended: 99 });
    requests.answered(worker, request, { ended: at });
    expect(await all[at]).toBe(at);
  }
});

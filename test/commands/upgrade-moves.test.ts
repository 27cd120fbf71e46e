/** Open connections move to the new process of an upgrade, whatever they are doing. */

import { afterEach, expect, test } from "bun:test";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { backend, cleanUp, cleanups, eventsOf } from "../helpers/forward.ts";
import { freePort } from "../helpers/ports.ts";
import { isStatic } from "../helpers/static-file.ts";
import { eventually, run } from "../helpers/tproxy.ts";
import { kill, service, upgradable, upgraded } from "../helpers/upgrading.ts";

afterEach(cleanUp);

/** What streams are made of: a prime number of bytes, so that nothing else has its period. */
const block = Buffer.from(
  Uint8Array.from({ length: 65_521 }, (_, at) => (Math.imul(at, 2654435761) >>> 16) & 0xff),
);
const twice = Buffer.concat([block, block]);

/** Bytes of the stream from `at` on, at most a block. */
const streamAt = (at: number) =>
  twice.subarray(at % block.length, (at % block.length) + block.length);

/** Checks a stream as it comes. */
class Checker {
  bytes = 0;
  isRight = true;

  take(chunk: Buffer): void {
    for (let at = 0; at < chunk.length; ) {
      const expected = streamAt(this.bytes);
      const part = chunk.subarray(at, at + expected.length);
      if (!part.equals(expected.subarray(0, part.length))) this.isRight = false;
      this.bytes += part.length;
      at += part.length;
    }
  }
}

/** Sends the stream until it is stopped, as the other side takes it; then ends. */
class Source {
  bytes = 0;
  private isStopped = false;
  private readonly socket: Socket;
  private readonly pauseMs: number;

  /** `pauseMs` behind each block; 0: as fast as the other side takes it. */
  constructor(socket: Socket, pauseMs = 0) {
    this.socket = socket;
    this.pauseMs = pauseMs;
    socket.on("drain", () => setTimeout(() => this.fill(), pauseMs));
    this.fill();
  }

  stop(): void {
    this.isStopped = true;
    this.socket.end();
  }

  private fill(): void {
    while (!this.isStopped) {
      const part = streamAt(this.bytes);
      this.bytes += part.length;
      if (!this.socket.write(part)) return;
      if (this.pauseMs > 0) return void setTimeout(() => this.fill(), this.pauseMs);
    }
  }
}

/** An upstream: the first byte of a connection is what it does there. */
function serve(socket: Socket, sources: Source[], late: Socket[]): void {
  socket.once("data", (first: Buffer) => {
    const rest = first.subarray(1);
    switch (String.fromCharCode(first[0] as number)) {
      case "e":
        socket.write(rest);
        return void socket.pipe(socket);
      case "d":
        return void sources.push(new Source(socket));
      case "u": {
        const checker = new Checker();
        checker.take(rest);
        socket.on("data", (chunk: Buffer) => checker.take(chunk));
        return void socket.on("end", () => {
          socket.end(`${checker.isRight} ${checker.bytes}`);
        });
      }
      case "h":
        socket.on("end", () => void late.push(socket));
        return void socket.resume();
      default:
        // Ends its stream at once, and reads on.
        socket.end("ended");
        late.push(socket);
    }
  });
}

/** A client that has said what it wants. */
async function client(port: number, want: string): Promise<Socket> {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  socket.on("error", (error) => socket.emit("problem", error));
  cleanups.push(() => socket.destroy());
  await once(socket, "connect");
  socket.write(want);
  return socket;
}

async function answer(socket: Socket, text: string): Promise<string> {
  const [data] = await Promise.all([once(socket, "data"), socket.write(text)]);
  return String((data as [Buffer])[0]);
}

/** Reads a stream, with so long a pause behind each chunk, and checks it. */
function reader(socket: Socket, pauseMs: number): Checker {
  const checker = new Checker();
  socket.on("data", (chunk: Buffer) => {
    checker.take(chunk);
    socket.pause();
    setTimeout(() => socket.resume(), pauseMs);
  });
  return checker;
}

interface Row {
  readonly id: string;
  readonly state: string;
  readonly client: string;
  readonly original: string;
  readonly upstream: string;
  readonly client_bytes: number;
  readonly ms: number;
}

async function rowsOf(admin: string, ...filter: string[]): Promise<Row[]> {
  const { stdout } = await run(["connections", "--admin", admin, "--json", ...filter]);
  const { connections } = JSON.parse(stdout) as { connections: Row[] };
  return connections.sort((a, b) => a.client.localeCompare(b.client));
}

async function countersOf(admin: string): Promise<Record<string, number>> {
  const { stdout } = await run(["status", "--admin", admin, "--json"]);
  return (JSON.parse(stdout) as { counters: Record<string, number> }).counters;
}

/** Connections of all kinds that have begun: what the test of them goes on with. */
async function opened(port: number, sources: Source[], late: Socket[]) {
  const idle = await Promise.all(Array.from({ length: 20 }, () => client(port, "e")));
  for (const socket of idle) expect(await answer(socket, "before")).toBe("before");
  const fast = await client(port, "d");
  const fastReader = reader(fast, 1);
  const slow = await client(port, "d");
  const slowReader = reader(slow, 60);
  const uploading = await client(port, "u");
  const upload = new Source(uploading, 2);
  const halfClosed = await client(port, "h");
  halfClosed.end();
  const endedFirst = await client(port, "x");
  const [[first]] = await Promise.all([once(endedFirst, "data"), once(endedFirst, "end")]);
  expect(String(first)).toBe("ended");
  await eventually("all of it", () => sources.length === 2 && late.length === 2);
  await eventually("full pipes", () => slowReader.bytes > 1_000_000);
  const streams = { fast, fastReader, slow, slowReader, uploading, upload };
  return { idle, ...streams, halfClosed, endedFirst };
}

/** The halves that are open yet carry something, and end. */
async function finishLate(late: readonly Socket[], endedFirst: Socket): Promise<void> {
  for (const socket of late) {
    if (!socket.writableEnded) {
      socket.end("late");
      continue;
    }
    const more = once(socket, "data");
    endedFirst.end("more");
    expect(String((await more)[0])).toBe("more");
  }
}

const mortal = join(import.meta.dir, "../helpers/mortal-upgrade.ts");

const configuration = (port: number, upstream: number) =>
  'workers = 2\ndrain-timeout = "60s"\n[log]\nformat = "json"\n' +
  // On a slow machine the test takes longer than the default.
  service("web", `127.0.0.1:${port}`, upstream, 'half-closed-timeout = "10m"\n');

test.skipIf(!isStatic)(
  "those that a new process has not taken over when it is killed go on in the old one",
  async () => {
    const port = freePort();
    const upstream = await backend((socket) => serve(socket, [], []));
    const running = await upgradable(configuration(port, upstream), /"event":"bound"/);
    const { proxy, admin, replace } = running;
    const idle = await Promise.all(Array.from({ length: 300 }, () => client(port, "e")));
    for (const socket of idle) expect(await answer(socket, "before")).toBe("before");
    const before = await rowsOf(admin, "--limit", "300");
    replace(`#!/bin/sh\nexec '${process.execPath}' '${mortal}' batch\n`);
    const pid = await upgraded(running, proxy.pid);
    await eventually("its end at the first batch", () => !kill(pid, 0));
    const answers = await Promise.all(idle.map((socket) => answer(socket, "after")));
    expect(answers).toEqual(idle.map(() => "after"));
    for (const socket of idle) socket.end();
    await eventually("their ends", () => eventsOf(proxy, "forwarded").length === 300);
    const logged = eventsOf(proxy, "forwarded");
    expect(logged.map(({ id }) => id).sort()).toEqual(before.map(({ id }) => id).sort());
    expect(logged.every(({ reason }) => reason === "done")).toBe(true);
    expect((await proxy.finished()).status).toBe(0);
  },
  240_000,
);

test.skipIf(!isStatic)(
  "idle ones, streams, slow readers and half-closed ones go on in the new process",
  async () => {
    const port = freePort();
    const sources: Source[] = [];
    const late: Socket[] = [];
    const upstream = await backend((socket) => serve(socket, sources, late));
    const running = await upgradable(configuration(port, upstream), /"event":"bound"/);
    const { proxy, admin } = running;
    const all = await opened(port, sources, late);
    const { idle, fast, fastReader, slow, slowReader, uploading, upload, halfClosed } = all;
    const before = await rowsOf(admin);
    expect(before.length).toBe(25);
    const pid = await upgraded(running, proxy.pid);
    // With nothing left to do it ends long before its drain time-out.
    await eventually("the end of the old process", () => !kill(proxy.pid, 0));
    expect(eventsOf(proxy, "moved")).toMatchObject([{ connections: 25 }]);
    const after = await rowsOf(admin);
    const facts = ({ id, state, client, original, upstream }: Row) => ({
      ...{ id, state, client, original, upstream },
    });
    expect(after.map(facts)).toEqual(before.map(facts));
    for (const [index, row] of after.entries()) {
      expect(row.ms).toBeGreaterThan(before[index]?.ms ?? 0);
      expect(row.client_bytes).toBeGreaterThanOrEqual(before[index]?.client_bytes ?? 0);
    }
    expect(await countersOf(admin)).toMatchObject({ accepted: 25, active: 25, failed: 0 });
    for (const socket of idle) expect(await answer(socket, "after")).toBe("after");
    // By the id that it has had from its beginning.
    const killed = idle.pop() as Socket;
    const of = (row: Row) => row.client === `127.0.0.1:${killed.localPort}`;
    const reset = Promise.race([once(killed, "problem"), once(killed, "close")]);
    const { stdout } = await run(["kill", "--admin", admin, after.find(of)?.id ?? ""]);
    expect(stdout).toBe("1 ended\n");
    await reset;
    // Everything goes on, and comes to its end.
    const [fastBefore, slowBefore] = [fastReader.bytes, slowReader.bytes];
    await eventually("more", () => fastReader.bytes > fastBefore && slowReader.bytes > slowBefore);
    upload.stop();
    expect(String((await once(uploading, "data"))[0])).toBe(`true ${upload.bytes}`);
    for (const source of sources) source.stop();
    const ends = [fast, slow, halfClosed].map((socket) => once(socket, "end"));
    await finishLate(late, all.endedFirst);
    expect(String((await once(halfClosed, "data"))[0])).toBe("late");
    slow.removeAllListeners("data").on("data", (chunk: Buffer) => slowReader.take(chunk));
    slow.resume();
    await Promise.all(ends);
    expect([fastReader.isRight, slowReader.isRight]).toEqual([true, true]);
    expect([fastReader.bytes, slowReader.bytes].sort()).toEqual(
      sources.map(({ bytes }) => bytes).sort(),
    );
    for (const socket of [...idle, fast, slow]) socket.end();
    await eventually("their ends", () => eventsOf(proxy, "forwarded").length === 25);
    const logged = eventsOf(proxy, "forwarded");
    expect(logged.map(({ id }) => id).sort()).toEqual(before.map(({ id }) => id).sort());
    const reasons = logged.map(({ reason }) => reason).sort();
    expect(reasons).toEqual([...new Array(24).fill("done"), "killed"]);
    const sum = (key: string) => logged.reduce((all, each) => all + Number(each[key]), 0);
    const counters = await countersOf(admin);
    expect(counters).toMatchObject({ accepted: 25, active: 0, failed: 1 });
    expect([counters.client_bytes, counters.upstream_bytes]).toEqual([
      sum("client_bytes"),
      sum("upstream_bytes"),
    ]);
    kill(pid, "SIGTERM");
    await eventually("its end", () => !kill(pid, 0));
  },
  240_000,
);

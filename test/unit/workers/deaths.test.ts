/** A Worker that dies with several services: nothing of them is lost, and nothing closed twice. */

import { afterEach, expect, test } from "bun:test";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { closeSync, openSync, readdirSync, readlinkSync } from "node:fs";
import { connect } from "node:net";
import { WorkerPool } from "../../../src/workers/pool.ts";
import type { ForwardTask, ServedSocket, WorkerEvent } from "../../../src/workers/protocol.ts";
import { backend, cleanUp, cleanups } from "../../helpers/forward.ts";
import { forwardTask, socketAt } from "../../helpers/forward-task.ts";
import { eventually } from "../../helpers/tproxy.ts";
import { udpPeer } from "../../helpers/udp.ts";

afterEach(cleanUp);

const entry = new URL("../../helpers/mortal-worker.ts", import.meta.url);

/** A pool of Workers that die of a connection from 127.0.0.66, and what it prints. */
function mortalPool() {
  const events: WorkerEvent[] = [];
  const pool = new WorkerPool(async (batch) => void events.push(...batch), { replaces: true });
  const deaths = () => events.flatMap((event) => (event.kind === "died" ? [event] : []));
  return { pool, deaths };
}

/** A task whose connections end with it. */
function task(sockets: readonly ServedSocket[], port: number): ForwardTask {
  const made = forwardTask(sockets, port);
  return { ...made, timeouts: { ...made.timeouts, drainMs: 0 } };
}

/** A server that sends its name and then echoes. */
const named = (name: string) => backend((socket) => void socket.pipe(socket).write(name));

/** A connection on which the server's name has come; `end` has the code of its end. */
async function open({ port }: ServedSocket) {
  const socket = connect({ port, host: "127.0.0.1" });
  cleanups.push(() => socket.destroy());
  const end = new Promise<string>((resolve) => {
    socket.on("error", ({ code }: Error & { code: string }) => resolve(code));
    socket.on("end", () => resolve("end"));
  });
  const name = String((await once(socket, "data"))[0]);
  socket.resume();
  return { socket, name, end };
}

/** Makes the Worker die that serves a socket. */
async function kill({ port }: ServedSocket): Promise<void> {
  const socket = connect({ port, host: "127.0.0.1", localAddress: "127.0.0.66" });
  const [error] = await once(socket, "error");
  expect(error.code).toBe("ECONNRESET");
}

/** What a descriptor of this process is; empty if it is closed. */
function target({ fd }: Pick<ServedSocket, "fd">): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return "";
  }
}

/** What all descriptors of this process are. */
function allOpen(): string[] {
  return readdirSync("/proc/self/fd").map((fd) => target({ fd: Number(fd) }));
}

/** Occupies the number of a descriptor that was closed with a file of our own. */
function occupy(socket: ServedSocket): string {
  const files: number[] = [];
  while (!files.includes(socket.fd)) {
    if (files.length > 1000) throw new Error(`${socket.fd} is ${target(socket)}`);
    files.push(openSync("/dev/null", "r"));
  }
  for (const fd of files) {
    if (fd === socket.fd) cleanups.push(() => closeSync(fd));
    else closeSync(fd);
  }
  return target(socket);
}

async function asked(socket: ServedSocket): Promise<string> {
  const client = createSocket("udp4");
  cleanups.push(() => client.close());
  const answer = once(client, "message");
  client.send("question", socket.port, "127.0.0.1");
  return String((await answer)[0]);
}

test("the next one has all services, on the same sockets, with what they had counted", async () => {
  const { pool, deaths } = mortalPool();
  const [first, second, echo] = [
    await named("first"),
    await named("second"),
    await udpPeer((data) => data),
  ];
  const sockets = [socketAt("tcp"), socketAt("tcp"), socketAt("udp")] as const;
  const [a, b, datagrams] = sockets;
  const before = sockets.map(target);
  pool.start(entry);
  const ids = [
    ...[pool.add([task([a], first)]), pool.add([task([b], second)])],
    pool.add([task([datagrams], echo.port)]),
  ];
  const connections = [await open(a), await open(b), await open(b)];
  expect(await asked(datagrams)).toBe("question");

  await kill(b);
  expect(await Promise.all(connections.map(({ end }) => end))).toEqual(
    Array(connections.length).fill("ECONNRESET"),
  );
  await eventually("the report", () => deaths().length === 1);
  // The connection that it died of is none of them: it was never counted.
  expect(deaths()).toMatchObject([{ lost: 3, lostSessions: 1, isReplaced: true }]);
  expect(sockets.map(target)).toEqual(before);

  const again = await Promise.all([open(a), open(b)]);
  expect(again.map(({ name }) => name)).toEqual(["first", "second"]);
  expect(await asked(datagrams)).toBe("question");
  const counted = ids.map((id) => pool.counters(id));
  expect(counted).toMatchObject([
    { accepted: 2, active: 1 },
    { accepted: 3, active: 1 },
    { sessions: 2, activeSessions: 1 },
  ]);
  pool.stop();
  await pool.finished();
  for (const socket of before) expect(allOpen()).not.toContain(socket);
});

test("while one is being removed: its descriptor is not closed again", async () => {
  const { pool, deaths } = mortalPool();
  const [staying, leaving] = [socketAt("tcp"), socketAt("tcp")];
  const server = await named("server");
  pool.start(entry);
  pool.add([task([staying], server)]);
  const removed = pool.add([task([leaving], server)]);
  const other = await open(leaving);
  // Its connection goes on, and the socket that it accepted at is closed.
  const [stays, leaves] = [target(staying), target(leaving)];
  const gone = pool.remove(removed, 60_000);
  await eventually("its listener's end", () => target(leaving) !== leaves);
  const file = occupy(leaving);

  await kill(staying);
  await gone;
  expect(await other.end).toBe("ECONNRESET");
  await eventually("the report", () => deaths().length === 1);
  // What has the number now is somebody else's, and was not closed with the Worker.
  expect(target(leaving)).toBe(file);
  expect((await open(staying)).name).toBe("server");
  expect(pool.counters(removed).accepted).toBe(0);
  expect(pool.counters().accepted).toBe(2);
  // The number of the service is given again.
  const next = socketAt("tcp");
  expect(pool.add([task([next], server)])).toBe(removed);
  expect((await open(next)).name).toBe("server");
  pool.stop();
  await pool.finished();
  expect(target(staying)).not.toBe(stays);
  expect(target(leaving)).toBe(file);
});

test("before it has removed one, or let go of a listener: both are closed", async () => {
  const { pool, deaths } = mortalPool();
  const [staying, leaving, closed, moved] = Array.from({ length: 4 }, () => socketAt("tcp")) as [
    ...[ServedSocket, ServedSocket, ServedSocket, ServedSocket],
  ];
  const server = await named("server");
  pool.start(entry);
  const kept = pool.add([task([staying, closed, moved], server)]);
  const removed = pool.add([task([leaving], server)]);
  await open(leaving);
  const all = [staying, moved, leaving, closed];
  const [stays, moves, leaves, closes] = all.map(target);
  // The connection waits in the queue when the Worker wakes for the commands, or the other way
  // round: whether it has carried them out by then makes no difference.
  const killed = kill(staying);
  pool.release(kept, [{ closed: [closed.fd], moved: [moved.fd] }]);
  const next = pool.add([task([moved], server)]);
  const gone = pool.remove(removed);
  await killed;
  await gone;
  await eventually("the report", () => deaths().length === 1);
  expect(allOpen()).not.toContain(leaves);
  expect(allOpen()).not.toContain(closes);
  const connections = await Promise.all([open(staying), open(moved)]);
  expect(connections.map(({ name }) => name)).toEqual(["server", "server"]);
  expect(pool.counters(next).accepted).toBe(1);
  // Another one dies. A number that was closed is perhaps its epoll's by now: had the first death
  // left it to be closed, the next Worker would not serve.
  await kill(staying);
  await eventually("the second report", () => deaths().length === 2);
  expect([target(staying), target(moved)]).toEqual([stays, moves] as string[]);
  expect((await open(moved)).name).toBe("server");
  pool.stop();
  await pool.finished();
  for (const socket of [stays, moves]) expect(allOpen()).not.toContain(socket);
});

/** Several services in one Worker: added, changed and taken away while others carry traffic. */

import { afterEach, expect, test } from "bun:test";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { SO_DOMAIN, SOL_SOCKET } from "../../../ffi/constants.ts";
import { allocated } from "../../../ffi/memory.ts";
import * as sys from "../../../ffi/sys.ts";
import * as limits from "../../../src/engine/limits.ts";
import { EventLoop } from "../../../src/engine/loop.ts";
import { TcpForwarder } from "../../../src/forward/tcp/forwarder.ts";
import { UdpForwarder } from "../../../src/forward/udp/forwarder.ts";
import { SharedState } from "../../../src/workers/counters.ts";
import { WorkerPool } from "../../../src/workers/pool.ts";
import type { ForwardTask, SessionSettings, WorkerEvent } from "../../../src/workers/protocol.ts";
import { ServiceContext } from "../../../src/workers/service-context.ts";
import { backend, cleanUp, cleanups } from "../../helpers/forward.ts";
import { forwardTask, socketAt, upstreamAt } from "../../helpers/forward-task.ts";
import { eventually } from "../../helpers/tproxy.ts";
import { udpPeer } from "../../helpers/udp.ts";

afterEach(cleanUp);

const entry = new URL("../../../src/worker.ts", import.meta.url);

/** A server that says its name and then echoes. */
const named = (name: string) => backend((socket) => void socket.pipe(socket).write(name));

/** A connection on which the server's name has come. */
async function open(port: number) {
  const socket: Socket = connect({ port, host: "127.0.0.1" });
  socket.on("error", () => {});
  const closed = new Promise((resolve) => socket.on("close", resolve));
  cleanups.push(() => socket.destroy());
  const [name] = await once(socket, "data");
  socket.resume();
  return { socket, name: String(name), closed };
}

/** The same task with another time for what is open at its end. */
function draining(task: ForwardTask, drainMs: number): ForwardTask {
  return { ...task, timeouts: { ...task.timeouts, drainMs } };
}

test("one is changed and another one taken away while the first carries traffic", async () => {
  const events: WorkerEvent[] = [];
  const pool = new WorkerPool(async (batch) => void events.push(...batch));
  pool.start(entry);
  const [first, second] = [await named("first"), await named("second")];
  const [staying, leaving, datagrams] = [socketAt("tcp"), socketAt("tcp"), socketAt("udp")];
  const kept = pool.add([forwardTask([staying], first)]);
  const { socket, name } = await open(staying.port);
  expect(name).toBe("first");
  const removed = pool.add([draining(forwardTask([leaving], second), 50)]);
  const udp = pool.add([forwardTask([datagrams], (await udpPeer()).port)]);
  const other = await open(leaving.port);
  expect(other.name).toBe("second");
  // A session, whose upstream answers nothing.
  const client = createSocket("udp4");
  client.send("question", datagrams.port, "127.0.0.1");
  await eventually("the session", () => pool.counters(udp).activeSessions === 1);
  expect(pool.counters(kept)).toMatchObject({ accepted: 1, active: 1, activeSessions: 0 });

  // New connections of the first go elsewhere. A shorter time-out ends those that are idle, and
  // the one that is open carries data and stays.
  let echoed = 0;
  socket.on("data", ({ length }: Buffer) => {
    echoed += length;
  });
  const sending = setInterval(() => socket.write("x"), 1);
  pool.update(kept, {
    route: { upstreams: upstreamAt(second) },
    timeouts: { idleMs: 3_000 },
  });
  const changed = await open(staying.port);
  expect(changed.name).toBe("second");
  await changed.closed;
  pool.update(kept, { timeouts: { idleMs: limits.forwardIdleTimeoutMs } });

  // Meanwhile the other one is taken away, with what it has open.
  const gone = Promise.all([other.closed, pool.remove(removed), pool.remove(udp)]);
  await gone;
  for (const { fd } of [leaving, datagrams])
    expect(sys.getsockopt(fd, SOL_SOCKET, SO_DOMAIN)).toBeLessThan(0);
  clearInterval(sending);
  const soFar = echoed;
  socket.write("last");
  await eventually("the echo", () => echoed > soFar);
  const refused = connect({ port: leaving.port, host: "127.0.0.1" });
  expect((await once(refused, "error"))[0].code).toBe("ECONNREFUSED");
  client.close();
  socket.pause();
  expect([removed, udp].map((id) => pool.counters(id).accepted)).toEqual([0, 0]);
  expect(pool.counters()).toMatchObject({ accepted: 3, active: 1, sessions: 1, activeSessions: 0 });

  pool.update(kept, { timeouts: { drainMs: 0 } });
  pool.stop();
  await pool.finished();
  const reasons = events.flatMap((event) => ("end" in event ? [String(event.end?.reason)] : []));
  expect(reasons.toSorted()).toEqual(["idle-timeout", "stopped", "stopped", "stopped"]);
});

test("a session that begins after a change has the new time-out", async () => {
  const pool = new WorkerPool(async () => {});
  pool.start(entry);
  const [datagrams, peer] = [socketAt("udp"), await udpPeer()];
  const service = pool.add([forwardTask([datagrams], peer.port)]);
  pool.update(service, { timeouts: { sessionIdleMs: 50 } });
  const client = createSocket("udp4");
  cleanups.push(() => client.close());
  client.send("question", datagrams.port, "127.0.0.1");
  await eventually("the session", () => pool.counters(service).sessions === 1);
  await eventually("its end", () => pool.counters(service).expiredSessions === 1);
  pool.stop();
  await pool.finished();
});

test("one that is gone leaves no timer, and its buffers are for the next", async () => {
  const shared = new SharedState();
  sys.keepOpenFds(shared.descriptors);
  cleanups.push(() => sys.keepOpenFds(new Uint8Array(0)));
  const loop = new EventLoop();
  const made = () => shared.descriptors.filter((isOpen) => isOpen === 1).length;
  let finished = 0;
  const host = {
    ...{
      loop,
      report: () => {},
      warn: () => {},
      recordEnd: () => {},
      recordRefused: () => {},
      record: () => {},
      nextId: () => 1,
    },
    finished: () => void finished++,
  };
  const peer = await udpPeer();
  const run = () => {
    const context = new ServiceContext(host, 1, shared.block(1));
    const task = forwardTask([socketAt("tcp"), socketAt("udp")], peer.port);
    const onFinished = () => context.finish();
    const parts = [
      new TcpForwarder(context, task, onFinished),
      new UdpForwarder(context, task, task.sessions as SessionSettings, onFinished),
    ];
    for (const part of parts) part.stop();
  };
  run();
  const [timers, before, fds] = [loop.timers.size, allocated(), made()];
  for (let time = 0; time < 5; time++) run();
  expect(loop.timers.size).toBe(timers);
  expect(finished).toBe(12);
  expect(made()).toBe(fds);
  // Some names of sockets, and a header of the PROXY protocol.
  expect((allocated().bytes - before.bytes) / 5).toBeLessThan(8192);
});

test("a suspended protocol waits in its queue, in a Worker that comes later as well", async () => {
  const pool = new WorkerPool(async () => {});
  const done = async () => {
    pool.askForTurn();
    await eventually("the workers' turns", () => pool.allTurned);
  };
  pool.suspend(["udp"]);
  pool.start(entry);
  const server = await named("server");
  const upstream = await udpPeer();
  const [tcp, udp] = [socketAt("tcp"), socketAt("udp")];
  pool.add([forwardTask([tcp], server)]);
  pool.add([forwardTask([udp], upstream.port)]);
  const first = await open(tcp.port);
  const client = createSocket("udp4");
  cleanups.push(() => void client.close());
  client.send("question", udp.port, "127.0.0.1");
  pool.suspend(["tcp", "udp"]);
  await done();
  // Accepted by the kernel, by nobody else; what is open goes on.
  const second = connect({ port: tcp.port, host: "127.0.0.1" });
  cleanups.push(() => second.destroy());
  const greeted = once(second, "data");
  await once(second, "connect");
  const echoed = once(first.socket, "data");
  first.socket.write("x");
  await echoed;
  await done();
  expect(pool.counters()).toMatchObject({ accepted: 1, sessions: 0 });
  pool.suspend([]);
  expect(String(await greeted)).toBe("server");
  await eventually("the session", () => pool.counters().sessions === 1);
  first.socket.destroy();
  second.destroy();
  pool.stop();
  await pool.finished();
});

/** Workers of `forward --udp` that die under traffic: the sources, with a Worker that is mortal. */

import { afterEach, expect, test } from "bun:test";
import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { once } from "node:events";
import { join } from "node:path";
import { cleanUp, cleanups, forwardBy } from "../helpers/forward.ts";
import { descriptors, eventually } from "../helpers/tproxy.ts";

afterEach(cleanUp);

const mortal = {
  command: [process.execPath, join(import.meta.dir, "..", "helpers", "mortal-tproxy.ts")],
};

async function udpSocket(address = "127.0.0.1"): Promise<Socket> {
  const socket = createSocket("udp4");
  socket.on("error", () => {});
  socket.bind(0, address);
  await once(socket, "listening");
  cleanups.push(() => socket.close());
  return socket;
}

/** A server that answers with what it gets; `peers` are the ports from which each word came. */
async function echo(): Promise<{ port: number; peers: Map<string, Set<number>> }> {
  const socket = await udpSocket();
  const peers = new Map<string, Set<number>>();
  socket.on("message", (data: Buffer, { port, address }: RemoteInfo) => {
    const word = data.toString();
    peers.set(word, (peers.get(word) ?? new Set()).add(port));
    socket.send(data, port, address);
  });
  return { port: socket.address().port, peers };
}

interface Clients {
  /** How many answers each has. */
  readonly received: number[];
  /** They send no more, and stay open. */
  rest(): void;
}

/** Clients that send a word of their own again as soon as it is back, or after a while. */
async function clients(count: number, port: number): Promise<Clients> {
  const received = new Array<number>(count).fill(0);
  let isOver = false;
  for (let i = 0; i < count; i++) {
    const socket = await udpSocket();
    const send = () => {
      if (!isOver) socket.send(`client ${i}`, port, "127.0.0.1");
    };
    socket.on("message", () => {
      received[i] = (received[i] as number) + 1;
      send();
    });
    send();
    let before = 0;
    const timer = setInterval(() => {
      if (received[i] === before) send();
      before = received[i] as number;
    }, 500);
    cleanups.push(() => clearInterval(timer));
  }
  const rest = () => {
    isOver = true;
  };
  return { received, rest };
}

/** Makes the Worker die that this datagram comes to. */
async function kill(port: number): Promise<void> {
  const socket = await udpSocket("127.0.0.66");
  socket.send("deadly", port, "127.0.0.1");
}

const sockets = (pid: number) =>
  descriptors(pid).filter((name) => name.startsWith("socket:")).length;

test("the sessions of the others go on, those of the dead one begin anew", async () => {
  const { port, peers } = await echo();
  const { proxy, port: entry } = await forwardBy(mortal, port, "--udp", "--workers", "2", "--json");
  const { received } = await clients(24, entry);
  const grown = (by: number) => {
    const before = [...received];
    return eventually(`all have ${by} more answers`, () =>
      received.every((count, i) => count >= (before[i] as number) + by),
    );
  };
  // By then each has a socket of its own, and nothing comes to another Worker.
  await grown(100);
  const known = new Map([...peers].map(([word, ports]) => [word, new Set(ports)]));
  await kill(entry);
  const [line] = await proxy.until(/.*"died".*/);
  const died = JSON.parse(line);
  expect(died).toMatchObject({ error: "deadly", replaced: true });
  await grown(50);
  const renewed = [...peers].filter(([word, ports]) => !ports.isSubsetOf(known.get(word) as never));
  expect(renewed.length).toBeGreaterThan(0);
  expect(renewed.length).toBeLessThan(24);
  expect(died.lost_sessions).toBeGreaterThan(0);
}, 240_000);

test("nothing of it stays open", async () => {
  const { port } = await echo();
  const { proxy, port: entry } = await forwardBy(mortal, port, "--udp", "--quiet", "--json");
  const own = sockets(proxy.pid);
  const { received, rest } = await clients(8, entry);
  // Each has a socket to the upstream, and with so much traffic one to its client.
  await eventually("they are carried", () => received.every((count) => count > 100));
  expect(sockets(proxy.pid)).toBeGreaterThanOrEqual(own + 9);
  rest();
  await kill(entry);
  await proxy.until(/"died".*"lost_sessions":8/);
  await eventually("its sockets are gone", () => sockets(proxy.pid) === own);
}, 240_000);

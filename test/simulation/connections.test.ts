/**
 * All phases of many connections over a simulated kernel (connection-world.ts): connects that fail,
 * hang, are refused or succeed late, descriptors that run out, headers in pieces, half-closes,
 * resets and every bound, at any point. What must hold is checked at every step; a failure prints
 * its seed, and TPROXY_SEED replays it.
 */

import { describe, expect, test } from "bun:test";
import { encodeProxyHeader } from "../../src/proto/proxy-protocol.ts";
import type { EndReason } from "../../src/workers/end-reason.ts";
import { generator } from "../helpers/random.ts";
import { fixedUpstreams, pooled, poolRules } from "../helpers/upstreams.ts";
import { CLIENTS } from "./connection-checks.ts";
import { type Behaviour, host, UpstreamSocket } from "./connection-kernel.ts";
import { ConnectionWorld, type Settings } from "./connection-world.ts";
import { bufferBytes, queueBytes, type Random } from "./sockets.ts";

const behaviours: readonly Behaviour[] = [
  ...(["accepts", "accepts", "accepts", "accepts late"] as const),
  ...(["refuses", "is silent", "is unreachable"] as const),
];
const upstreams = [8001, 8002, 8003, 8004].map((port) => host(100, port));

const oneOf = <T>(random: Random, values: readonly T[]): T => values[random(values.length)] as T;

function someSettings(random: Random): Settings {
  const isFixed = random(4) > 0;
  return {
    acceptProxy: random(2) === 0 ? undefined : [],
    sendProxy: oneOf(random, [undefined, "v1", "v2"]),
    pool: poolRules(oneOf(random, ["round-robin", "least-connections", "source-hash"])),
    source: oneOf(random, [
      { kind: "self" },
      { kind: "client", keepPort: random(2) === 0 },
      { kind: "address", address: host(50, 0).address },
    ]),
    upstreams: isFixed ? fixedUpstreams(upstreams.slice(0, 1 + random(4))) : { kind: "original" },
    connectionsMax: 2 + random(5),
    queueMax: 1 + random(4),
    perClientMax: random(2) === 0 ? 100 : 2 + random(3),
    perSecond: random(4) === 0 ? 2 : 0,
  };
}

/** A header as a client may send it, whole as a rule. */
function someHeader(
  random: Random,
  settings: Settings,
  owner: ReturnType<typeof host>,
): Uint8Array {
  if (settings.acceptProxy === undefined) return new Uint8Array(0);
  if (random(30) === 0) return new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n");
  return encodeProxyHeader(oneOf(random, ["v1", "v2"]), "tcp", owner, host(200, 9));
}

/** Something that happens outside of the proxy. */
function act(world: ConnectionWorld, settings: Settings, random: Random): void {
  switch (random(17)) {
    case 0: {
      // One client has more than the others.
      const peer = host(random(2) === 0 ? 0 : random(CLIENTS), 1024 + random(60_000));
      const owner = host(random(2) === 0 ? 0 : random(CLIENTS), 1024 + random(60_000));
      return world.connect(peer, owner, someHeader(random, settings, owner));
    }
    case 1:
      world.kernel.behaviours.set(
        oneOf(random, [8001, 8002, 8003, 8004, 9]),
        oneOf(random, behaviours),
      );
      return;
    case 2:
      world.relayKernel.pipesMax = random(4);
      return;
    case 3:
      if (random(4) === 0) world.kernel.descriptorsMax = random(2) === 0 ? 100 : random(16);
      return;
    case 4:
      if (random(10) === 0) world.abortSome();
      return;
    case 5:
      if (random(10) === 0) world.pool?.replace(pooled(upstreams.slice(random(3))));
      return;
    case 6:
      if (random(8) === 0) world.wait(oneOf(random, [500, 1_000, 3_000, 9_000]));
      return;
    case 7:
      return world.moveSome(random(3) === 0 ? "here" : "there");
    default:
      world.actSomewhere();
  }
}

function simulate(seed: number): ConnectionWorld {
  const random = generator(seed);
  const settings = someSettings(random);
  const world = new ConnectionWorld(settings, random);
  for (let step = 0; step < 500; step++) {
    act(world, settings, random);
    if (random(4) === 0) continue;
    world.pass(random(20));
    world.turn();
    if (random(200) === 0) world.settle();
  }
  world.finish();
  return world;
}

/** Ends that the simulation has to reach, each often. */
const ends: readonly EndReason[] = [
  ...(["done", "reset", "failed", "connect-failed", "connect-timeout", "idle-timeout"] as const),
  ...(["idle-shortened", "stopped", "evicted", "stalled", "no-place", "no-room"] as const),
  ...(["client-limit", "client-rate", "proxy-header-timeout", "proxy-header-invalid"] as const),
];

describe("whatever clients, upstreams and the kernel do", () => {
  test("each connection ends once, for the true reason, and leaves nothing", () => {
    const replay = process.env.TPROXY_SEED;
    const first = replay === undefined ? Math.floor(Math.random() * 0xffffffff) : Number(replay);
    const runs = replay === undefined ? 300 : 1;
    const reached = new Map<string, number>();
    let moves = 0;
    for (let seed = first; seed < first + runs; seed++) {
      try {
        const world = simulate(seed);
        moves += world.moves;
        for (const [reason, count] of world.ends) {
          reached.set(reason, (reached.get(reason) ?? 0) + count);
        }
      } catch (error) {
        throw new Error(`TPROXY_SEED=${seed}: ${error instanceof Error ? error.stack : error}`);
      }
    }
    if (replay !== undefined) return;
    const missing = ends.filter((reason) => (reached.get(reason) ?? 0) < runs / 100);
    expect(missing).toEqual([]);
    expect(moves).toBeGreaterThan(runs);
  }, 300_000);
});

/** Nothing of chance: calls take all that there is, and upstreams connect within 2 ms. */
const plain: Random = (below) => below - 1;

/** Two clients for one place, headers in pieces both ways, much data, and ends in either order. */
function converse(onCall: (world: ConnectionWorld, call: number) => void, onTurn = onCall) {
  const world = new ConnectionWorld(
    {
      ...{
        acceptProxy: [],
        sendProxy: "v2",
        pool: poolRules("round-robin"),
        perClientMax: 2,
        perSecond: 0,
      },
      source: { kind: "client", keepPort: false },
      upstreams: fixedUpstreams(upstreams.slice(0, 2)),
      ...{ connectionsMax: 1, queueMax: 2 },
    },
    plain,
  );
  world.kernel.behaviours.set(8001, "refuses");
  world.onCall = (call) => onCall(world, call);
  world.onTurn = (turn) => onTurn(world, turn);
  const step = (ms = 5) => {
    world.pass(ms);
    world.turn();
  };
  for (const owner of [host(1, 1_001), host(2, 1_002)]) {
    const header = encodeProxyHeader("v2", "tcp", owner, host(200, 9));
    world.connect(host(3, 99), owner, header);
    step();
  }
  const clients = [...world.cases.values()].map(({ client }) => client);
  for (const client of clients) {
    client.writeHeader(10);
    step();
    client.writeHeader(client.headerLeft.length);
    client.write(5);
    step();
  }
  for (let round = 0; round < 8; round++) {
    for (const { client, upstream } of world.cases.values()) {
      client.write(round < 5 ? 3 * bufferBytes : 0);
      upstream?.write(4 * bufferBytes);
      if (round > 3) {
        client.read(queueBytes);
        upstream?.read(queueBytes);
      }
      if (round === 6) upstream?.end();
      if (round === 7) client.end();
      step();
    }
  }
  world.finish();
  return world;
}

const clientsOf = ({ cases }: ConnectionWorld) => [...cases.values()].map(({ client }) => client);
const upstreamsOf = ({ kernel }: ConnectionWorld) =>
  [...kernel.sockets.values()].filter((socket) => socket instanceof UpstreamSocket);

/** What may come at any call of the kernel. */
const atCalls: Record<string, (world: ConnectionWorld) => void> = {
  "clients reset": (world) => {
    for (const client of clientsOf(world)) client.reset();
  },
  "clients end": (world) => {
    for (const client of clientsOf(world)) client.end();
  },
  "upstreams reset and refuse": (world) => {
    for (const socket of upstreamsOf(world)) {
      if (socket.state === "connected") socket.reset();
      else socket.refuse(world.now);
    }
    world.kernel.behaviours.set(8001, "refuses").set(8002, "refuses");
  },
  "no descriptor is left": (world) => {
    world.kernel.descriptorsMax = 0;
  },
  "no pipe is left": (world) => {
    world.relayKernel.pipesMax = 0;
  },
};

/** And after any turn of the loop. */
const afterTurns: Record<string, (world: ConnectionWorld) => void> = {
  "all are ended": (world) => world.connections.abortAll("stopped"),
  "one is ended": (world) => world.abortSome(),
  "one moves to another process": (world) => world.moveSome("there"),
  "one does not move after all": (world) => world.moveSome("here"),
  "nobody says anything": (world) => world.wait(10_000),
  "upstreams are others": (world) => world.pool?.replace(pooled(upstreams.slice(2))),
  "others come": (world) => {
    for (let last = 4; last < 8; last++) {
      const header = encodeProxyHeader("v1", "tcp", host(last, 1), host(200, 9));
      world.connect(host(last, 1), host(last, 1), header);
    }
  },
};

describe.each([
  ...Object.entries(atCalls).map(([what, act]) => ({ what, act, where: "at any call" })),
  ...Object.entries(afterTurns).map(([what, act]) => ({ what, act, where: "after any turn" })),
])("$where: $what", ({ act, where }) => {
  test("and again 7 later", () => {
    const counted = converse(() => {});
    const isAtCall = where === "at any call";
    const count = isAtCall ? counted.calls : counted.turns;
    expect(count).toBeGreaterThan(20);
    expect([...counted.ends]).toEqual([["done", 2]]);
    for (let at = 0; at < count; at++) {
      let isActing = false;
      const once = (world: ConnectionWorld, number: number) => {
        if (isActing || (number !== at && number !== at + 7)) return;
        isActing = true;
        act(world);
        isActing = false;
      };
      try {
        if (isAtCall) converse(once, () => {});
        else converse(() => {}, once);
      } catch (error) {
        throw new Error(`${where}, ${at}: ${error instanceof Error ? error.stack : error}`);
      }
    }
  }, 240_000);
});

/**
 * The relay over a simulated kernel (sockets.ts): seeded partial writes, reads during which
 * more arrives, EAGAIN, urgent bytes, stalled readers, half-closes in every order, resets, pipes
 * that run out; and one conversation with each of these at every call. What must hold is checked at
 * every step; a failure prints its seed, and TPROXY_SEED replays it.
 */

import { describe, expect, test } from "bun:test";
import { generator } from "../helpers/random.ts";
import { type Interference, interferences, World } from "./relay-world.ts";
import { act, bufferBytes, queueBytes, type Random, somePeer } from "./sockets.ts";

function simulate(seed: number): World {
  const random = generator(seed);
  const world = new World(random, random(4));
  const peers = world.sockets.map((socket) => ({ socket, ...somePeer(random) }));
  while (world.steps < 2000 && !world.isOver) {
    const one = peers[random(2)] as (typeof peers)[number];
    if (random(12) === 0) world.kernel.pipesMax = random(4);
    else act(one.socket, one, random);
    if (random(3) > 0) world.turn();
    else world.steps++;
    if (random(200) === 0) world.settle();
  }
  world.finish();
  return world;
}

test("a reset is noticed although the other side takes nothing", () => {
  const world = new World(generator(1), 4);
  const { client, upstream } = world;
  while (!upstream.waitsToWrite || client.toRead.length <= queueBytes) {
    client.write(bufferBytes);
    world.turn();
    expect(world.state).not.toBe("failed");
  }
  client.reset();
  world.turn();
  expect(world.state).toBe("failed");
  expect(world.relay.failedSide).toBe("client");
  world.relay.release();
});

test.each([0, 4])("a receiver that stalls is known to wait for bytes (%i pipes)", (pipesMax) => {
  const world = new World(generator(1), pipesMax);
  const { client, upstream } = world;
  expect(world.relay.holdsBytes).toBe(false);
  while (!upstream.waitsToWrite || client.toRead.length <= queueBytes) {
    client.write(bufferBytes);
    world.turn();
  }
  expect(world.relay.holdsBytes).toBe(true);
  while (client.toRead.length > 0 || upstream.toPeer.length > 0) {
    upstream.read(queueBytes);
    world.turn();
  }
  expect(world.relay.holdsBytes).toBe(false);
  world.relay.release();
});

test("whatever the kernel answers, every byte arrives once and in order", () => {
  const replay = process.env.TPROXY_SEED;
  const first = replay === undefined ? Math.floor(Math.random() * 0xffffffff) : Number(replay);
  const runs = replay === undefined ? 12_000 : 1;
  const ends = new Map<string, number>();
  let steps = 0;
  for (let seed = first; seed < first + runs; seed++) {
    try {
      const world = simulate(seed);
      steps += world.steps;
      ends.set(world.state, (ends.get(world.state) ?? 0) + 1);
    } catch (error) {
      throw new Error(`TPROXY_SEED=${seed}: ${error instanceof Error ? error.message : error}`);
    }
  }
  if (replay !== undefined) return;
  // The simulation reached both kinds of end, often.
  expect(ends.get("done") ?? 0).toBeGreaterThan(runs / 20);
  expect(ends.get("failed") ?? 0).toBeGreaterThan(runs / 20);
  expect(steps).toBeGreaterThan(1_500_000);
}, 240_000);

/** Small and large messages both ways, a stall, and both ends, in either order. */
function converse(world: World, isClientFirst: boolean): void {
  const { client, upstream } = world;
  const [first, second] = isClientFirst ? [client, upstream] : [upstream, client];
  first.write(10);
  world.turn();
  second.write(5);
  world.turn();
  for (const size of [bufferBytes, 3 * bufferBytes, queueBytes]) {
    // The other one does not read yet: what is under way has to be kept.
    first.write(size);
    world.turn();
    second.write(size);
    world.turn();
  }
  for (let turn = 0; turn < 3; turn++) {
    for (const socket of [first, second]) socket.read(queueBytes / 2);
    world.turn();
  }
  first.write(7);
  first.end();
  world.turn();
  second.write(2 * bufferBytes);
  for (let turn = 0; turn < 4; turn++) {
    for (const socket of [first, second]) socket.read(queueBytes);
    world.turn();
  }
  world.finish();
}

/** Nothing of chance: each call takes all that there is, and EAGAIN is told only where it is so. */
const plain: Random = (below) => below - 1;

describe.each([
  { order: "the client ends first", isClientFirst: true },
  { order: "the upstream ends first", isClientFirst: false },
])("$order", ({ isClientFirst }) => {
  test.each([0, 1, 4])("anything at any call, and two of it together, with %d pipes", (pipes) => {
    const run = (interfere: (call: number) => Interference | undefined) => {
      const world = new World(plain, pipes, interfere);
      converse(world, isClientFirst);
      return world;
    };
    const { state, kernel } = run(() => undefined);
    expect(state).toBe("done");
    expect(kernel.calls).toBeGreaterThan(20);
    // What comes between makes more calls.
    const calls = kernel.calls + 10;
    for (const one of interferences) {
      for (const other of interferences) {
        for (let at = 0; at < calls; at++) {
          for (let then = at; then < at + 8; then++) {
            const interfere = (call: number) =>
              call === at ? one : call === then ? other : undefined;
            try {
              run(interfere);
            } catch (error) {
              throw new Error(`${one} at call ${at}, ${other} at ${then}: ${error}`);
            }
          }
        }
      }
    }
  });
});

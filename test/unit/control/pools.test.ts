import { describe, expect, test } from "bun:test";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import { completePool, type Pool } from "../../../src/config/pool.ts";
import type { PoolSettings } from "../../../src/config/settings.ts";
import { PoolStates } from "../../../src/control/pools/pool-states.ts";
import { Pools } from "../../../src/control/pools/pools.ts";
import { UpstreamSlots } from "../../../src/control/pools/slots.ts";
import { UpstreamBoard, UpstreamCounter } from "../../../src/workers/upstream-board.ts";

const target = (host: string) => ({ scheme: undefined, host, port: 80 as never });
const at = (host: number): SocketAddress => ({
  address: Uint8Array.of(192, 0, 2, host),
  port: 80,
  scopeId: 0,
});

/** Pools whose names have these hosts as addresses, by the place of the upstream. */
class World {
  readonly said: string[] = [];
  readonly woken: string[] = [];
  readonly shifted: string[] = [];
  readonly pools: Pools;
  hosts: number[][] = [];

  constructor(handed?: unknown) {
    const owner = {
      wake: ({ name }: Pool) => void this.woken.push(name),
      shifted: ({ name }: Pool) => void this.shifted.push(name),
      changed: (text: string) => void this.said.push(text),
      warn: (text: string) => void this.said.push(text),
    };
    this.pools = new Pools(2, owner, handed);
  }

  put(settings: PoolSettings): Pool {
    const pool = completePool({ name: "web", ...settings }, {});
    this.pools.put(pool, { addressesOf: (i) => (this.hosts[i] ?? []).map(at), mark: undefined });
    return pool;
  }

  slots(pool: Pool): Record<string, number> {
    const upstreams = this.pools.upstreamsOf(pool);
    const all = upstreams.kind === "fixed" ? upstreams.addresses : [];
    return Object.fromEntries(all.map((each) => [each.address.address[3], each.slot]));
  }

  get states(): string[] {
    const [pool] = this.pools.status();
    return (pool?.upstreams ?? []).map(({ name, state, reason }) => `${name} ${state} ${reason}`);
  }
}

const two: PoolSettings = {
  upstream: [
    { name: "a", to: target("a.example") },
    { to: target("b.example"), weight: 50 },
  ],
};

describe("addresses of names", () => {
  test("each has a slot, whose counters stay with it whatever order the DNS gives", () => {
    const world = new World();
    world.hosts = [[1, 2], [3]];
    const pool = world.put(two);
    const before = world.slots(pool);
    expect(new Set(Object.values(before)).size).toBe(3);
    const worker = new UpstreamBoard(world.pools.board.memory, 1);
    worker.count(before[2] as number, UpstreamCounter.connects, 7);
    world.hosts = [[2, 1, 4], [3]];
    world.pools.refresh(pool);
    expect(world.slots(pool)).toMatchObject(before);
    // It goes, and comes back.
    world.hosts = [[1], [3]];
    world.pools.refresh(pool);
    world.hosts = [[1, 2], [3]];
    world.pools.refresh(pool);
    const [{ upstreams } = { upstreams: [] }] = world.pools.status();
    const counted = upstreams[0]?.addresses.map(({ counters }) => counters.connects);
    expect(counted).toEqual([0, 7]);
  });

  test("none: the upstream is down until there is one", () => {
    const world = new World();
    world.hosts = [[], [3]];
    const pool = world.put(two);
    expect(world.states).toEqual(["a down no address", "b.example:80 up "]);
    world.hosts = [[1], [3]];
    world.pools.refresh(pool);
    expect(world.states[0]).toBe("a up ");
  });

  test("one that comes later starts slowly, those of the start do not", () => {
    const world = new World();
    world.hosts = [[1], []];
    const pool = world.put(two);
    world.hosts = [[1, 2], []];
    world.pools.refresh(pool);
    const { 1: first, 2: second } = world.slots(pool);
    expect(world.pools.board.rampFrom(first as number)).toBe(Number.NEGATIVE_INFINITY);
    expect(world.pools.board.rampFrom(second as number)).not.toBe(Number.NEGATIVE_INFINITY);
  });

  test("slots are given to others only when all are used up, and nothing is open there", () => {
    const board = new UpstreamBoard(UpstreamBoard.memory(1));
    const slots = new UpstreamSlots(board, 2);
    expect([slots.take("a"), slots.take("b"), slots.take("a")]).toEqual([0, 1, 0]);
    expect(slots.take("c")).toBe(-1);
    board.count(0, UpstreamCounter.open, 1);
    board.count(1, UpstreamCounter.connects, 9);
    slots.release("a");
    expect(slots.take("c")).toBe(-1);
    slots.release("b");
    expect(slots.take("c")).toBe(1);
    expect(board.counters(1).connects).toBe(0);
    expect(slots.take("a")).toBe(0);
  });
});

describe("what an administrator asks", () => {
  const world = new World();
  world.hosts = [[1], [3]];
  const pool = world.put(two);
  const { 1: a, 3: b } = world.slots(pool) as Record<number, number>;
  const ask = (upstream: string, request: Parameters<Pools["ask"]>[2]) =>
    world.pools.ask("web", upstream, request).kind;

  test("is on the board, and in the status", () => {
    expect([world.pools.board.weight(a as number), world.pools.board.weight(b as number)]).toEqual([
      100, 50,
    ]);
    expect(ask("a", { state: "drain" })).toBe("done");
    expect(world.pools.board.state(a as number)).toBe(1);
    expect(world.states).toEqual(["a drained drained", "b.example:80 up "]);
    expect(world.woken).toEqual([]);
    expect(world.shifted).toEqual(["web"]);
  });

  test("the last one that takes connections stays, unless it is forced", () => {
    expect(ask("b.example:80", { state: "down" })).toBe("last");
    expect(ask("b.example:80", { weight: 0 })).toBe("last");
    expect(ask("b.example:80", { state: "down", force: true })).toBe("done");
    expect(world.woken).toEqual(["web"]);
    expect(world.states[1]).toBe("b.example:80 down taken down");
  });

  test("ready undoes both, and a weight is changed alone", () => {
    expect([ask("a", { state: "ready" }), ask("b.example:80", { state: "ready" })]).toEqual([
      "done",
      "done",
    ]);
    expect(ask("a", { weight: 7 })).toBe("done");
    expect(world.pools.board.state(a as number)).toBe(0);
    expect(world.pools.board.weight(a as number)).toBe(7);
    // It was down: its share rises.
    expect(world.pools.board.rampFrom(b as number)).toBeGreaterThan(0);
    expect(world.states).toEqual(["a up ", "b.example:80 up "]);
  });

  test("of pools and upstreams that are not there", () => {
    expect(ask("c", { state: "drain" })).toBe("no-upstream");
    expect(world.pools.ask("x", "a", {}).kind).toBe("no-pool");
  });

  test("stays over another configuration, until the entry itself is another one", () => {
    ask("a", { state: "drain" });
    world.put({ upstream: [...(two.upstream ?? []), { to: target("c.example") }] });
    expect(world.states[0]).toBe("a drained drained");
    expect(world.slots(pool)).toMatchObject({ 1: a, 3: b });
    world.put({ upstream: [{ name: "a", to: target("a.example"), weight: 30 }] });
    expect(world.states).toEqual(["a up "]);
    expect(world.pools.board.state(a as number)).toBe(0);
    expect(world.pools.board.weight(a as number)).toBe(30);
  });
});

test("the kernel path is told of each change, and finds it", () => {
  const world = new World();
  world.hosts = [[1], [3]];
  const { 1: slot } = world.slots(world.put({ ...two, check: { type: "tcp" } }));
  const standing = (name: string, host: number) => world.pools.standingOf("web", name, at(host));
  expect(standing("a", 1)).toMatchObject({ state: 0, weight: 100, isRising: false });
  world.pools.ask("web", "b.example:80", { state: "drain", weight: 7 });
  expect(standing("b.example:80", 3)).toMatchObject({ state: 1, weight: 7 });
  world.pools.found(slot as number, false, "refused");
  expect(standing("a", 1)).toMatchObject({ state: 4, downSince: expect.any(Number) });
  world.pools.found(slot as number, true, "");
  expect(standing("a", 1)?.downSince).toBe(Number.NEGATIVE_INFINITY);
  expect(world.shifted).toEqual(["web", "web", "web"]);
  expect([standing("a", 3), standing("c", 1), world.pools.standingOf("x", "a", at(1))]).toEqual([
    ...[undefined, undefined, undefined],
  ]);
});

const slotsOf = ({ upstreams }: PoolStates) =>
  upstreams.kind === "fixed" ? upstreams.addresses.map(({ slot }) => slot) : [];

test("a check that finds an address down, and up again", () => {
  let now = 1_000;
  const board = new UpstreamBoard(UpstreamBoard.memory(1));
  const pool = completePool({ name: "web", ...two }, {});
  const hosts = [[1, 2], [3]];
  const source = { addressesOf: (i: number) => (hosts[i] as number[]).map(at), mark: undefined };
  const states = new PoolStates(pool, source, new UpstreamSlots(board), undefined, () => now);
  const [first, second] = slotsOf(states) as [number, number];
  now += 500;
  expect(states.found(first, false, "timeout")).toEqual({
    ...{ upstream: "a", address: "192.0.2.1:80", lasted: 500 },
  });
  expect(states.found(first, false, "timeout")).toBeUndefined();
  expect(board.state(first)).toBe(4);
  const of = () => states.upstreamOf("a");
  expect(of()).toMatchObject({ state: "up", reason: "1 of 2 addresses: timeout" });
  states.found(second, false, "refused");
  expect(of()).toMatchObject({ state: "down", reason: "timeout" });
  expect(states.taking).toBe(1);
  now += 2_000;
  expect(states.found(first, true, "")).toMatchObject({ lasted: 2_000 });
  expect(board.state(first)).toBe(0);
  expect(board.rampFrom(first)).toBeGreaterThan(Number.NEGATIVE_INFINITY);
});

describe("another process goes on", () => {
  const old = new World();
  old.hosts = [[1, 2], [3]];
  const slots = old.slots(old.put(two));
  const worker = new UpstreamBoard(old.pools.board.memory, 1);
  worker.count(slots[1] as number, UpstreamCounter.connects, 7);
  worker.count(slots[1] as number, UpstreamCounter.open, 2);
  worker.checked(slots[1] as number, false, 3);
  old.pools.ask("web", "b.example:80", { state: "drain", weight: 9 });
  old.pools.found(slots[2] as number, false, "refused");
  const handed = JSON.parse(JSON.stringify(old.pools.handOver()));

  test("with the counters, and with what was asked for and found", () => {
    const next = new World(handed);
    next.hosts = [[2, 1], [3]];
    const pool = next.put(two);
    expect(next.pools.status()[0]?.upstreams[0]?.addresses.map((each) => each.address)).toEqual([
      "192.0.2.2:80",
      "192.0.2.1:80",
    ]);
    expect(next.states).toEqual(["a up ", "b.example:80 drained drained"]);
    const { 1: first, 2: second, 3: third } = next.slots(pool) as Record<number, number>;
    const { board } = next.pools;
    expect(board.counters(first as number)).toMatchObject({ connects: 7, open: 2 });
    expect(board.checkCounts(first as number)).toEqual({ succeeded: 0, failed: 1, lastMs: 3 });
    // Without a check in its configuration nothing finds it up again.
    expect(board.state(second as number)).toBe(0);
    expect([board.state(third as number), board.weight(third as number)]).toEqual([1, 9]);
    expect(board.rampFrom(first as number)).toBe(Number.NEGATIVE_INFINITY);
  });

  test("what the old process counts until its end is added, and what was open ends with it", () => {
    const next = new World(handed);
    next.hosts = [[1, 2], [3]];
    const { 1: slot = -1 } = next.slots(next.put(two));
    const { board } = next.pools;
    new UpstreamBoard(board.memory, 1).count(slot, UpstreamCounter.connects, 5);
    board.checked(slot, true, 4);
    old.pools.handOver();
    expect(old.pools.counted().length).toBeGreaterThan(0);
    expect(old.pools.counted()).toEqual([]);
    worker.count(slots[1] as number, UpstreamCounter.connects, 1);
    const counted = old.pools.counted();
    expect(counted).toMatchObject([{ pool: "web", address: "192.0.2.1:80" }]);
    next.pools.inherit(JSON.parse(JSON.stringify([...counted, { pool: "web" }])));
    expect(board.counters(slot)).toMatchObject({ connects: 13, open: 2 });
    expect(board.checkCounts(slot)).toEqual({ succeeded: 1, failed: 1, lastMs: 4 });
    next.pools.inherit(undefined);
    expect(board.counters(slot)).toMatchObject({ connects: 13, open: 0 });
    worker.count(slots[1] as number, UpstreamCounter.connects, -1);
  });

  test("once: a pool that goes and comes again is a new one", () => {
    const next = new World(handed);
    next.hosts = [[1, 2], [3]];
    next.put(two);
    next.pools.startChecks(new URL("file:///nothing-is-checked"));
    next.pools.remove("web");
    const { 1: slot } = next.slots(next.put(two));
    expect(next.states).toEqual(["a up ", "b.example:80 up "]);
    // The address keeps its slot, and what it has counted since.
    expect(next.pools.board.counters(slot as number).connects).toBe(7);
  });

  test("a check that found it down counts, if there still is one", () => {
    const next = new World(handed);
    next.hosts = [[1, 2], [3]];
    next.put({ ...two, check: { type: "tcp" } });
    expect(next.states[0]).toBe("a up 1 of 2 addresses: refused");
  });

  test("what cannot be read is left out", () => {
    for (const other of [undefined, "x", [{}], [{ ...handed[0], admin: "asleep" }, 7]]) {
      const next = new World(other);
      next.hosts = [[1], [3]];
      next.put(two);
      expect(next.states).toEqual(["a up ", "b.example:80 up "]);
    }
  });
});

test("status tells in how many Workers an upstream backs off", () => {
  const world = new World();
  world.hosts = [[1], [3]];
  const { 1: slot } = world.slots(world.put(two));
  new UpstreamBoard(world.pools.board.memory, 1).count(slot as number, UpstreamCounter.backsOff, 1);
  expect(world.states[0]).toBe("a up backs off in 1 of 2 workers");
});

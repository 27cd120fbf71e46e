import { describe, expect, test } from "bun:test";
import * as limits from "../../../src/engine/limits.ts";
import { ClientBackOffs } from "../../../src/forward/client-back-offs.ts";
import type { Upstream } from "../../../src/forward/upstream.ts";
import {
  NONE_TRIED,
  type PoolListener,
  type UpstreamPool,
} from "../../../src/forward/upstream-pool.ts";
import { poolOf, poolRules } from "../../helpers/upstreams.ts";

const client = (n: number) => Uint8Array.of(198, 51, n >> 8, n & 255);

/** Two upstreams in turn, and what the pool says of them. */
class World implements PoolListener {
  readonly said: string[] = [];
  readonly pool: UpstreamPool;
  now = 0;
  private id = 0;

  constructor() {
    const addresses = [1, 2].map((n) => ({
      address: Uint8Array.of(192, 0, 2, n),
      port: 53,
      scopeId: 0,
    }));
    this.pool = poolOf("round-robin", addresses, this);
  }

  fails(): void {}
  backsOff({ address }: Upstream): void {
    this.said.push(`${address.address[3]} rests`);
  }
  backsOffFor({ address }: Upstream, client: Uint8Array, backOffMs: number): void {
    this.said.push(`${address.address[3]} rests for ${client[3]}, ${backOffMs / 1000} s`);
  }
  recovered({ address }: Upstream): void {
    this.said.push(`${address.address[3]} returns`);
  }

  /** Picks for a client until it gets host `wanted`; the others are closed at once. */
  pick(wanted: number, from: Uint8Array): { upstream: Upstream; id: number } | undefined {
    for (let i = 0; i < 4; i++) {
      const id = ++this.id;
      const upstream = this.pool.pick(from, 0, id, NONE_TRIED, this.now);
      if (upstream?.address.address[3] === wanted) return { upstream, id };
      if (upstream !== undefined) this.pool.closed(upstream, id);
    }
    return undefined;
  }

  fail(host: number, from: number, witness: Uint8Array | undefined = client(from)): void {
    const picked = this.pick(host, client(from));
    if (picked !== undefined) {
      this.pool.failed(picked.upstream, picked.id, this.now, "refused", witness);
    }
  }

  connect(host: number, from: number): void {
    const picked = this.pick(host, client(from));
    if (picked === undefined) return;
    this.pool.connected(picked.upstream, client(from), this.now);
    this.pool.closed(picked.upstream, picked.id);
  }

  silence(host: number, from: number): void {
    const picked = this.pick(host, client(from));
    if (picked === undefined) return;
    const { upstream, id } = picked;
    this.pool.silent(upstream, id, this.now, client(from), this.now - limits.silenceMs);
    this.pool.closed(upstream, id);
  }

  has(host: number, from: number): boolean {
    return this.pick(host, client(from)) !== undefined;
  }
}

describe("failures count for those whom they concern", () => {
  test("one client's make it rest for that client alone, and longer when they go on", () => {
    const world = new World();
    for (let i = 0; i < 10; i++) world.fail(1, 7);
    expect(world.said).toEqual(["1 rests for 7, 10 s"]);
    expect([world.has(1, 7), world.has(1, 8)]).toEqual([false, true]);
    world.now = 10_000;
    expect(world.has(1, 7)).toBeTrue();
    world.fail(1, 7);
    expect(world.said.at(-1)).toBe("1 rests for 7, 20 s");
  });

  test("a client's /64 of IPv6 is one client", () => {
    const rests = new ClientBackOffs<string>(poolRules("round-robin").backOff);
    const host = (net: number, n: number) =>
      Uint8Array.from([0xfd, ...Array(6).fill(0), net, ...Array(7).fill(0), n]);
    for (let n = 0; n < limits.upstreamFailuresMax; n++) rests.failed(host(1, n), "one", 0);
    expect(rests.of(host(1, 99))?.get("one")?.backsOffUntil).toBe(limits.upstreamBackOffMs);
    expect(rests.of(host(2, 99))).toBeUndefined();
  });

  test("those of several clients, in a row, make it rest for all", () => {
    const world = new World();
    for (const from of [1, 2]) world.fail(1, from);
    world.connect(1, 9);
    for (const from of [3, 4]) world.fail(1, from);
    expect(world.said).toEqual([]);
    world.fail(1, 5);
    expect(world.said).toEqual(["1 rests"]);
    expect(world.has(1, 9)).toBeFalse();
  });

  test("those from our own address do, too", () => {
    const world = new World();
    for (let i = 0; i < limits.upstreamFailuresMax; i++) {
      const picked = world.pick(1, client(7)) as { upstream: Upstream; id: number };
      world.pool.failed(picked.upstream, picked.id, 0, "refused", undefined);
    }
    expect(world.said).toEqual(["1 rests"]);
  });

  test("a connection of the client ends its rest", () => {
    const world = new World();
    for (let i = 0; i < 3; i++) world.fail(1, 7);
    world.now = 10_000;
    world.connect(1, 7);
    world.fail(1, 7);
    expect(world.said).toEqual(["1 rests for 7, 10 s"]);
  });

  test("of clients so many are known, the first ones are forgotten", () => {
    const rests = new ClientBackOffs<string>(poolRules("round-robin").backOff);
    for (let n = 0; n <= limits.clientBackOffsMax; n++) rests.failed(client(n), "one", 0);
    expect(rests.of(client(0))).toBeUndefined();
    expect(rests.of(client(limits.clientBackOffsMax))).toBeDefined();
  });
});

describe("silence", () => {
  test("of one upstream while the other one answers, to several clients: it rests", () => {
    const world = new World();
    world.now = 100_000;
    world.connect(2, 9);
    for (const from of [1, 2, 3]) world.silence(1, from);
    expect(world.said).toEqual(["1 rests"]);
    expect(world.has(1, 9)).toBeFalse();
  });

  test("to one client: it rests for that one", () => {
    const world = new World();
    world.connect(2, 7);
    for (let i = 0; i < 9; i++) world.silence(1, 7);
    expect(world.said).toEqual(["1 rests for 7, 10 s"]);
    expect([world.has(1, 7), world.has(1, 8)]).toEqual([false, true]);
  });

  test("of both says nothing, nor of one that has answered anybody meanwhile", () => {
    const world = new World();
    world.now = 100_000;
    for (let from = 0; from < 9; from++) for (const host of [1, 2]) world.silence(host, from);
    expect(world.said).toEqual([]);
    world.connect(1, 99);
    world.connect(2, 99);
    for (let from = 0; from < 9; from++) world.silence(1, from);
    expect(world.said).toEqual([]);
  });

  test("ends with the next answer", () => {
    const world = new World();
    world.connect(2, 9);
    const open = world.pick(1, client(8)) as { upstream: Upstream; id: number };
    for (const from of [1, 2, 3]) world.silence(1, from);
    world.pool.connected(open.upstream, client(8), world.now);
    expect(world.said).toEqual(["1 rests", "1 returns"]);
  });
});

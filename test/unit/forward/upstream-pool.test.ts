import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Balance } from "../../../src/config/syntax.ts";
import * as limits from "../../../src/engine/limits.ts";
import type { Upstream } from "../../../src/forward/upstream.ts";
import {
  NONE_TRIED,
  type PoolListener,
  type UpstreamPool,
} from "../../../src/forward/upstream-pool.ts";
import { pooled, poolOf } from "../../helpers/upstreams.ts";

const address = (host: number, port = 80): SocketAddress => ({
  address: Uint8Array.of(192, 0, 2, host),
  port,
  scopeId: 0,
});
const address6 = (host: number): SocketAddress => ({
  address: Uint8Array.from([0xfd, ...Array(14).fill(0), host]),
  port: 80,
  scopeId: 0,
});
const client = (n: number) => Uint8Array.of(198, 51, n >> 8, n & 255);

/** What a pool says, as words. */
class Notes implements PoolListener {
  said: string[] = [];
  fails(): void {}
  backsOff({ address, backOffMs }: Upstream, reason: string): void {
    this.said.push(`${address.address[3]} backs off ${backOffMs / 1000} s: ${reason}`);
  }
  backsOffFor({ address }: Upstream, client: Uint8Array, backOffMs: number, reason: string): void {
    this.said.push(
      `${address.address[3]} backs off ${backOffMs / 1000} s for ${client[3]}: ${reason}`,
    );
  }
  recovered({ address }: Upstream): void {
    this.said.push(`${address.address[3]} returns`);
  }
}

function makePool(balance: Balance, hosts: number, notes = new Notes()): UpstreamPool {
  const addresses = Array.from({ length: hosts }, (_, i) => address(i + 1));
  return poolOf(balance, addresses, notes);
}

let lastId = 0;
const host = (upstream: Upstream | undefined) => upstream?.address.address[3];

/** Takes the pick of a new connection and fails it; the host that was tried. */
function failOne(pool: UpstreamPool, now: number): number | undefined {
  const id = ++lastId;
  const picked = pool.pick(client(1), 0, id, NONE_TRIED, now);
  if (picked !== undefined) pool.failed(picked, id, now, "refused", undefined);
  return host(picked);
}

function pickHost(pool: UpstreamPool, now: number, from = client(1)): number | undefined {
  return host(pool.pick(from, 0, ++lastId, NONE_TRIED, now));
}

describe("balance", () => {
  test("round-robin: each in turn, equal addresses count once", () => {
    const pool = poolOf(
      "round-robin",
      [address(1), address(2), address(1), address(3)],
      new Notes(),
    );
    expect([1, 2, 3, 4, 5, 6].map(() => pickHost(pool, 0))).toEqual([1, 2, 3, 1, 2, 3]);
  });

  test("least-connections: the one with the fewest, in turn where they are equal", () => {
    const pool = makePool("least-connections", 3);
    const first = pool.pick(client(1), 0, 1, NONE_TRIED, 0);
    expect([2, 3].map(() => pickHost(pool, 0))).toEqual([2, 3]);
    expect(host(first)).toBe(1);
    pool.closed(first as Upstream, 1);
    expect(pickHost(pool, 0)).toBe(1);
  });

  test("source-hash: a client keeps its upstream, and clients are spread evenly", () => {
    const pool = makePool("source-hash", 4);
    const shares = [0, 0, 0, 0, 0];
    for (let n = 0; n < 4000; n++) {
      const chosen = pickHost(pool, 0, client(n)) ?? 0;
      expect(pickHost(pool, 0, client(n))).toBe(chosen);
      (shares[chosen] as number)++;
    }
    for (const share of shares.slice(1)) expect(Math.abs(share - 1000)).toBeLessThan(150);
  });

  test("source-hash: one more or one less moves its own share alone", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 1, max: 254 }), { minLength: 2 }), (hosts) => {
        const [changing = 0, ...others] = hosts;
        const all = poolOf(
          "source-hash",
          hosts.map((h) => address(h)),
          new Notes(),
        );
        const fewer = poolOf(
          "source-hash",
          others.map((h) => address(h)),
          new Notes(),
        );
        for (let n = 0; n < 50; n++) {
          const before = pickHost(all, 0, client(n));
          const after = pickHost(fewer, 0, client(n));
          if (before !== changing) expect(after).toBe(before as number);
        }
      }),
    );
  });

  test("source-hash: while one rests its clients move, the others stay, and all come back", () => {
    const pool = makePool("source-hash", 3);
    const clients = Array.from({ length: 60 }, (_, n) => client(n));
    const before = clients.map((from) => pickHost(pool, 0, from));
    const resting = before[0] as number;
    for (let i = 0; i < limits.upstreamFailuresMax; i++) {
      const picked = pool.pick(client(0), 0, ++lastId, NONE_TRIED, 0) as Upstream;
      pool.failed(picked, lastId, 0, "refused", undefined);
    }
    const during = clients.map((from) => pickHost(pool, 1, from));
    for (const [i, chosen] of during.entries()) {
      if (before[i] === resting) expect(chosen).not.toBe(resting);
      else expect(chosen).toBe(before[i] as number);
    }
    const back = limits.upstreamBackOffMs;
    pool.connected(pool.pick(client(0), 0, ++lastId, NONE_TRIED, back) as Upstream, client(1), 0);
    expect(clients.map((from) => pickHost(pool, back, from))).toEqual(before);
  });
});

describe("attempts", () => {
  test("never the same twice for one connection; undefined when all have been tried", () => {
    const pool = makePool("round-robin", 3);
    const tried: Upstream[] = [];
    for (let i = 0; i < 3; i++) {
      tried.push(pool.pick(client(1), 0, 1, tried, 0) as Upstream);
    }
    expect(new Set(tried).size).toBe(3);
    expect(pool.pick(client(1), 0, 1, tried, 0)).toBeUndefined();
  });

  test("of the family that is wanted, of the other only when there is none", () => {
    const addresses = [address(1), address6(6), address(2)];
    const pool = poolOf("round-robin", addresses, new Notes());
    for (let i = 0; i < 4; i++) {
      expect(pool.pick(client(1), 4, ++lastId, NONE_TRIED, 0)?.address.address).toHaveLength(4);
      expect(pool.pick(client(1), 16, ++lastId, NONE_TRIED, 0)?.address.address).toHaveLength(16);
    }
    const only4 = makePool("round-robin", 2);
    expect(only4.pick(client(1), 16, ++lastId, NONE_TRIED, 0)).toBeDefined();
  });
});

describe("resting", () => {
  test("after failures in a row; a success in between begins anew", () => {
    const notes = new Notes();
    const pool = makePool("round-robin", 1, notes);
    failOne(pool, 0);
    failOne(pool, 0);
    pool.connected(pool.pick(client(1), 0, ++lastId, NONE_TRIED, 0) as Upstream, client(1), 0);
    failOne(pool, 0);
    failOne(pool, 0);
    expect(notes.said).toEqual([]);
    failOne(pool, 0);
    expect(notes.said).toEqual(["1 backs off 10 s: refused"]);
  });

  test("one trial at a time, then all of them; the rest doubles up to its bound", () => {
    const notes = new Notes();
    const pool = makePool("round-robin", 2, notes);
    let now = 0;
    // The other one answers, so only this one rests.
    const fail = () => {
      const id = ++lastId;
      let picked = pool.pick(client(1), 0, id, NONE_TRIED, now) as Upstream;
      if (host(picked) === 2) {
        pool.closed(picked, id);
        picked = pool.pick(client(1), 0, id, [picked], now) as Upstream;
      }
      pool.failed(picked, id, now, "refused", undefined);
    };
    for (let i = 0; i < 3; i++) fail();
    const rests: number[] = [];
    for (let i = 0; i < 7; i++) {
      rests.push(Number(notes.said.at(-1)?.match(/backs off (\d+) s/)?.[1]));
      now += (rests.at(-1) as number) * 1000;
      expect([pickHost(pool, now - 1), pickHost(pool, now - 1)]).toEqual([2, 2]);
      fail();
    }
    expect(rests).toEqual([10, 20, 40, 80, 160, 300, 300]);
    now += 300_000;
    const id = ++lastId;
    const trial = [0, 1].map(() => pool.pick(client(1), 0, id, NONE_TRIED, now) as Upstream);
    const one = trial.find((each) => host(each) === 1) as Upstream;
    expect([1, 2, 3].map(() => pickHost(pool, now))).toEqual([2, 2, 2]);
    pool.connected(one, client(1), 0);
    expect(notes.said.at(-1)).toBe("1 returns");
    expect(new Set([pickHost(pool, now), pickHost(pool, now)])).toEqual(new Set([1, 2]));
  });

  test("a trial that is given up leaves it to the next connection", () => {
    const pool = makePool("round-robin", 2);
    const both = [0, 1].map(() => pool.pick(client(1), 0, ++lastId, NONE_TRIED, 0) as Upstream);
    const bad = both.find((each) => host(each) === 1) as Upstream;
    for (let i = 0; i < 3; i++) {
      bad.active++;
      pool.failed(bad, 999, 0, "refused", undefined);
    }
    const later = limits.upstreamBackOffMs;
    const turns = () => [0, 1].map(() => pickHost(pool, later));
    expect(turns()).toContain(1);
    expect(turns()).not.toContain(1);
    pool.closed(bad, bad.probe);
    expect(turns()).toContain(1);
  });

  test("when all rest, the one that failed longest ago is tried", () => {
    const notes = new Notes();
    const pool = makePool("round-robin", 3, notes);
    for (let now = 0; now < 9; now++) failOne(pool, now);
    expect(notes.said).toHaveLength(3);
    expect([9, 10, 11, 12].map((now) => failOne(pool, now))).toEqual([1, 2, 3, 1]);
    expect(notes.said).toHaveLength(3);
    pool.connected(pool.pick(client(1), 0, ++lastId, NONE_TRIED, 13) as Upstream, client(1), 0);
    expect(notes.said.at(-1)).toBe("2 returns");
    expect([14, 15].map((now) => pickHost(pool, now))).toEqual([2, 2]);
  });

  test("what is known of an upstream stays when the list is replaced", () => {
    const pool = makePool("round-robin", 2);
    for (let i = 0; i < 6; i++) failOne(pool, 0);
    pool.replace(pooled([address(3), address(2)]));
    expect([1, 2, 3].map(() => pickHost(pool, 1))).toEqual([3, 3, 3]);
    const many = Array.from({ length: 300 }, (_, i) => address(1, i + 1));
    pool.replace(pooled(many));
    const picked = new Set(many.map(() => pool.pick(client(1), 0, 1, NONE_TRIED, 1)?.key));
    expect(picked.size).toBe(limits.upstreamsMax);
  });
});

/** A connection of the simulation, with what it has tried. */
interface Open {
  readonly id: number;
  tried: Upstream[];
  picked: Upstream;
  state: "connecting" | "connected";
}

const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("open" as const), n: fc.nat(50) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("fail" as const), n: fc.nat() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("connect" as const), n: fc.nat() }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("close" as const), n: fc.nat() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("wait" as const), n: fc.nat(30_000) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("replace" as const), n: fc.nat(31) }) },
);

/** Many connections over a pool, and what must hold after each step. */
class Simulation {
  private readonly pool: UpstreamPool;
  private readonly open: Open[] = [];
  private readonly seen = new Set<Upstream>();
  /** Of the present upstreams those that have been seen. */
  private readonly present = new Map<string, Upstream>();
  private members: Set<string>;
  private now = 1;
  private nextId = 1;

  constructor(balance: Balance) {
    this.members = new Set();
    this.pool = poolOf(balance, [], new Notes());
    this.replace(31);
  }

  replace(bits: number): void {
    const hosts = [1, 2, 3, 4, 5].filter((n) => n === 5 || (bits >> (n - 1)) & 1);
    this.pool.replace(pooled(hosts.map((n) => address(n))));
    this.members = new Set(hosts.map((n) => `192.0.2.${n}:80%0`));
    for (const key of this.present.keys()) if (!this.members.has(key)) this.present.delete(key);
  }

  run({ kind, n }: { kind: string; n: number }): void {
    const { open, pool } = this;
    const connecting = open.filter(({ state }) => state === "connecting");
    const one = connecting[n % connecting.length];
    if (kind === "open") this.pick(this.nextId++, [], n);
    if (kind === "wait") this.now += n;
    if (kind === "replace") this.replace(n);
    if (kind === "connect" && one !== undefined) {
      one.state = "connected";
      pool.connected(one.picked, client(1), 0);
    }
    if (kind === "fail" && one !== undefined) {
      open.splice(open.indexOf(one), 1);
      pool.failed(one.picked, one.id, this.now, "refused", undefined);
      if (one.tried.length < 3) this.pick(one.id, one.tried, n);
    }
    const any = open[n % open.length];
    if (kind === "close" && any !== undefined) {
      open.splice(open.indexOf(any), 1);
      pool.closed(any.picked, any.id);
    }
    this.check();
  }

  private pick(id: number, tried: Upstream[], n: number): void {
    const before = new Map([...this.present].map(([key, each]) => [key, { ...each }]));
    const picked = this.pool.pick(client(n), 0, id, tried, this.now);
    const left = [...this.members].filter((key) => !tried.some((each) => each.key === key));
    if (picked === undefined) return expect(left).toEqual([]);
    expect(left).toContain(picked.key);
    const canBeHad = (key: string) => {
      const known = before.get(key);
      return !known?.backsOffUntil || (known.backsOffUntil <= this.now && known.probe === 0);
    };
    // One that rests only when all do, and then the one that failed longest ago.
    if (!canBeHad(picked.key)) {
      expect(left.filter(canBeHad)).toEqual([]);
      for (const key of left) {
        expect(before.get(key)?.lastFailedAt).toBeGreaterThanOrEqual(picked.lastFailedAt);
      }
    }
    this.seen.add(picked);
    this.present.set(picked.key, picked);
    this.open.push({ id, tried: [...tried, picked], picked, state: "connecting" });
  }

  private check(): void {
    for (const each of this.seen) {
      expect(each.active).toBe(this.open.filter(({ picked }) => picked === each).length);
      expect(each.backOffMs).toBeLessThanOrEqual(limits.upstreamBackOffMsMax);
      const trials = this.open.filter(
        ({ id, picked, state }) => picked === each && state === "connecting" && id === each.probe,
      );
      // A trial belongs to a connection that is on its way.
      expect(trials).toHaveLength(each.probe === 0 ? 0 : 1);
      if (each.backsOffUntil === 0) expect(each.failures).toBeLessThan(limits.upstreamFailuresMax);
    }
  }
}

test.each(["round-robin", "least-connections", "source-hash"] as const)(
  "%s: whatever happens in whatever order, the invariants hold",
  (balance) => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 30, maxLength: 150 }), (steps) => {
        const simulation = new Simulation(balance);
        for (const each of steps) simulation.run(each);
      }),
      { numRuns: 300 },
    );
  },
);

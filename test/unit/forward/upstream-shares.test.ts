import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Balance } from "../../../src/config/syntax.ts";
import { slowStartLeast } from "../../../src/engine/limits.ts";
import { newUpstream, type Upstream } from "../../../src/forward/upstream.ts";
import { chooseByShare, chooseInTurn } from "../../../src/forward/upstream-choice.ts";
import { NONE_TRIED, UpstreamPool } from "../../../src/forward/upstream-pool.ts";
import type { PooledAddress, PoolRules } from "../../../src/workers/protocol.ts";
import { UpstreamBoard, UpstreamState } from "../../../src/workers/upstream-board.ts";
import { poolRules } from "../../helpers/upstreams.ts";

const silent = { fails() {}, backsOff() {}, backsOffFor() {}, recovered() {} };
const client = (n: number) => Uint8Array.of(198, 51, (n >> 8) & 255, n & 255);

/** A pool whose upstreams have these weights; slot i is the i-th. */
class World {
  readonly board = new UpstreamBoard(UpstreamBoard.memory(1));
  readonly pool: UpstreamPool;
  readonly addresses: PooledAddress[];
  now = 1_000;
  private id = 0;

  constructor(
    balance: Balance,
    private readonly weights: readonly number[],
    own: Partial<PooledAddress & PoolRules> = {},
    backups: readonly number[] = [],
  ) {
    this.addresses = weights.map((_, slot) => ({
      address: { address: Uint8Array.of(192, 0, 2, slot + 1), port: 80, scopeId: 0 },
      ...{ slot, isBackup: backups.includes(slot), slowStartMs: own.slowStartMs ?? 0 },
    }));
    for (const [slot, weight] of weights.entries()) this.board.set(slot, 0, weight);
    const rules = { ...poolRules(balance), ...own };
    this.pool = new UpstreamPool(rules, this.addresses, this.board, silent);
  }

  /** Picks for a client; the connection stays open unless it `ends`. -1: none is picked. */
  pick(n = 0, ends = true, tried: readonly Upstream[] = NONE_TRIED): number {
    const id = ++this.id;
    const picked = this.pool.pick(client(n), 0, id, tried, this.now);
    if (picked === undefined) return -1;
    if (ends) this.pool.closed(picked, id);
    return picked.slot;
  }

  /** So many picks, each of another client: how often each was picked. */
  picks(count: number, ends = true): number[] {
    const counts = this.weights.map(() => 0);
    for (let n = 0; n < count; n++) {
      const slot = this.pick(n, ends);
      if (slot >= 0) (counts[slot] as number)++;
    }
    return counts;
  }

  state(slot: number, state: number): void {
    this.board.set(slot, state, this.weights[slot] as number);
  }

  fail(slot: number): void {
    for (let tries = 0; tries < 1_000; tries++) {
      const id = ++this.id;
      const picked = this.pool.pick(client(0), 0, id, NONE_TRIED, this.now);
      if (picked === undefined) return;
      if (picked.slot !== slot) this.pool.closed(picked, id);
      else return this.pool.failed(picked, id, this.now, "refused", undefined);
    }
  }
}

const balances = ["round-robin", "least-connections", "source-hash"] as const;
const weights = fc.array(fc.integer({ min: 0, max: 20 }), { minLength: 1, maxLength: 8 });
const sum = (all: readonly number[]) => all.reduce((a, b) => a + b, 0);

describe("shares", () => {
  test("round-robin, and least-connections of short ones: exactly the weights", () => {
    fc.assert(
      fc.property(
        weights,
        fc.constantFrom("round-robin" as const, "least-connections" as const),
        (given, balance) => {
          const world = new World(balance, given);
          for (let round = 0; round < 3; round++) {
            expect(world.picks(sum(given))).toEqual(given);
          }
        },
      ),
    );
  });

  test("round-robin is smooth: never two behind or ahead of its share", () => {
    fc.assert(
      fc.property(weights, fc.integer({ min: 1, max: 200 }), (given, count) => {
        const total = sum(given);
        if (total === 0) return;
        for (const [i, picked] of new World("round-robin", given).picks(count).entries()) {
          expect(Math.abs(picked - (count * (given[i] as number)) / total)).toBeLessThan(2);
        }
      }),
    );
  });

  test("least-connections of long ones: as equal by weight as whole connections can be", () => {
    fc.assert(
      fc.property(weights, fc.integer({ min: 1, max: 200 }), (given, count) => {
        const open = new World("least-connections", given).picks(count, false);
        for (const [i, mine] of open.entries()) {
          if (mine === 0) continue;
          for (const [j, other] of open.entries()) {
            if (given[j] === 0) continue;
            const [own, others] = [given[i] as number, given[j] as number];
            expect((mine - 1) * others).toBeLessThanOrEqual(other * own);
          }
        }
      }),
    );
  });

  test("source-hash: as the weights of many clients", () => {
    const counts = new World("source-hash", [100, 200, 0, 50, 150]).picks(20_000);
    for (const [i, share] of [4_000, 8_000, 0, 2_000, 6_000].entries()) {
      expect(Math.abs((counts[i] as number) - share)).toBeLessThanOrEqual(0.1 * share);
    }
  });

  test("source-hash: a changed weight moves clients from or to that upstream alone", () => {
    fc.assert(
      fc.property(weights, fc.nat(7), fc.integer({ min: 0, max: 20 }), (given, at, weight) => {
        const slot = at % given.length;
        const world = new World("source-hash", given);
        const before = Array.from({ length: 100 }, (_, n) => world.pick(n));
        world.board.set(slot, 0, weight);
        const isMore = weight > (given[slot] as number);
        for (const [n, was] of before.entries()) {
          const is = world.pick(n);
          if (is === was) continue;
          if (isMore) expect(is).toBe(slot);
          else expect(was).toBe(slot);
        }
      }),
    );
  });

  test("equal weights choose by hash as no weights do", () => {
    const members = Array.from({ length: 9 }, (_, slot) => {
      const address = { address: Uint8Array.of(10, 0, 0, slot), port: 1, scopeId: 0 };
      const member = newUpstream({ address, slot, isBackup: false, slowStartMs: 0 }, `${slot}`);
      member.share = 7;
      return member;
    });
    for (let source = 0; source < 2_000; source++) {
      const scope = {
        ...{ members, balance: "source-hash" as const, family: 0, tried: NONE_TRIED },
        ...{ avoided: undefined, source: Math.imul(source, 0x9e3779b1) >>> 0, turn: 0, now: 0 },
      };
      expect(chooseByShare(scope, 0, 9)).toBe(chooseInTurn(scope, 0, 9));
    }
  });
});

describe("states", () => {
  const anyState = fc.integer({ min: 0, max: 7 });
  const upstream = fc.record({ weight: fc.nat(3), state: anyState, isBackup: fc.boolean() });

  test.each(balances)("%s: none that is drained or down while another one is there", (balance) => {
    fc.assert(
      fc.property(fc.array(upstream, { minLength: 1, maxLength: 6 }), fc.nat(500), (all, n) => {
        const backups = all.flatMap(({ isBackup }, i) => (isBackup ? [i] : []));
        const world = new World(
          balance,
          all.map(({ weight }) => weight),
          {},
          backups,
        );
        for (const [slot, { state }] of all.entries()) world.state(slot, state);
        const takes = ({ weight, state }: (typeof all)[0]) => weight > 0 && state === 0;
        const primary = all.some((each) => takes(each) && !each.isBackup);
        for (let i = 0; i < 10; i++) {
          const slot = world.pick(n + i);
          const picked = all[slot];
          if (picked === undefined) {
            // Only those are left that an administrator has taken out.
            const left = ({ weight, state }: (typeof all)[0]) =>
              weight > 0 && (state & ~UpstreamState.checkDown) === 0;
            expect(all.some(left)).toBeFalse();
          } else if (all.some(takes)) {
            expect(takes(picked)).toBeTrue();
            expect(picked.isBackup).toBe(!primary);
          } else {
            expect(picked.state).toBe(UpstreamState.checkDown);
            expect(picked.weight).toBeGreaterThan(0);
          }
        }
      }),
    );
  });

  test("with all down: the one down longest, or none", () => {
    const tries = new World("round-robin", [1, 1, 1]);
    tries.pick();
    for (const slot of [2, 0, 1]) {
      tries.now += 1_000;
      tries.state(slot, UpstreamState.checkDown);
      tries.pick();
    }
    expect([tries.pick(), tries.pick()]).toEqual([2, 2]);
    // It fails again: then the next one.
    tries.now += 1_000;
    tries.fail(2);
    expect(tries.pick()).toBe(0);
    const refuses = new World("round-robin", [1, 1], { whenAllDown: "refuse" });
    refuses.state(0, UpstreamState.checkDown);
    for (let i = 0; i < 3; i++) refuses.fail(1);
    expect(refuses.pick()).toBe(-1);
    refuses.state(0, 0);
    expect(refuses.pick()).toBe(0);
  });

  test("backups take over, and give back", () => {
    const world = new World("round-robin", [1, 1, 1, 3], {}, [2, 3]);
    expect(world.picks(4)).toEqual([2, 2, 0, 0]);
    world.state(0, UpstreamState.drained);
    expect(world.picks(4)).toEqual([0, 4, 0, 0]);
    for (let i = 0; i < 3; i++) world.fail(1);
    expect(world.picks(8)).toEqual([0, 0, 2, 6]);
    world.state(0, 0);
    expect(world.picks(4)).toEqual([4, 0, 0, 0]);
  });

  test("a retry goes to a backup when no other is left", () => {
    const world = new World("round-robin", [1, 1], {}, [1]);
    const first = world.pool.pick(client(0), 0, 1_000, NONE_TRIED, 0) as Upstream;
    expect([first.slot, world.pick(0, true, [first])]).toEqual([0, 1]);
  });

  test("those that went down are told once, whoever looked first", () => {
    const world = new World("round-robin", [1, 1, 1]);
    world.pick();
    world.state(1, UpstreamState.checkDown);
    world.pick();
    world.state(2, UpstreamState.adminDown);
    world.state(0, UpstreamState.drained);
    expect(world.pool.takeFallen(world.now).map(({ slot }) => slot)).toEqual([1, 2]);
    expect(world.pool.takeFallen(world.now)).toEqual([]);
    world.state(1, UpstreamState.checkDown | UpstreamState.adminDown);
    expect(world.pool.takeFallen(world.now)).toEqual([]);
    for (const state of [0, UpstreamState.checkDown]) {
      world.state(1, state);
      expect(world.pool.takeFallen(world.now)).toHaveLength(state === 0 ? 0 : 1);
    }
  });
});

describe("slow start", () => {
  test("the share rises from its least to all of it", () => {
    const world = new World("round-robin", [100, 100], { slowStartMs: 10_000 });
    world.board.ramp(1);
    world.now = performance.now();
    const share = () => (world.picks(1_050)[1] as number) / 1_050;
    expect(share()).toBeCloseTo(slowStartLeast / (1 + slowStartLeast), 2);
    const from = world.now;
    for (const part of [0.25, 0.5, 0.75]) {
      world.now = from + part * 10_000;
      expect(share()).toBeCloseTo(part / (1 + part), 2);
    }
    world.now = from + 10_001;
    expect(share()).toBeCloseTo(0.5, 2);
  });

  test("begins after a back-off, too", () => {
    const world = new World("least-connections", [100, 100], { slowStartMs: 10_000 });
    for (let i = 0; i < 3; i++) world.fail(1);
    expect(world.picks(4)).toEqual([4, 0]);
    world.now += 10_000;
    const both = [1, 2].map((id) =>
      world.pool.pick(client(0), 0, 10_000 + id, NONE_TRIED, world.now),
    );
    const probe = both.find((each) => each?.slot === 1) as Upstream;
    world.pool.connected(probe, client(0), world.now);
    for (const [i, each] of both.entries()) world.pool.closed(each as Upstream, 10_001 + i);
    const [first = 0, second = 0] = world.picks(210, false);
    expect(second).toBeLessThan(20);
    expect(first + second).toBe(210);
  });
});

describe("counters", () => {
  test("each Worker has a row of its own, and the sum is that of all", () => {
    const memory = UpstreamBoard.memory(3);
    const boards = [0, 1, 2].map((row) => new UpstreamBoard(memory, row));
    for (const [row, board] of boards.entries()) {
      board.count(7, 0, row + 1);
      board.count(7, 6, 1);
      board.count(8, 0, 100);
    }
    const main = new UpstreamBoard(memory);
    expect(main.counters(7)).toMatchObject({ connects: 6, open: 3, sessions: 0 });
    main.workerDied(1);
    expect(main.counters(7)).toMatchObject({ connects: 6, open: 2 });
    main.reset(7);
    expect(main.counters(7)).toMatchObject({ connects: 0, open: 0 });
    expect(main.counters(8)).toMatchObject({ connects: 300 });
  });

  test("picks, ends, failures and bytes of a pool", () => {
    const world = new World("round-robin", [1, 1]);
    const [a, b] = [1, 2].map(
      (id) => world.pool.pick(client(0), 0, id, NONE_TRIED, world.now) as Upstream,
    ) as [Upstream, Upstream];
    world.pool.carried(a, 10, 0);
    world.pool.carried(a, 5, 7);
    world.pool.countFailure(b, "refused");
    world.pool.failed(b, 2, world.now, "refused", undefined);
    expect(world.board.counters(a.slot)).toMatchObject({
      ...{ connects: 1, open: 1, refused: 0, clientBytes: 15, upstreamBytes: 7 },
    });
    expect(world.board.counters(b.slot)).toMatchObject({ connects: 1, open: 0, refused: 1 });
    for (let i = 0; i < 2; i++) world.fail(b.slot);
    expect(world.board.counters(b.slot).backsOff).toBe(1);
  });

  test("one that backs off is counted until it works, is replaced, or the service ends", () => {
    const world = new World("round-robin", [1, 1]);
    const backsOff = () => [0, 1].map((slot) => world.board.counters(slot).backsOff);
    const fail3 = () => {
      for (let i = 0; i < 6; i++) world.fail(i % 2);
    };
    fail3();
    expect(backsOff()).toEqual([1, 1]);
    const id = 9_999;
    const picked = world.pool.pick(client(0), 0, id, NONE_TRIED, world.now) as Upstream;
    world.pool.connected(picked, client(0), world.now);
    world.pool.closed(picked, id);
    expect(backsOff().filter((count) => count === 1)).toHaveLength(1);
    world.pool.replace(world.addresses.filter(({ slot }) => slot === picked.slot));
    expect(backsOff()).toEqual([0, 0]);
    world.pool.replace(world.addresses);
    fail3();
    world.pool.close();
    expect(backsOff()).toEqual([0, 0]);
  });
});

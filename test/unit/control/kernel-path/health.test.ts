/** Passive health of the kernel path: what makes an upstream back off, and what ends that. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { PathHealth } from "../../../../src/control/kernel-path/health.ts";
import { type SharingUpstream, sharesOf } from "../../../../src/control/kernel-path/shares.ts";
import { assignSlots } from "../../../../src/control/kernel-path/slots.ts";
import { UpstreamState } from "../../../../src/workers/upstream-board.ts";

const settings = { failures: 3, backOffMs: 1000, backOffMsMax: 4000 };
const client = (number: number) => Uint8Array.of(10, 0, 0, number);

/** An upstream `a` of which connections are answered or fail. */
function watch() {
  const answered = new Set<number>();
  let now = 0;
  let lastId = 0;
  const health = new PathHealth(settings, () => new Set(answered));
  health.replace(["a"]);
  return {
    health,
    answer: () => void answered.add(++lastId),
    fail: (...clients: number[]) => {
      for (const each of clients) health.failed("a", client(each), "refused");
    },
    tick: (ms = 1000) => {
      now += ms;
      return health.tick(now).map((each) => {
        return each.kind === "backs-off" ? `${each.kind} ${each.ms} ${each.why}` : each.kind;
      });
    },
  };
}

describe("an upstream", () => {
  test("that several clients cannot reach, and that answers nobody meanwhile, backs off", () => {
    const { health, answer, fail, tick } = watch();
    answer();
    fail(1, 2, 3);
    expect(tick()).toEqual([]);
    expect(tick()).toEqual(["backs-off 1000 refused"]);
    expect(health.state("a")).toBe("backing-off");
    expect(health.failedAt("a")).toBe(2000);
  });

  test("that answers in between is up, however often it fails", () => {
    const { fail, answer, tick } = watch();
    for (let i = 0; i < 10; i++) {
      fail(1, 2, 3);
      expect(tick()).toEqual([]);
      answer();
      expect(tick()).toEqual([]);
    }
  });

  test("that fails for one client alone is up", () => {
    const { fail, tick } = watch();
    for (let i = 0; i < 10; i++) {
      fail(1, 1, 1, 1);
      expect(tick()).toEqual([]);
    }
  });

  test("of which two clients of one /64 bear witness has one witness", () => {
    const { health, tick } = watch();
    const v6 = (low: number) => Uint8Array.of(0x20, 1, 0xd, 0xb8, ...new Array(11).fill(0), low);
    for (let i = 0; i < 5; i++) {
      for (const low of [1, 2, 3]) health.failed("a", v6(low), "no answer");
      expect(tick()).toEqual([]);
    }
  });

  test("gets a trial, and backs off twice as long each time up to the bound", () => {
    const { health, fail, tick } = watch();
    fail(1, 2, 3);
    tick();
    tick();
    for (const ms of [1000, 2000, 4000, 4000]) {
      expect(tick(ms - 1)).toEqual([]);
      expect(tick(1)).toEqual(["trial"]);
      expect(health.state("a")).toBe("trial");
      fail(9);
      expect(tick()).toEqual([`backs-off ${Math.min(2 * ms, 4000)} refused`]);
    }
  });

  test("that answers in its trial has recovered, and begins again with the shortest", () => {
    const { health, answer, fail, tick } = watch();
    answer();
    fail(1, 2, 3);
    tick();
    tick();
    expect(tick()).toEqual(["trial"]);
    expect(tick()).toEqual([]);
    answer();
    expect(tick()).toEqual(["recovered"]);
    expect(health.state("a")).toBe("up");
    fail(1, 2, 3);
    tick();
    expect(tick()).toEqual(["backs-off 1000 refused"]);
  });

  test("is known as long as it is one of them", () => {
    const { health, fail, tick } = watch();
    fail(1, 2, 3);
    tick();
    tick();
    health.replace(["a", "b"]);
    expect([health.state("a"), health.state("b")]).toEqual(["backing-off", "up"]);
    health.replace(["b"]);
    health.replace(["a"]);
    expect(health.state("a")).toBe("up");
    health.failed("nobody", client(1), "refused");
  });
});

test("whatever happens: a trial follows a back-off, and back-offs stay within their bounds", () => {
  const step = fc.oneof(
    fc.record({ fail: fc.nat(8) }),
    fc.record({ ms: fc.integer({ min: 1, max: 5000 }) }),
    fc.constant({}),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const { answer, fail, tick } = watch();
      let state = "up";
      for (const each of steps) {
        if ("fail" in each) fail(each.fail);
        else if (!("ms" in each)) answer();
        else {
          for (const change of tick(each.ms)) {
            const [kind = "", ms] = change.split(" ");
            if (kind === "trial") expect(state).toBe("backs-off");
            if (kind === "recovered") expect(state).toBe("trial");
            if (kind === "backs-off") {
              expect(state).not.toBe("backs-off");
              expect(Number(ms)).toBeWithin(1000, 4001);
            }
            state = kind === "recovered" ? "up" : kind;
          }
        }
      }
    }),
  );
});

describe("shares", () => {
  const upstream = (key: string, changes: Partial<SharingUpstream> = {}): SharingUpstream => {
    const plain = { weight: 100, isBackup: false, standing: 0, state: "up" } as const;
    return { key, ...plain, failedAt: Number.NEGATIVE_INFINITY, ...changes };
  };
  const shares = (all: readonly SharingUpstream[], tries = true) =>
    sharesOf(all, tries).map(({ weight }) => weight);
  const down = (failedAt: number) => ({ state: "backing-off", failedAt }) as const;

  test("by weight among those that are up; backups get none", () => {
    const all = [upstream("a", { weight: 300 }), upstream("b"), upstream("c", { isBackup: true })];
    expect(shares(all)).toEqual([300, 100, 0]);
  });

  test("of one that backs off nothing; backups get theirs when no other one is left", () => {
    const all = [upstream("a", down(1)), upstream("b"), upstream("c", { isBackup: true })];
    expect(shares(all)).toEqual([0, 100, 0]);
    expect(shares([upstream("a", down(1)), ...all.slice(2)])).toEqual([0, 100]);
  });

  test("one on trial has one slot, and all of them where there is no other", () => {
    const all = [upstream("a", { state: "trial" }), upstream("b"), upstream("c")];
    const slots = assignSlots(sharesOf(all, true), 256);
    expect(slots.filter((key) => key === "a")).toHaveLength(1);
    expect(shares([upstream("a", { state: "trial" }), upstream("b", down(1))])).toEqual([100, 0]);
  });

  const { drained, adminDown, checkDown } = UpstreamState;

  test("of one that is drained or down nothing, whatever its connections show", () => {
    for (const standing of [drained, adminDown, checkDown, adminDown | checkDown]) {
      for (const state of ["up", "trial", "backing-off"] as const) {
        const all = [upstream("a", { standing, state }), upstream("b")];
        expect(shares(all)).toEqual([0, 100]);
        expect(shares([...all.slice(0, 1), upstream("b", { isBackup: true })])).toEqual([0, 100]);
      }
    }
    expect(shares([upstream("a", { state: "backing-off" }), upstream("b")])).toEqual([0, 100]);
  });

  test("what the administrator has taken out is not tried; what checks find down is", () => {
    const out = [upstream("a", { standing: drained }), upstream("b", { standing: adminDown })];
    expect(shares(out)).toEqual([0, 0]);
    const both = upstream("c", { standing: drained | checkDown, failedAt: 1 });
    expect(shares([...out, both])).toEqual([0, 0, 0]);
    const last = [upstream("d", { standing: checkDown, failedAt: 2 }), upstream("e", down(3))];
    expect(shares([...out, ...last])).toEqual([0, 0, 100, 0]);
    expect(shares([...out, ...last], false)).toEqual([0, 0, 0, 0]);
  });

  test("with none left the one that failed longest ago is tried, or nobody is", () => {
    const all = [upstream("a", down(2)), upstream("b", down(1)), upstream("c", { weight: 0 })];
    expect(shares(all)).toEqual([0, 100, 0]);
    expect(shares(all, false)).toEqual([0, 0, 0]);
  });
});

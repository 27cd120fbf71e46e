/** Any Plan on any system: applied it is there, removed it is gone, failed it changes nothing. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { NFT_TABLE_F_PERSIST } from "../../../../ffi/netlink/constants.ts";
import type { Rule } from "../../../../ffi/netlink/rule.ts";
import { NetlinkError } from "../../../../ffi/netlink/socket.ts";
import type { Port } from "../../../../ffi/types.ts";
import { applyParts } from "../../../../src/capture/live/apply.ts";
import { findConflicts } from "../../../../src/capture/live/conflicts.ts";
import { readCurrentState } from "../../../../src/capture/live/current-state.ts";
import { type DesiredState, partsOf } from "../../../../src/capture/live/desired-state.ts";
import { compare } from "../../../../src/capture/live/differences.ts";
import { removeParts } from "../../../../src/capture/live/remove.ts";
import { parseIntent } from "../../../../src/capture/plan/intent.ts";
import { makePlan } from "../../../../src/capture/plan/plan.ts";
import { parseCidr } from "../../../../src/net/cidr.ts";
import { FakeKernel, Killed } from "../../../helpers/fake-kernel.ts";

const tag = 116;

const network = (text: string) => {
  const parsed = parseCidr(text);
  if (!parsed.ok) throw new Error(parsed.error);
  return parsed.value;
};

/** A Plan's parts, with the table that its routes are in. */
interface Case {
  readonly parts: DesiredState;
  readonly table: number;
}

function caseOf(request: object): Case {
  const intent = parseIntent(request);
  if (!intent.ok) throw new Error(intent.issue.code);
  return { parts: partsOf(makePlan(intent.value), () => 1), table: intent.value.table };
}

const requests = fc.record({
  ports: fc.uniqueArray(fc.integer({ min: 1, max: 65535 }), { minLength: 1, maxLength: 4 }),
  networks: fc.subarray(["8.8.8.8", "10.0.0.0/8", "172.16.0.0/12", "203.0.113.128/25"]),
  v6: fc.boolean(),
  protocols: fc.subarray(["tcp", "udp"], { minLength: 1 }),
  toPort: fc.option(fc.constant(50080)),
  bit: fc.integer({ min: 0, max: 7 }),
  table: fc.integer({ min: 100, max: 103 }),
  priority: fc.integer({ min: 50, max: 53 }),
});

const cases = casesOf({});
/** A set-up of another name, whose marks are its own; tables and priorities may be shared. */
const others = casesOf({ tableName: "tproxyd-b" }, 8);

function casesOf(more: object, firstBit = 0): fc.Arbitrary<Case> {
  return requests.map(({ networks, v6, bit, toPort, ports, ...rest }) =>
    caseOf({
      ...more,
      ...rest,
      ports: ports.map((port) => ({ from: port as Port, to: port as Port })),
      ...(networks.length > 0 && !v6 ? { destinations: networks.map(network) } : {}),
      ...(toPort === null ? {} : { toPort }),
      mark: { value: 1 << (firstBit + bit), mask: 1 << (firstBit + bit) },
    }),
  );
}

/** Somebody else's rules and routes, which are there before, meanwhile and after. */
const foreign = fc.record({
  rules: fc.uniqueArray(fc.integer({ min: 1000, max: 1010 }), { maxLength: 3 }),
  routes: fc.uniqueArray(fc.integer({ min: 300, max: 310 }), { maxLength: 3 }),
});

function withForeign({ rules, routes }: { rules: number[]; routes: number[] }): FakeKernel {
  const kernel = new FakeKernel();
  kernel.rules = rules.map((priority): Rule => ({ family: 2, priority, table: 254, protocol: 3 }));
  kernel.routes = routes.map((table) => ({ family: 2, type: 2, table, protocol: 4, oif: 1 }));
  return kernel;
}

const live = (kernel: FakeKernel, { table, parts }: Case) =>
  readCurrentState(kernel, { tables: [table], tag, name: parts.firewall.table.name });

function apply(kernel: FakeKernel, wanted: Case, options: object = {}) {
  return applyParts(kernel, wanted.parts, live(kernel, wanted), { tag, ...options });
}

function remove(kernel: FakeKernel, wanted: Case, everything = false) {
  return removeParts(kernel, wanted.parts, live(kernel, wanted), { tag, everything });
}

const differences = (kernel: FakeKernel, wanted: Case) =>
  compare(wanted.parts, live(kernel, wanted), tag);

describe("whatever is there before:", () => {
  test("applied, it is as the Plan says, and a second time changes nothing", () => {
    fc.assert(
      fc.property(
        foreign,
        fc.option(cases),
        cases,
        fc.boolean(),
        (others, earlier, wanted, owned) => {
          const kernel = withForeign(others);
          if (earlier !== null) apply(kernel, earlier, { owned });
          const first = apply(kernel, wanted, { owned });
          expect(first.owned).toBe(owned);
          expect(differences(kernel, wanted)).toEqual([]);
          const changes = kernel.changes;
          expect(apply(kernel, wanted, { owned })).toEqual({ changes: [], owned });
          expect(kernel.changes).toBe(changes);
        },
      ),
      { numRuns: 60 },
    );
  });

  test("removed, what was there before is there, and nothing else", () => {
    fc.assert(
      fc.property(foreign, cases, fc.boolean(), (others, wanted, everything) => {
        const kernel = withForeign(others);
        const before = kernel.dump();
        apply(kernel, wanted);
        expect(kernel.dump()).not.toBe(before);
        remove(kernel, wanted, everything);
        expect(kernel.dump()).toBe(before);
        expect(remove(kernel, wanted, everything).changes).toEqual([]);
      }),
    );
  });

  test("what somebody took away is put back by applying, and missed by nobody in removing", () => {
    fc.assert(
      fc.property(cases, fc.array(fc.nat(9), { maxLength: 5 }), (wanted, losses) => {
        const kernel = new FakeKernel();
        const before = kernel.dump();
        const lose = () => {
          for (const loss of losses) {
            const all = [kernel.rules, kernel.routes, kernel.tables] as unknown[][];
            const some = all[loss % 3] ?? [];
            some.splice(loss % Math.max(1, some.length), 1);
          }
        };
        apply(kernel, wanted);
        const complete = kernel.dump();
        lose();
        if (kernel.dump() !== complete) expect(differences(kernel, wanted)).not.toEqual([]);
        apply(kernel, wanted);
        expect(differences(kernel, wanted)).toEqual([]);
        lose();
        remove(kernel, wanted);
        expect(kernel.dump()).toBe(before);
      }),
    );
  });
});

test("one set-up beside another: each is complete until it is removed, and neither is left", () => {
  fc.assert(
    fc.property(foreign, cases, others, cases, fc.boolean(), (around, one, two, next, isFirst) => {
      const kernel = withForeign(around);
      const before = kernel.dump();
      apply(kernel, one);
      apply(kernel, two);
      for (const each of [one, two]) expect(differences(kernel, each)).toEqual([]);
      apply(kernel, next);
      for (const each of [next, two]) expect(differences(kernel, each)).toEqual([]);
      const [gone, left] = isFirst ? [next, two] : [two, next];
      remove(kernel, gone);
      expect(differences(kernel, left)).toEqual([]);
      remove(kernel, left);
      expect(kernel.dump()).toBe(before);
    }),
    { numRuns: 20 },
  );
});

test("a request that fails is as if nothing had been asked for", () => {
  fc.assert(
    fc.property(foreign, cases, fc.nat(4), (others, wanted, failAt) => {
      const kernel = withForeign(others);
      const before = kernel.dump();
      const requests = wanted.parts.routing.length + 1;
      kernel.options = { failAt: failAt % requests };
      expect(() => apply(kernel, wanted)).toThrow(NetlinkError);
      expect(kernel.dump()).toBe(before);
    }),
  );
});

describe("a process that is killed at any moment", () => {
  const killed = (kernel: FakeKernel, work: () => void) => {
    try {
      work();
    } catch (error) {
      if (!(error instanceof Killed)) throw error;
    }
    kernel.end();
  };
  const isInForceOrHarmless = (kernel: FakeKernel, wanted: Case) => {
    const captures = kernel.tables.some(({ rules }) => rules.length > 0);
    if (captures) expect(differences(kernel, wanted)).toEqual([]);
    remove(kernel, wanted);
    expect(kernel.dump()).toBe("");
  };

  test("of applying: all is there, or nothing captures; removing clears either", () => {
    fc.assert(
      fc.property(cases, fc.nat(6), (wanted, killAt) => {
        const kernel = new FakeKernel();
        kernel.options = { killAt };
        killed(kernel, () => apply(kernel, wanted));
        isInForceOrHarmless(kernel, wanted);
      }),
    );
  });

  test("of holding: nothing captures, and with closed what was captured is dropped", () => {
    fc.assert(
      fc.property(cases, fc.nat(8), fc.boolean(), (wanted, killAt, closed) => {
        const kernel = new FakeKernel();
        kernel.options = { killAt };
        killed(kernel, () => apply(kernel, wanted, { owned: true, closed }));
        const done = killAt > wanted.parts.routing.length;
        const names = closed && done ? ["tproxyd_closed"] : [];
        expect(kernel.tables.map(({ table }) => table.name)).toEqual(names);
        remove(kernel, wanted);
        expect(kernel.dump()).toBe("");
      }),
    );
  });

  test("of removing: all is there, or nothing captures", () => {
    fc.assert(
      fc.property(cases, fc.nat(6), (wanted, killAt) => {
        const kernel = new FakeKernel();
        apply(kernel, wanted);
        kernel.options = { killAt: kernel.changes + killAt };
        killed(kernel, () => remove(kernel, wanted));
        isInForceOrHarmless(kernel, wanted);
      }),
    );
  });
});

describe("an owner", () => {
  const wanted = caseOf({ ports: [{ from: 80, to: 80 }] });

  test("has the table for itself", () => {
    const kernel = new FakeKernel();
    expect(apply(kernel, wanted, { owned: true }).owned).toBe(true);
    expect(kernel.tables[0]?.table.owner).toBe(kernel.netfilter.portId);
    expect(differences(kernel, wanted)).toEqual([]);
  });

  test("is done without where the kernel knows none", () => {
    const kernel = new FakeKernel();
    kernel.options = { noOwner: true };
    expect(apply(kernel, wanted, { owned: true }).owned).toBe(false);
    expect(kernel.tables[0]?.table.owner).toBeUndefined();
    expect(differences(kernel, wanted)).toEqual([]);
  });

  test("that outlives its process stays, and without an owner on kernels before 6.9", () => {
    const kernel = new FakeKernel();
    expect(apply(kernel, wanted, { owned: true, persists: true }).owned).toBe(true);
    kernel.end();
    expect(kernel.tables[0]?.table).toMatchObject({ flags: NFT_TABLE_F_PERSIST });
    expect(kernel.tables[0]?.table.owner).toBeUndefined();
    const older = new FakeKernel();
    older.options = { noPersist: true };
    expect(apply(older, wanted, { owned: true, persists: true }).owned).toBe(false);
    older.end();
    expect(differences(older, wanted)).toEqual([]);
    remove(older, wanted);
    expect(older.tables).toEqual([]);
  });

  test("that another process is refuses to be removed", () => {
    const kernel = new FakeKernel();
    apply(kernel, wanted, { owned: true });
    const [stored] = kernel.tables;
    if (stored !== undefined) stored.table = { ...stored.table, owner: 1 };
    expect(() => remove(kernel, wanted)).toThrow("EPERM");
  });
});

test("a kernel without IPv6 is good for IPv4", () => {
  const wanted = caseOf({ families: [4], ports: [{ from: 80, to: 80 }] });
  const kernel = new FakeKernel();
  kernel.options = { noIpv6: true };
  apply(kernel, wanted);
  expect(differences(kernel, wanted)).toEqual([]);
  remove(kernel, wanted);
  expect(kernel.dump()).toBe("");
});

test("a Plan is in no conflict with itself, nor with what it takes the place of", () => {
  fc.assert(
    fc.property(foreign, cases, cases, (others, earlier, wanted) => {
      const kernel = withForeign(others);
      apply(kernel, earlier);
      expect(findConflicts(wanted.parts, live(kernel, wanted), tag)).toEqual([]);
    }),
  );
});

/** Whose an ip rule or a route is, and which names and marks are free. */

import { describe, expect, test } from "bun:test";
import { NFPROTO_INET } from "../../../../ffi/netlink/constants.ts";
import type { Route } from "../../../../ffi/netlink/route.ts";
import type { Rule } from "../../../../ffi/netlink/rule.ts";
import type { Mark, Port } from "../../../../ffi/types.ts";
import { chooseIdentity } from "../../../../src/capture/live/choose.ts";
import type { CurrentState } from "../../../../src/capture/live/current-state.ts";
import { partsOf } from "../../../../src/capture/live/desired-state.ts";
import { Busy, exclusively } from "../../../../src/capture/live/lock.ts";
import { drainingName, isDraining, lockName, setupOf } from "../../../../src/capture/live/names.ts";
import {
  type LivePart,
  neededBy,
  type Setup,
  setupFrom,
} from "../../../../src/capture/live/setups.ts";
import { parseIntent } from "../../../../src/capture/plan/intent.ts";
import { makePlan } from "../../../../src/capture/plan/plan.ts";
import { FakeKernel } from "../../../helpers/fake-kernel.ts";

const [AF_INET, AF_INET6, tag] = [2, 10, 116];
const marks = (value: number, families: (4 | 6)[] = [4, 6]) =>
  families.map((family) => ({ family, mark: { value: value as Mark, mask: value } }));
const setup = (name: string, members: Partial<Setup>): Setup => ({
  ...{ name, tables: [{ family: NFPROTO_INET, name }], marks: [], bitsRead: 0, draining: false },
  ...members,
});
const rule = (mark: number, members: Partial<Rule> = {}): Rule => ({
  ...{ family: AF_INET, priority: 100, table: 100, protocol: tag, mark, mask: mark },
  ...members,
});
const unmarked = (members: Partial<Rule> = {}): Rule => {
  const { mark: _, mask: __, ...rest } = rule(0, { iif: "lo", ...members });
  return rest;
};
const route = (table: number, family = AF_INET): Route => ({
  ...{ family, type: 2, table, protocol: tag, oif: 1 },
});

describe("what a set-up needs:", () => {
  const needs = (one: Setup, rules: Rule[], part: Rule | Route) => {
    const live: LivePart =
      "type" in part ? { kind: "route", route: part } : { kind: "rule", rule: part };
    return neededBy([one], rules)(live);
  };
  const one = setup("tproxyd", { marks: marks(1) });
  const its = rule(1);
  const cases: [what: string, setup: Setup, rules: Rule[], part: Rule | Route, needed: boolean][] =
    [
      ["the ip rule that asks for its mark", one, [its], its, true],
      ["no rule for another mark", one, [its], rule(4), false],
      [
        "no rule of a family that it does not mark",
        setup("x", { marks: marks(1, [6]) }),
        [its],
        its,
        false,
      ],
      ["the routes of the table that its rule names", one, [its], route(100), true],
      ["no route of another table", one, [its], route(101), false],
      [
        "no route of the other family without a rule there",
        one,
        [its],
        route(100, AF_INET6),
        false,
      ],
      ["a rule for a backend here", one, [its], unmarked(), true],
      ["no such rule of another priority", one, [its], unmarked({ priority: 101 }), false],
      ["no such rule without its own", one, [], unmarked(), false],
    ];
  test.each(cases)("%s", (_, setup, rules, part, needed) => {
    expect(needs(setup, rules, part)).toBe(needed);
  });
});

test("a set-up's marks are read off its firewall rules, each for its family", () => {
  const ports = [{ from: 80 as Port, to: 80 as Port }];
  const intent = parseIntent({
    ports,
    toPort: 50080,
    replyPath: true,
    families: [4],
    local: true,
    guardMark: { value: 2, mask: 2 },
  });
  if (!intent.ok) throw new Error(intent.issue.code);
  const { chains } = partsOf(makePlan(intent.value), () => 1).firewall;
  const found = setupFrom(
    "tproxyd",
    [],
    chains.flatMap((chain) => chain.rules),
  );
  expect(found).toMatchObject({ marks: marks(1, [4]), draining: false });
  expect(found.bitsRead & 2).toBe(2);
});

test("names of tables lead to the set-up that they stand beside", () => {
  expect(["tproxyd-a", "tproxyd-a_closed", "tproxyd-a_pending"].map(setupOf)).toEqual(
    Array(3).fill("tproxyd-a"),
  );
  expect(isDraining(drainingName("tproxyd", -5))).toBe(true);
  expect(isDraining("tproxyd_draining")).toBe(false);
});

describe("an identity is chosen", () => {
  const nothing: CurrentState = {
    ...{ rules: [], routes: [], firewall: undefined, tables: [], tableNames: [], chains: [] },
    ...{ interfaces: [], others: [], markWrites: [] },
  };
  const choose = (
    kind: "fresh" | "named",
    live: Partial<CurrentState>,
    request = {},
    foreign = [0],
  ) => {
    const intent = parseIntent({ ports: [{ from: 80, to: 80 }], ...request });
    if (!intent.ok) throw new Error(intent.issue.code);
    const { tableName, mark, table, priority } = chooseIdentity({
      ...{ kind, intent: intent.value, request, live: { ...nothing, ...live } },
      isFreeTable: (number) => !foreign.includes(number),
    });
    return [tableName, mark.value, table, priority];
  };
  const first = setup("tproxyd", { marks: marks(1) });
  const beside = { others: [first], tableNames: ["tproxyd"], rules: [rule(1)] };

  test("with the defaults where nothing is there", () => {
    for (const kind of ["fresh", "named"] as const) {
      expect(choose(kind, {})).toEqual(["tproxyd", 1, 100, 100]);
    }
  });
  test("beside other set-ups, never by the bit of proxies' own sockets", () => {
    expect(choose("fresh", beside)).toEqual(["tproxyd-2", 4, 101, 101]);
    expect(choose("named", beside, { tableName: "tproxyd-b" })).toEqual(["tproxyd-b", 4, 101, 101]);
  });
  test("like that of a process that drains", () => {
    const drains = setup("tproxyd_draining_7", { marks: marks(1), draining: true });
    expect(choose("fresh", { others: [drains], rules: [rule(1)] })).toEqual([
      "tproxyd",
      1,
      100,
      100,
    ]);
  });
  test("with what a killed process has left", () => {
    expect(choose("fresh", { rules: [rule(1)] })).toEqual(["tproxyd", 1, 100, 100]);
  });
  test("clear of other programs if nothing names it", () => {
    const foreign = rule(1, { protocol: 0, priority: 101, table: 99 });
    expect(choose("fresh", { rules: [foreign] }, {}, [100, 101])).toEqual(["tproxyd", 4, 102, 100]);
    expect(choose("named", { rules: [foreign] }, {}, [100])).toEqual(["tproxyd", 1, 100, 100]);
  });
  test("only where nothing is given", () => {
    const given = {
      tableName: "tproxyd-x",
      mark: { value: 1, mask: 1 },
      table: 100,
      priority: 100,
    };
    expect(choose("fresh", beside, given)).toEqual(["tproxyd-x", 1, 100, 100]);
  });
});

describe("the lock", () => {
  test("is held while the work is done, and given back when that fails", () => {
    const kernel = new FakeKernel();
    const names = () => kernel.tables.map(({ table }) => table.name);
    expect(exclusively(kernel, names)).toEqual([lockName]);
    expect(() => exclusively(kernel, () => JSON.parse("{"))).toThrow(SyntaxError);
    expect(names()).toEqual([]);
  });
  test("of another process is waited for; what is taken back does not wait for ever", () => {
    const kernel = new FakeKernel();
    const table = { family: NFPROTO_INET, name: lockName, owner: 7 };
    kernel.tables.push({ table, chains: [], rules: [], sets: [] });
    const patience = { pollMs: 1, patienceMs: 3 };
    expect(() => exclusively(kernel, () => 1, false, patience)).toThrow(Busy);
    expect(exclusively(kernel, () => 1, true, patience)).toBe(1);
  });
  test("is done without where the kernel knows no owners", () => {
    const kernel = new FakeKernel();
    kernel.options = { noOwner: true };
    expect(exclusively(kernel, () => kernel.tables.length)).toBe(0);
  });
});

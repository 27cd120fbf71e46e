import { describe, expect, test } from "bun:test";
import { NFPROTO_INET, NFPROTO_IPV4 } from "../../../../ffi/netlink/constants.ts";
import type { Route } from "../../../../ffi/netlink/route.ts";
import type { Rule } from "../../../../ffi/netlink/rule.ts";
import type { Mark } from "../../../../ffi/types.ts";
import { findConflicts, heldTable, isOurs } from "../../../../src/capture/live/conflicts.ts";
import type { CurrentState } from "../../../../src/capture/live/current-state.ts";
import { partsOf } from "../../../../src/capture/live/desired-state.ts";
import type { Setup } from "../../../../src/capture/live/setups.ts";
import { parseIntent } from "../../../../src/capture/plan/intent.ts";
import { makePlan } from "../../../../src/capture/plan/plan.ts";
import { flagSetting } from "../../../../src/cli/words/flag-setting.ts";
import { conflictLine } from "../../../../src/control/apply-rules.ts";

const tag = 116;

function partsFor(request: object) {
  const intent = parseIntent({ ports: [{ from: 80, to: 80 }], families: [4], ...request });
  if (!intent.ok) throw new Error(intent.issue.code);
  return partsOf(makePlan(intent.value), () => 1);
}

const nothing: CurrentState = {
  rules: [],
  routes: [],
  firewall: undefined,
  tables: [],
  tableNames: [],
  chains: [],
  interfaces: ["lo", "eth0"],
  others: [],
  markWrites: [],
};
const rule = (members: Partial<Rule>): Rule => ({
  family: 2,
  table: 77,
  priority: 5000,
  ...members,
});
const route = (members: Partial<Route>): Route => ({
  ...{ family: 2, type: 1, table: 100, protocol: 4, oif: 2 },
  ...members,
});
const chain = (name: string) => ({ family: NFPROTO_IPV4, table: "filter", name });
const mark = (value: number, mask = 0xffffffff) => ({ mark: value, mask });
const masked = (value: number, mask: number) => ({ mark: { value: value as Mark, mask } });
const table = { family: NFPROTO_INET, name: "tproxyd" };
const setup = (members: Partial<Setup>): Setup => ({
  ...{ name: "second", tables: [{ ...table, name: "second" }], marks: [], bitsRead: 0 },
  draining: false,
  ...members,
});

type Case = [
  what: string,
  request: object,
  live: Partial<CurrentState>,
  expected: RegExp | undefined,
];

const cases: Case[] = [
  ["nothing else here", {}, {}, undefined],
  ["a rule without a mark", {}, { rules: [rule({})] }, undefined],
  ["other bits of the mark", {}, { rules: [rule(mark(0x80000, 0xff0000))] }, undefined],
  [
    "a bit of ours",
    {},
    { rules: [rule(mark(0x3, 0xf))] },
    /0x1\/0x1 shares bits with "ip rule 5000/,
  ],
  ["a bit of ours, tested for 0", {}, { rules: [rule(mark(0, 1))] }, /shares bits/],
  ["a whole mark without our bit", {}, { rules: [rule(mark(0xca6c))] }, undefined],
  ["a whole mark with our bit", {}, { rules: [rule(mark(0xca6d))] }, /shares bits.*fwmark 0xca6d/],
  ["a whole mark, the same as ours", {}, { rules: [rule(mark(1))] }, /shares bits/],
  [
    "our whole mark over another's bits",
    masked(7, 0xffffffff),
    { rules: [rule(mark(0x80000, 0xff0000))] },
    /0x7\/0xffffffff shares bits|0x7 shares bits/,
  ],
  [
    "our priority",
    {},
    { rules: [rule({ priority: 100 })] },
    /priority 100 is taken by "ip rule 100/,
  ],
  [
    "our priority, in the other family",
    {},
    { rules: [rule({ priority: 100, family: 10 })] },
    undefined,
  ],
  [
    "our own rule",
    {},
    { rules: [rule({ priority: 100, table: 100, protocol: tag, ...mark(1, 1) })] },
    undefined,
  ],
  ["somebody's route in our table", {}, { routes: [route({})] }, /table 100 has a route of others/],
  ["somebody's route in another", {}, { routes: [route({ table: 99 })] }, undefined],
  ["our own route", {}, { routes: [route({ protocol: tag, type: 2 })] }, undefined],
  [
    "Tailscale's bits and interface",
    masked(0x80000, 0x80000),
    { interfaces: ["lo", "tailscale0"] },
    /those of Tailscale \(0xff0000\)/,
  ],
  ["Tailscale's bits without it", masked(0x80000, 0x80000), {}, undefined],
  ["Tailscale, other bits", {}, { interfaces: ["lo", "tailscale0"] }, undefined],
  ["kube-proxy", masked(0x4000, 0x4000), { chains: [chain("KUBE-SERVICES")] }, /kube-proxy/],
  ["Cilium", masked(0x200, 0xf00), { interfaces: ["cilium_host"] }, /Cilium/],
  ["Calico", masked(0x10000, 0x10000), { chains: [chain("cali-FORWARD")] }, /Calico/],
  [
    "somebody's table of our name",
    {},
    {
      firewall: {
        table,
        chains: [
          {
            ...{ family: NFPROTO_INET, table: "tproxyd", name: "x" },
            rules: [
              {
                ...{ family: NFPROTO_INET, table: "tproxyd", chain: "x" },
                expressions: [{ kind: "verdict", code: 0 }],
              },
            ],
          },
        ],
        sets: [],
      },
    },
    /a firewall table inet tproxyd that tproxy did not make/,
  ],
  ["an empty table of our name", {}, { firewall: { table, chains: [], sets: [] } }, undefined],
  [
    "another set-up with the same mark",
    {},
    { others: [setup({ marks: [{ family: 4, ...masked(1, 1) }] })] },
    /another set-up of tproxy, the firewall table inet second/,
  ],
  [
    "another set-up with another mark",
    {},
    { others: [setup({ marks: [{ family: 4, ...masked(4, 4) }] })] },
    undefined,
  ],
  [
    "another set-up with the same mark for the other family",
    {},
    { others: [setup({ marks: [{ family: 6, ...masked(1, 1) }] })] },
    undefined,
  ],
  [
    "another set-up whose proxy has our mark's bit",
    {},
    { others: [setup({ marks: [{ family: 6, ...masked(4, 4) }], bitsRead: 0x5 })] },
    /another set-up of tproxy/,
  ],
  [
    "another set-up that reads no mark but its own",
    masked(4, 4),
    { others: [setup({ marks: [{ family: 4, ...masked(1, 1) }], bitsRead: 1 })] },
    undefined,
  ],
  [
    "a process that lets its connections end",
    {},
    { others: [setup({ marks: [{ family: 4, ...masked(1, 1) }], draining: true })] },
    undefined,
  ],
  [
    "a set-up of iptables",
    {},
    { others: [setup({ marks: [{ family: 4, ...masked(1, 1) }], tables: [] })] },
    /another set-up of tproxy, the iptables chain second/,
  ],
];

describe("conflicts:", () => {
  for (const [what, request, live, expected] of cases) {
    test(what, () => {
      const conflicts = findConflicts(partsFor(request), { ...nothing, ...live }, tag);
      const found = conflicts.map((each) => conflictLine(each, flagSetting)).join("\n");
      if (expected === undefined) expect(found).toBe("");
      else expect(found).toMatch(expected);
    });
  }
});

test("a table that another process owns is not to be had", () => {
  expect(heldTable(nothing)).toBeUndefined();
  expect(heldTable({ ...nothing, tables: [{ ...table, owner: 5 }] })?.owner).toBe(5);
});

test("our comment on one rule makes a table ours, whatever else was put in it", () => {
  const reference = { family: NFPROTO_INET, table: "tproxyd", chain: "prerouting" };
  const bare = { ...reference, expressions: [{ kind: "verdict" as const, code: 0 }] };
  const contents = (comment?: string) => ({
    table,
    chains: [
      {
        ...{ family: NFPROTO_INET, table: "tproxyd", name: "prerouting" },
        rules: [bare, comment === undefined ? bare : { ...bare, comment }],
      },
    ],
    sets: [],
  });
  expect(isOurs(contents())).toBe(false);
  expect(isOurs(contents("about tproxyd: not"))).toBe(false);
  expect(isOurs(contents("tproxyd: capture"))).toBe(true);
});

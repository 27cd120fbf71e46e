/** The same rule, route or table in other words is the same; any other is told from it. */

import { describe, expect, test } from "bun:test";
import type { Route } from "../../../../ffi/netlink/route.ts";
import type { Rule } from "../../../../ffi/netlink/rule.ts";
import { isSameRoute, isSameRule } from "../../../../src/capture/live/canonical.ts";
import { describeFirewallRule } from "../../../../src/capture/live/describe.ts";
import { partsOf, type TableContents } from "../../../../src/capture/live/desired-state.ts";
import { compare, isSameFirewall } from "../../../../src/capture/live/differences.ts";
import { parseIntent } from "../../../../src/capture/plan/intent.ts";
import { makePlan } from "../../../../src/capture/plan/plan.ts";

const wantedRule: Rule = { family: 2, table: 100, mark: 1, mask: 1, priority: 100, protocol: 116 };
const wantedRoute: Route = { family: 10, type: 2, table: 100, protocol: 116, oif: 1 };

describe("rules", () => {
  const same: Rule[] = [wantedRule, { ...wantedRule, suppressPrefixLength: 0xffffffff }];
  for (const live of same) test("the same", () => expect(isSameRule(wantedRule, live)).toBe(true));
  test("a whole mark with and without its mask", () => {
    const whole: Rule = { family: 2, table: 100, mark: 7 };
    expect(isSameRule(whole, { ...whole, mask: 0xffffffff, protocol: 0, priority: 5 })).toBe(true);
  });
  const others: Partial<Rule>[] = [
    { family: 10 },
    { table: 101 },
    { mark: 3 },
    { mask: 3 },
    { priority: 99 },
    { protocol: 3 },
    { iif: "eth0" },
    { invert: true },
    { action: 6 },
    { source: { address: Uint8Array.of(10, 0, 0, 0), length: 8 } },
    { suppressPrefixLength: 0 },
  ];
  for (const other of others) {
    test(`another ${Object.keys(other)}`, () =>
      expect(isSameRule(wantedRule, { ...wantedRule, ...other })).toBe(false));
  }
});

describe("routes", () => {
  const zero = { address: new Uint8Array(16), length: 0 };
  const same: Partial<Route>[] = [{}, { priority: 1024 }, { flags: 1 }, { destination: zero }];
  for (const live of same) {
    test(`the same with ${Object.keys(live)}`, () =>
      expect(isSameRoute(wantedRoute, { ...wantedRoute, ...live })).toBe(true));
  }
  const others: Partial<Route>[] = [
    { family: 2 },
    { type: 6 },
    { table: 101 },
    { protocol: 4 },
    { oif: 2 },
    { priority: 5 },
    { destination: { address: new Uint8Array(16), length: 8 } },
    { gateway: new Uint8Array(16) },
  ];
  for (const other of others) {
    test(`another ${Object.keys(other)}`, () =>
      expect(isSameRoute(wantedRoute, { ...wantedRoute, ...other })).toBe(false));
  }
});

const nothing = {
  ...{ rules: [], routes: [], tables: [], tableNames: [], chains: [], interfaces: [], others: [] },
  markWrites: [],
  firewall: undefined,
};

function parts(request: object) {
  const intent = parseIntent(request);
  if (!intent.ok) throw new Error(intent.issue.code);
  return partsOf(makePlan(intent.value), () => 1);
}

const wanted = parts({ ports: [{ from: 80, to: 80 }], families: [4], interfaces: ["eth0"] });

/** The wanted table with its first rule changed. */
function changed(change: (contents: TableContents) => object): TableContents {
  return { ...wanted.firewall, ...change(wanted.firewall) };
}

describe("the firewall", () => {
  test("is the same as itself", () => {
    expect(isSameFirewall(wanted.firewall, wanted.firewall)).toBe(true);
  });
  test("counts or does not, which is the same", () => {
    const counting = changed(({ chains }) => ({
      chains: chains.map((chain) => ({
        ...chain,
        rules: chain.rules.map((rule) => ({
          ...rule,
          expressions: [{ kind: "counter", packets: 5n, bytes: 300n }, ...rule.expressions],
        })),
      })),
    }));
    expect(isSameFirewall(wanted.firewall, counting)).toBe(true);
  });
  const changes: [string, TableContents][] = [
    ["without a chain", changed(() => ({ chains: [] }))],
    [
      "at another priority",
      changed(({ chains }) => ({
        chains: chains.map((c) => ({ ...c, base: { ...c.base, priority: 0 } })),
      })),
    ],
    [
      "with an expression less",
      changed(({ chains }) => ({
        chains: chains.map((chain) => ({
          ...chain,
          rules: chain.rules.map((rule) => ({ ...rule, expressions: rule.expressions.slice(1) })),
        })),
      })),
    ],
    [
      "twice the same rule",
      changed(({ chains }) => ({
        chains: chains.map((chain) => ({ ...chain, rules: [...chain.rules, ...chain.rules] })),
      })),
    ],
    [
      "with other addresses in a set",
      changed(({ sets }) => ({ sets: sets.map((set) => ({ ...set, elements: [] })) })),
    ],
  ];
  for (const [what, live] of changes) {
    test(what, () => expect(isSameFirewall(wanted.firewall, live)).toBe(false));
  }
});

test("what is missing is told in the words of ip and nft", () => {
  expect(compare(wanted, nothing, 116).map(({ kind, what }) => `${kind} ${what}`)).toEqual([
    "missing ip route: local default table 100 protocol 116",
    "missing ip rule 100: fwmark 0x1/0x1 lookup 100 protocol 116",
    "missing table inet tproxyd",
  ]);
  const live = {
    ...nothing,
    firewall: changed(({ chains }) => ({
      chains: chains.map((chain) => ({ ...chain, rules: [] })),
    })),
  };
  const missing = compare(wanted, live, 116).map(({ what }) => what);
  expect(missing.find((what) => what.includes("capture"))).toBe(
    'table inet tproxyd chain prerouting: meta nfproto ipv4 iifname "eth0" meta l4proto tcp ' +
      "fib daddr type != { local, broadcast, anycast, multicast } dport 80 " +
      'meta mark set meta mark & 0xfffffffe ^ 0x1 comment "tproxyd: capture"',
  );
});

test("networks of whole bytes are told as networks", () => {
  const destinations = (text: string) => {
    const [address = "", length = "0"] = text.split("/");
    const bytes = Uint8Array.from(address.split(".").map(Number));
    return parts({ destinations: [{ family: 4, bytes, prefix: Number(length) }], families: [4] });
  };
  for (const network of ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32"]) {
    const { firewall } = destinations(network);
    const [chain] = firewall.chains;
    const rule = chain?.rules.find(({ comment }) => comment === "tproxyd: capture");
    if (rule === undefined) throw new Error("no rule");
    const text = describeFirewallRule(rule, firewall.sets);
    expect(text).toContain(` ip daddr ${network.replace("/32", "")} `);
  }
});

/** What a table that outlives its process bears: by that the next process knows it. */

import { describe, expect, test } from "bun:test";
import { closedTable } from "../../../../src/capture/kernel-path/closed-table.ts";
import {
  decodeIdentity,
  encodeIdentity,
  isSameServices,
  shapeOf,
} from "../../../../src/capture/kernel-path/identity.ts";
import type { PathIntent } from "../../../../src/capture/kernel-path/intent.ts";
import { makePathPlan } from "../../../../src/capture/kernel-path/plan.ts";
import { partsOf } from "../../../../src/capture/live/desired-state.ts";
import { leftTables } from "../../../../src/capture/live/left-tables.ts";
import { endpoint, intent, poolOf, service } from "../../../helpers/path-plans.ts";

const tableOf = (changes: Partial<PathIntent>) => makePathPlan({ ...intent, ...changes }).firewall;
const parts = (changes: Partial<PathIntent>) =>
  partsOf(makePathPlan({ ...intent, ...changes }), () => 1);

describe("the identity of a table", () => {
  test("tells the same services, and is in user data that nft lists as a comment", () => {
    const listeners = Array.from({ length: 50 }, (_, i) => `tcp://[::]:${i + 1}`);
    const bytes = encodeIdentity(tableOf({}), listeners, "keep");
    expect(bytes.length).toBeLessThanOrEqual(256);
    expect(bytes[0]).toBe(0);
    expect(new TextDecoder().decode(bytes.subarray(2, 2 + (bytes[1] ?? 0)))).toMatch(
      /^tproxy: .*\0$/,
    );
    const identity = decodeIdentity(bytes);
    if (identity === undefined) throw new Error("no identity");
    expect(identity.shape).toBe(shapeOf(tableOf({})));
    expect(isSameServices(identity, listeners)).toBe(true);
    expect(isSameServices(identity, ["udp://[::]:1"])).toBe(false);
    expect(decodeIdentity(undefined)).toBeUndefined();
    expect(decodeIdentity(Uint8Array.of(0, 3, 104, 105, 0))).toBeUndefined();
    expect(decodeIdentity(bytes.subarray(0, 40))).toBeUndefined();
  });

  test("has another shape where rules differ, and the same where only upstreams do", () => {
    const pools = [
      poolOf(4, endpoint("192.0.2.99", 1), undefined),
      poolOf(6, endpoint("2001:db8::99", 2)),
    ];
    const others = { services: [{ ...service, pools }] };
    const source = { kind: "self" } as const;
    const timeouts = { ...service.timeouts, tcpIdle: 1 };
    expect(shapeOf(tableOf(others))).toBe(shapeOf(tableOf({})));
    expect(shapeOf(tableOf({ onExit: "keep" }))).toBe(shapeOf(tableOf({})));
    for (const changed of [{ source }, { timeouts }, { local: true }]) {
      expect(shapeOf(tableOf({ services: [{ ...service, ...changed }] }))).not.toBe(
        shapeOf(tableOf({})),
      );
    }
  });

  test("is borne by tables that outlive their process alone", () => {
    expect(parts({}).firewall.table.userData).toBeUndefined();
    const { table } = parts({ onExit: "keep" }).firewall;
    expect(decodeIdentity(table.userData)).toBeDefined();
    expect(leftTables([table])).toEqual([table]);
    expect(leftTables([{ ...table, owner: 1 }])).toEqual([]);
    const behind = { ...table, name: `${table.name}_closed` };
    expect(leftTables([{ ...table, owner: 1 }, behind])).toEqual([]);
    expect(leftTables([behind])).toEqual([behind]);
  });
});

test("behind services that are to be closed a table refuses what is not marked", () => {
  const plan = makePathPlan({ ...intent, onExit: "closed" });
  expect(plan.behind).toMatchObject({ name: "tproxyd_closed", setup: "tproxyd" });
  const anchor = { name: "anchor", type: "nat", hook: "prerouting", priority: -90, rules: [] };
  const { chains } = closedTable(plan.firewall, anchor as never);
  const rules = chains.flatMap((chain) => chain.rules);
  expect(rules.map(({ purpose }) => purpose)).toEqual(rules.map(() => "closed"));
  expect(rules.length).toBeGreaterThanOrEqual(2);
  for (const { matches, statements } of rules) {
    expect(matches[0]).toMatchObject({ kind: "flow-mark", mark: { value: 0, mask: 0xff000000 } });
    expect(statements).toEqual([{ kind: "reject" }]);
  }
  expect(makePathPlan(intent).behind).toBeUndefined();
  expect(makePathPlan({ ...intent, onExit: "keep" }).behind).toBeUndefined();
});

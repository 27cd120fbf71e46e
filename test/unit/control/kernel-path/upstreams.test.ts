/** The upstreams of the kernel path, from what the pools know of them to the slots. */

import { expect, test } from "bun:test";
import { completePool } from "../../../../src/config/pool.ts";
import { upstreamsOf } from "../../../../src/control/kernel-path/describe-service.ts";
import { PathSlots } from "../../../../src/control/kernel-path/path-slots.ts";
import { Pools } from "../../../../src/control/pools/pools.ts";

const target = (host: string) => ({ scheme: undefined, host, port: 80 as never });
const at = (host: number) => ({ address: Uint8Array.of(192, 0, 2, host), port: 80, scopeId: 0 });

/** A pool of three hosts, the last one a backup, and how many slots each of them has. */
function world(whenAllDown: "try" | "refuse" = "try") {
  const nothing = () => {};
  const owner = { wake: nothing, shifted: nothing, changed: nothing, warn: nothing };
  const pools = new Pools(1, owner);
  const pool = completePool(
    {
      name: "web",
      "when-all-down": whenAllDown,
      check: { type: "tcp" },
      upstream: [
        { name: "a", to: target("a.example") },
        { name: "b", to: target("b.example"), "slow-start": 60_000 },
        { name: "c", to: target("c.example"), backup: true },
      ],
    },
    {},
  );
  const source = { addressesOf: (i: number) => [at(i + 1)], mark: undefined };
  pools.put(pool, source);
  const slots = new PathSlots(pool);
  const boardSlots = () => {
    const upstreams = pools.upstreamsOf(pool);
    return upstreams.kind === "fixed" ? upstreams.addresses.map((each) => each.slot) : [];
  };
  return {
    ask: (name: string, request: object) => pools.ask("web", name, { force: true, ...request }),
    found: (i: number, isUp: boolean) => pools.found(boardSlots()[i] as number, isUp, "refused"),
    counts: () => {
      const all = upstreamsOf(pool, source, (...which) => pools.standingOf(...which));
      const hosts = slots.assign(4, all).slots.map((each) => each?.address.bytes[3] ?? 0);
      return [1, 2, 3, 0].map((host) => hosts.filter((each) => each === host).length);
    },
  };
}

test("slots follow the states and weights that an administrator asks for", () => {
  const { ask, counts } = world();
  expect(counts()).toEqual([128, 128, 0, 0]);
  ask("a", { state: "drain" });
  expect(counts()).toEqual([0, 256, 0, 0]);
  ask("a", { state: "ready", weight: 50 });
  ask("b", { weight: 150 });
  expect(counts()).toEqual([64, 192, 0, 0]);
  ask("a", { weight: 0 });
  ask("b", { state: "drain" });
  expect(counts()).toEqual([0, 0, 256, 0]);
  ask("c", { state: "down" });
  expect(counts()).toEqual([0, 0, 0, 256]);
});

test("slots follow the checks, and one that comes up again starts slowly", () => {
  const { ask, found, counts } = world();
  found(1, false);
  expect(counts()).toEqual([256, 0, 0, 0]);
  found(1, true);
  const [, rising = 0] = counts();
  expect(rising).toBeWithin(1, 64);
  found(0, false);
  found(1, false);
  expect(counts()).toEqual([0, 0, 256, 0]);
  // With none left the one that is down longest is tried, but for what the administrator took out.
  found(2, false);
  ask("a", { state: "drain" });
  expect(counts()).toEqual([0, 256, 0, 0]);
});

test("refuse: with none left nobody is tried", () => {
  const { found, counts } = world("refuse");
  for (const i of [0, 1, 2]) found(i, false);
  expect(counts()).toEqual([0, 0, 0, 256]);
});

test("of upstreams with one address the first counts", () => {
  const pool = completePool(
    { name: "web", upstream: [1, 2].map((n) => ({ name: `${n}`, to: target("x"), weight: n })) },
    {},
  );
  const all = upstreamsOf(pool, { addressesOf: () => [at(1)] });
  expect(all.map(({ weight }) => weight)).toEqual([1]);
});

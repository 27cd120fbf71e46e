/** Policy routing without a kernel: which rule decides, which route is best, what an address is. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { AF_INET, AF_INET6 } from "../../../ffi/constants.ts";
import * as k from "../../../ffi/netlink/constants.ts";
import type { Route } from "../../../ffi/netlink/route.ts";
import type { Rule } from "../../../ffi/netlink/rule.ts";
import type { Packet } from "../../../src/diagnose/packet.ts";
import { addressType, bestRoute, decide } from "../../../src/diagnose/policy.ts";
import { chooseAddresses } from "../../../src/diagnose/probe/addresses.ts";
import { ip, prefix } from "../../helpers/addresses.ts";

const route = (table: number, to: string | undefined, changes: Partial<Route> = {}): Route => ({
  family: AF_INET,
  type: k.RTN_UNICAST,
  protocol: 4,
  table,
  ...(to === undefined ? {} : { destination: prefix(to) }),
  ...changes,
});
const rule = (priority: number, table: number, changes: Partial<Rule> = {}): Rule => {
  return { family: AF_INET, priority, table, ...changes };
};
const packet: Packet = {
  protocol: "tcp",
  source: { family: 4, bytes: ip("10.9.0.2") },
  destination: { family: 4, bytes: ip("8.8.8.8") },
  port: 80,
  iif: "eth0",
  destinationType: k.RTN_UNICAST,
};
const routes = [route(1, undefined), route(2, undefined), route(3, "10.0.0.0/8")];

describe("decide", () => {
  const selecting: [name: string, selectors: Partial<Rule>, mark: number, table: number][] = [
    ["the mark", { mark: 1, mask: 1 }, 3, 1],
    ["another mark", { mark: 1, mask: 1 }, 2, 2],
    ["the whole mark", { mark: 1 }, 3, 2],
    ["what the selectors do not", { mark: 1, mask: 1, invert: true }, 2, 1],
    ["the source", { source: prefix("10.9.0.0/24") }, 0, 1],
    ["another source", { source: prefix("10.8.0.0/24") }, 0, 2],
    ["the destination", { destination: prefix("8.0.0.0/8") }, 0, 1],
    ["the interface", { iif: "eth0" }, 0, 1],
    ["another interface", { iif: "eth1" }, 0, 2],
    ["an outgoing interface, which it has not yet", { oif: "eth0" }, 0, 2],
    ["the port", { ipProtocol: 6, destinationPorts: [80, 90] }, 0, 1],
    ["another protocol", { ipProtocol: 17 }, 0, 2],
    ["a source port that is not known", { sourcePorts: [1, 65535] }, 0, 2],
  ];
  test.each(selecting)("a rule for %s", (_, selectors, mark, table) => {
    const rules = [rule(1, 1, selectors), rule(2, 2)];
    expect(decide({ rules, routes }, packet, mark)?.route?.table).toBe(table);
  });

  test("tables without a route, that throw or are suppressed are passed over", () => {
    const throwing = route(4, undefined, { type: k.RTN_THROW });
    const rules = [rule(1, 3), rule(2, 4), rule(3, 1, { suppressPrefixLength: 0 }), rule(4, 2)];
    expect(decide({ rules, routes: [...routes, throwing] }, packet, 0)?.rule.priority).toBe(4);
    expect(decide({ rules: [rule(1, 3)], routes }, packet, 0)).toBeUndefined();
  });

  test("a rule may refuse by itself", () => {
    const refusing = rule(1, 0, { action: k.FR_ACT_BLACKHOLE });
    const rules = [refusing, rule(2, 2)];
    expect(decide({ rules, routes }, packet, 0)).toEqual({ rule: refusing, route: undefined });
  });
});

test("the longest prefix is best, and of those the lowest metric", () => {
  const short = route(1, "8.0.0.0/8");
  const long = route(1, "8.8.0.0/16", { priority: 20 });
  const better = route(1, "8.8.0.0/16", { priority: 10 });
  fc.assert(
    fc.property(fc.shuffledSubarray([short, long, better], { minLength: 3 }), (shuffled) => {
      expect(bestRoute(shuffled, 1, packet.destination)).toBe(better);
    }),
  );
});

describe("addressType", () => {
  const table = [
    route(k.RT_TABLE_LOCAL, "127.0.0.0/8", { type: k.RTN_LOCAL }),
    route(k.RT_TABLE_LOCAL, "10.9.0.1/32", { type: k.RTN_LOCAL }),
    route(k.RT_TABLE_LOCAL, "10.9.0.255/32", { type: k.RTN_BROADCAST }),
    route(254, undefined),
  ];
  const types: [text: string, type: number][] = [
    ["10.9.0.1", k.RTN_LOCAL],
    ["127.1.2.3", k.RTN_LOCAL],
    ["10.9.0.255", k.RTN_BROADCAST],
    ["255.255.255.255", k.RTN_BROADCAST],
    ["0.0.0.0", k.RTN_BROADCAST],
    ["224.0.0.1", k.RTN_MULTICAST],
    ["8.8.8.8", k.RTN_UNICAST],
  ];
  test.each(types)("%s", (text, type) => {
    expect(addressType(table, { family: 4, bytes: ip(text) })).toBe(type);
  });

  test("as long as lo has never been up there is no local table, and all is broadcast", () => {
    expect(addressType([], { family: 4, bytes: ip("8.8.8.8") })).toBe(k.RTN_BROADCAST);
  });

  test("IPv6", () => {
    const own = route(255, "2001:db8::1/128", { family: AF_INET6, type: k.RTN_LOCAL });
    const type = (text: string) => addressType([own], { family: 6, bytes: ip(text) });
    expect(["2001:db8::1", "ff02::1", "2001:db8::2"].map(type)).toEqual([
      k.RTN_LOCAL,
      k.RTN_MULTICAST,
      k.RTN_UNICAST,
    ]);
  });
});

describe("chooseAddresses", () => {
  const to = packet.destination;

  test("the first pair if nobody knows it; a default route knows nothing", () => {
    const free = chooseAddresses({ rules: [], routes: [route(254, undefined)] }, to);
    expect(free?.host.bytes).toEqual(ip("198.19.255.253"));
    expect(free?.client.bytes).toEqual(ip("198.19.255.254"));
  });

  test("another if a route or a rule knows it, or the probe goes there", () => {
    const hostOf = (...args: Parameters<typeof chooseAddresses>) =>
      chooseAddresses(...args)?.host.bytes;
    const next = ip("198.19.254.253");
    expect(hostOf({ rules: [], routes: [route(254, "198.19.255.0/24")] }, to)).toEqual(next);
    expect(hostOf({ rules: [], routes: [route(7, "198.19.255.254/32")] }, to)).toEqual(next);
    const rules = [rule(1, 1, { source: prefix("198.19.255.252/30") })];
    expect(hostOf({ rules, routes: [] }, to)).toEqual(next);
    const there = { family: 4, bytes: ip("198.19.255.254") } as const;
    expect(hostOf({ rules: [], routes: [] }, there)).toEqual(next);
  });

  test("none if all are taken", () => {
    expect(chooseAddresses({ rules: [], routes: [route(254, "198.0.0.0/8")] }, to)).toBeUndefined();
  });
});

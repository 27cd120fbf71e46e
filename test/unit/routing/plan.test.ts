import { describe, expect, test } from "bun:test";
import { formatCidr, parseCidr } from "../../../src/net/cidr.ts";
import { formatPortRange } from "../../../src/net/port.ts";
import { parseIntent } from "../../../src/routing/intent.ts";
import { type FirewallRule, makePlan, type Plan } from "../../../src/routing/plan.ts";
import { applySteps, undoSteps } from "../../../src/routing/steps.ts";

function plan(request: unknown): Plan {
  const intent = parseIntent(request);
  if (!intent.ok) throw new Error(intent.error);
  return makePlan(intent.value);
}

function networks(...texts: string[]) {
  return texts.map((text) => {
    const result = parseCidr(text);
    if (!result.ok) throw new Error(result.error);
    return result.value;
  });
}

function rules(of: Plan): readonly FirewallRule[] {
  return of.firewall.chains.flatMap((chain) => chain.rules);
}

/** A rule's match of one kind, as text. */
function matched(rule: FirewallRule | undefined, kind: string): readonly string[] | undefined {
  const match = rule?.matches.find((candidate) => candidate.kind === kind);
  if (match === undefined) return undefined;
  if ("networks" in match) return match.networks.map(formatCidr);
  if ("ranges" in match) return match.ranges.map(formatPortRange);
  return "not" in match ? match.not : [];
}

describe("makePlan", () => {
  test("one rule a family and protocol, one route and one ip rule a family", () => {
    const { routes, ipRules, ...rest } = plan({ protocols: ["tcp", "udp"] });
    const kinds = rules({ routes, ipRules, ...rest }).map(({ family, matches }) => [
      family,
      matches.find((match) => match.kind === "protocol")?.protocol,
    ]);
    expect(kinds).toEqual([
      [4, "tcp"],
      [4, "udp"],
      [6, "tcp"],
      [6, "udp"],
    ]);
    expect(routes.map(({ destination }) => formatCidr(destination))).toEqual(["0.0.0.0/0", "::/0"]);
    expect(ipRules.map(({ family }) => family)).toEqual([4, 6]);
  });

  test("the seed's ip rule compares the whole mark, any other only its mask", () => {
    expect(plan({}).ipRules.map(({ mark }) => mark.mask)).toEqual([0xffffffff]);
    expect(plan({ table: 7 }).ipRules.map(({ mark }) => mark.mask)).toEqual([1]);
  });

  test("each family gets its own networks, none of them twice or inside another", () => {
    const destinations = networks(
      ...["10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/8", "192.0.2.1", "2001:db8::1", "2001:db8::/32"],
    );
    const [four, six] = rules(plan({ destinations }));
    expect(matched(four, "destination")).toEqual(["10.0.0.0/8", "192.0.2.1"]);
    expect(matched(six, "destination")).toEqual(["2001:db8::/32"]);
  });

  test("without a destination this host's own addresses are left alone", () => {
    const [four, six] = rules(plan({ ports: [{ from: 80, to: 80 }] }));
    expect(matched(four, "destination-type")).toEqual([
      "local",
      "broadcast",
      "anycast",
      "multicast",
    ]);
    expect(matched(six, "destination-type")).toEqual(["local", "anycast", "multicast"]);
  });

  test("with every destination there is no condition on it at all", () => {
    const [rule] = rules(plan({ destinations: networks("0.0.0.0/0", "10.0.0.0/8") }));
    expect(rule?.matches.map(({ kind }) => kind)).toEqual(["protocol"]);
  });

  test("port ranges are sorted and merged where they overlap or touch", () => {
    const ports = [
      [80, 80],
      [1, 10],
      [11, 20],
      [5, 7],
      [79, 81],
      [65535, 65535],
    ].map(([from, to]) => ({ from, to }));
    const [rule] = rules(plan({ ports }));
    expect(matched(rule, "destination-port")).toEqual(["1-20", "79-81", "65535"]);
  });

  test("the mark is set before the packet goes to the listener: no listener, no leak", () => {
    const [rule] = rules(plan({ toPort: 50080 }));
    expect(rule?.statements.map(({ kind }) => kind)).toEqual(["mark", "tproxy"]);
  });
});

describe("steps", () => {
  test("capture begins last and ends first", () => {
    const both = plan({ families: [4, 6] });
    const kinds = ["route", "route", "rule", "rule", "firewall"];
    expect(applySteps(both).map(({ kind }) => kind as string)).toEqual(kinds);
    expect(undoSteps(both).map(({ kind }) => kind as string)).toEqual(kinds.toReversed());
  });

  test("undo removes exactly what was added", () => {
    for (const request of [{}, { families: [4, 6], toPort: 1 }]) {
      const added = applySteps(plan(request));
      const removed = undoSteps(plan(request));
      expect(added.every(({ action }) => action === "add")).toBe(true);
      expect(removed.every(({ action }) => action === "remove")).toBe(true);
      const restored = removed.toReversed().map((step) => ({ ...step, action: "add" }));
      expect(restored as unknown).toEqual(added);
    }
  });
});

import { describe, expect, test } from "bun:test";
import { parseIntent } from "../../../../src/capture/plan/intent.ts";
import { type FirewallRule, makePlan, type Plan } from "../../../../src/capture/plan/plan.ts";
import { applySteps, undoSteps } from "../../../../src/capture/plan/steps.ts";
import { formatCidr, parseCidr } from "../../../../src/net/cidr.ts";
import { formatPortRange } from "../../../../src/net/port.ts";

function plan(request: unknown): Plan {
  const intent = parseIntent(request);
  if (!intent.ok) throw new Error(intent.issue.code);
  return makePlan(intent.value);
}

function networks(...texts: string[]) {
  return texts.map((text) => {
    const result = parseCidr(text);
    if (!result.ok) throw new Error(result.error);
    return result.value;
  });
}

function rules(of: Pick<Plan, "firewall">): readonly FirewallRule[] {
  return of.firewall.chains.flatMap((chain) => chain.rules);
}

/** Those that capture. */
function captures(of: Pick<Plan, "firewall">): readonly FirewallRule[] {
  return rules(of).filter(({ purpose }) => purpose === "capture");
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
    const kinds = captures(rest).map(({ family, matches }) => [
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
    expect(plan({}).ipRules.map(({ mark }) => mark?.mask)).toEqual([0xffffffff]);
    expect(plan({ table: 7 }).ipRules.map(({ mark }) => mark?.mask)).toEqual([1]);
  });

  test("each family gets its own networks, none of them twice or inside another", () => {
    const destinations = networks(
      ...["10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/8", "192.0.2.1", "2001:db8::1", "2001:db8::/32"],
    );
    const [four, six] = captures(plan({ destinations }));
    expect(matched(four, "destination")).toEqual(["10.0.0.0/8", "192.0.2.1"]);
    expect(matched(six, "destination")).toEqual(["2001:db8::/32"]);
  });

  test("without a destination this host's own addresses are left alone", () => {
    const [four, six] = captures(plan({ ports: [{ from: 80, to: 80 }] }));
    expect(matched(four, "destination-type")).toEqual([
      "local",
      "broadcast",
      "anycast",
      "multicast",
    ]);
    expect(matched(six, "destination-type")).toEqual(["local", "anycast", "multicast"]);
  });

  test("with every destination there is no condition on it at all", () => {
    const [rule] = captures(plan({ destinations: networks("0.0.0.0/0", "10.0.0.0/8") }));
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
    const [rule] = captures(plan({ ports }));
    expect(matched(rule, "destination-port")).toEqual(["1-20", "79-81", "65535"]);
  });

  test("the mark is set before the packet goes to the listener: no listener, no leak", () => {
    const [rule] = captures(plan({ toPort: 50080 }));
    expect(rule?.statements.map(({ kind }) => kind)).toEqual(["mark", "tproxy"]);
  });
});

/** The rules of one chain, as what they are for and what they do. */
function outline(of: Plan, name: string): string[] {
  const chain = of.firewall.chains.find((each) => each.name === name);
  return (chain?.rules ?? []).map(
    ({ purpose, statements }) => `${purpose}: ${statements.map(({ kind }) => kind).join(", ")}`,
  );
}

describe("the order of rules", () => {
  const all = {
    families: [4],
    local: true,
    guardMark: { value: 2, mask: 2 },
    guardUids: [7],
    bypassPrivate: true,
    replyPath: true,
    toPort: 50080,
  };

  test("before routing: replies, what was marked on the way out, the bypass, the rest", () => {
    expect(outline(plan(all), "prerouting")).toEqual([
      "reply path: mark",
      "errors: mark",
      "local: tproxy, return",
      "bypass: return",
      "capture: mark, tproxy",
    ]);
  });

  test("on the way out: guards, replies, what is bypassed, the rest", () => {
    const guarded = ["guard: return", "guard: return", "guard: return"];
    expect(outline(plan(all), "output")).toEqual([...guarded, "bypass: return", "capture: mark"]);
    const [chain] = plan(all).firewall.chains.slice(1);
    expect(chain).toMatchObject({ type: "route", hook: "output", priority: -150 });
  });

  test("without --local there is no chain for it", () => {
    expect(plan({ bypassPrivate: true }).firewall.chains.map(({ name }) => name)).toEqual([
      "prerouting",
    ]);
  });

  test("by the mark alone nothing has to be done for what was marked on the way out", () => {
    const marked = { families: [4], local: true, guardUids: [7] };
    expect(outline(plan(marked), "prerouting")).toEqual(["errors: mark", "capture: mark"]);
  });

  test("NAT has neither route nor ip rule, and the priority of NAT", () => {
    const nat = plan({ redirect: true, toPort: 80, local: true, guardUids: [7], families: [4] });
    expect({ routes: nat.routes, ipRules: nat.ipRules }).toEqual({ routes: [], ipRules: [] });
    expect(nat.firewall.chains.map(({ type, priority }) => [type, priority])).toEqual([
      ["nat", -100],
      ["nat", -100],
    ]);
    expect(outline(nat, "output").at(-1)).toBe("capture: redirect");
  });
});

describe("the reply path", () => {
  const ofPurpose = (purpose: string, request: object) =>
    rules(plan({ families: [4], ...request })).filter((each) => each.purpose === purpose);
  const kinds = (request: object) =>
    ofPurpose("reply path", { replyPath: true, ...request }).map(({ matches }) =>
      matches.map(({ kind }) => kind as string),
    );
  const ports = [{ from: 53, to: 53 }];
  const address = { family: 4, bytes: Uint8Array.of(192, 0, 2, 7) };
  const both = [
    ["protocol", "not-syn", "connected-socket"],
    ["protocol", "connected-socket"],
  ];

  test("is for connected sockets, of tcp for no first packet, whatever ports are captured", () => {
    const protocols = ["tcp", "udp"];
    expect(kinds({ protocols, ports })).toEqual(both);
    expect(kinds({ protocols, ports: [{ from: 1, to: 65535 }] })).toEqual(both);
    expect(kinds({ protocols, interfaces: ["eth0"] })).toEqual(both);
  });

  test("does not depend on the interfaces, sources and destinations that are captured", () => {
    const narrow = { interfaces: ["eth0"], sources: networks("10.0.0.0/8") };
    const protocols = ["tcp"];
    expect(kinds({ ...narrow, destinations: networks("8.8.8.8") })).toEqual(kinds({ protocols }));
  });

  test.each([
    ["one port", { ports }, 1],
    ["the lowest", { ports: [{ from: 1, to: 1 }] }, 2],
    ["the lowest, some beside each other", { ports: [{ from: 1, to: 7 }, ...ports] }, 8],
    ["every port", { ports: [{ from: 1, to: 65535 }] }, 1],
    ["every port, for a listener on the lowest", { interfaces: ["eth0"], toPort: 1 }, 2],
  ])("looks for connected sockets by a port without a listener: %s", (_, request, unused) => {
    const [rule] = ofPurpose("reply path", { replyPath: true, ...request });
    const match = rule?.matches.find(({ kind }) => kind === "connected-socket");
    expect(match).toMatchObject({ unused });
  });

  test("alone captures nothing, of either protocol", () => {
    for (const request of [{ replyPath: true }, { backends: [{ address }] }]) {
      expect(kinds(request)).toEqual(both);
      expect(ofPurpose("capture", request)).toEqual([]);
      expect(ofPurpose("errors", request)).toHaveLength(1);
    }
    const narrowed = { replyPath: true, families: [6], protocols: ["tcp"] };
    expect(outline(plan(narrowed), "prerouting")).toEqual(["reply path: mark", "errors: mark"]);
  });

  test("has the ICMP errors of every capture beside it, but for NAT and the article", () => {
    const errors = (request: object) =>
      rules(plan(request)).filter(({ purpose }) => purpose === "errors").length;
    expect(errors({ ports })).toBe(2);
    expect(errors({ ports, families: [6], toPort: 50080 })).toBe(1);
    expect(errors({ ports, toPort: 50080, redirect: true })).toBe(0);
    expect(errors({})).toBe(0);
  });
});

describe("beside the kernel path", () => {
  const request = { replyPath: true };
  const chainsOf = (isBesideNat: boolean) => {
    const intent = parseIntent(request);
    if (!intent.ok) throw new Error(intent.issue.code);
    return makePlan({ ...intent.value, isBesideNat }).firewall.chains;
  };
  const kinds = ({ matches }: FirewallRule) => matches.map(({ kind }) => kind);

  test("replies to a translated port are delivered once they have their own", () => {
    const [usual, beside] = [chainsOf(false), chainsOf(true)];
    expect(usual.map(({ name }) => name)).toEqual(["prerouting"]);
    expect(beside.map(({ name, priority }) => [name, priority])).toEqual([
      ["prerouting", -150],
      ["replies", -90],
    ]);
    const delivering = (rules: readonly FirewallRule[] = []) =>
      rules.filter(({ purpose }) => purpose === "reply path" || purpose === "errors");
    const before = delivering(usual[0]?.rules).map(kinds);
    expect(before.length).toBeGreaterThan(0);
    expect(delivering(beside[0]?.rules).map(kinds)).toEqual(
      before.map((each) => ["untranslated", ...each]),
    );
    expect(beside[1]?.rules.map(kinds)).toEqual(
      before.map((each) => ["source-translated", "untranslated", ...each]),
    );
  });
});

describe("sets", () => {
  const many = networks(...Array.from({ length: 100 }, (_, i) => `10.0.${2 * i}.0/24`));

  test("a long list is one set, however many rules look it up", () => {
    const { firewall } = plan({ destinations: many, protocols: ["tcp", "udp"] });
    expect(firewall.sets.map(({ name, networks: { length } }) => [name, length])).toEqual([
      ["dst4", 100],
    ]);
    const names = captures({ firewall }).map(
      ({ matches }) => matches.find((match) => match.kind === "destination")?.set,
    );
    expect(names).toEqual(["dst4", "dst4"]);
  });

  test("a list that amounts to little is none", () => {
    const halves = networks(...Array.from({ length: 128 }, (_, i) => `10.0.${i}.0/24`));
    const { firewall } = plan({ destinations: halves });
    expect(firewall.sets).toEqual([]);
    expect(matched(captures({ firewall })[0], "destination")).toEqual(["10.0.0.0/17"]);
  });
});

describe("settings", () => {
  test("of each interface but lo, only named unless asked for", () => {
    const { sysctls, setsSysctls } = plan({ interfaces: ["lo", "eth0", "eth1.5"] });
    expect(sysctls.map(({ name, value }) => `${name}=${value}`)).toEqual([
      "net/ipv4/conf/eth0/accept_local=1",
      "net/ipv4/conf/eth1.5/accept_local=1",
    ]);
    expect(setsSysctls).toBe(false);
    expect(plan({ interfaces: ["eth0"], sysctl: true }).setsSysctls).toBe(true);
  });

  test("never route_localnet", () => {
    const address = { family: 4, bytes: Uint8Array.of(127, 0, 0, 1) };
    const { sysctls } = plan({ interfaces: ["eth0"], backends: [{ address }], families: [4] });
    expect(JSON.stringify(sysctls)).not.toContain("route_localnet");
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

describe("a backend on this host", () => {
  const address = { family: 4, bytes: Uint8Array.of(127, 0, 0, 1) } as const;
  const own = { family: 6, bytes: Uint8Array.of(0xfd, ...new Array(14).fill(0), 1) } as const;
  const mark = { value: 1, mask: 1 };
  const common = { priority: 100, table: 100, protocol: 116 };

  test("has its answers delivered by the plan's table, for each protocol that it may use", () => {
    const { ipRules, backends } = plan({
      protocols: ["tcp", "udp"],
      backends: [{ address }, { address: own, port: 8080, here: true }],
    });
    const answers = { ...common, family: 6, from: own, iif: "lo", sourcePort: 8080 };
    expect(ipRules as unknown[]).toEqual([
      { ...common, family: 4, mark },
      { ...common, family: 6, mark },
      { ...common, family: 4, from: address, iif: "lo" },
      { ...answers, ipProtocol: "tcp" },
      { ...answers, ipProtocol: "udp" },
    ]);
    expect(backends).toEqual([]);
  });

  test("another host is told what to do, and nothing is done here", () => {
    const there = { family: 4, bytes: Uint8Array.of(192, 0, 2, 7) } as const;
    const { ipRules, backends } = plan({ backends: [{ address: there, port: 80 }] });
    expect(ipRules.map(({ from }) => from)).toEqual([undefined]);
    expect(backends.map((each) => each.address)).toEqual([there]);
  });
});

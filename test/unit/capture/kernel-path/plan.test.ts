/** The Plan of the kernel path, and the messages that make one into another. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  NFPROTO_INET,
  NFT_MSG_DELSETELEM,
  NFT_MSG_NEWSETELEM,
} from "../../../../ffi/netlink/constants.ts";
import { decodeElements } from "../../../../ffi/netlink/nftables/set.ts";
import { drainPathPlan } from "../../../../src/capture/kernel-path/drain.ts";
import {
  endpointKey,
  flowMark,
  retriedEndpoints,
  slotCount,
} from "../../../../src/capture/kernel-path/intent.ts";
import { freeNumbers, numbersIn } from "../../../../src/capture/kernel-path/numbers.ts";
import { makePathPlan } from "../../../../src/capture/kernel-path/plan.ts";
import { nftType, partsOf } from "../../../../src/capture/live/desired-state.ts";
import { objectChanges } from "../../../../src/capture/plan/flow-netlink.ts";
import type { FlowEndpoint, FlowObject } from "../../../../src/capture/plan/flow-rule.ts";
import { renderIptables } from "../../../../src/capture/render/iptables.ts";
import { renderJson } from "../../../../src/capture/render/json.ts";
import { renderNft } from "../../../../src/capture/render/nft.ts";
import { endpoint, intent, pathIntents, poolOf, service } from "../../../helpers/path-plans.ts";

const indexOf = () => 1;
const rulesOf = (name: string, plan = makePathPlan(intent)) =>
  plan.firewall.chains.find((chain) => chain.name === name)?.rules ?? [];

describe("a plan of the kernel path", () => {
  test("has no ip rule and no route, and rejects what no slot has an upstream for", () => {
    const plan = makePathPlan(intent);
    expect([plan.ipRules, plan.routes]).toEqual([[], []]);
    expect(rulesOf("prerouting").map(({ family, purpose }) => [family, purpose])).toEqual([
      ...[4, 6].flatMap((family) => [
        [family, "upstream"],
        [family, "no upstream"],
      ]),
    ] as never);
  });

  test("keeps the client's address, or gives one of this host", () => {
    const sources = (source: typeof service.source, sameLink: readonly string[] = []) => {
      const plan = makePathPlan({ ...intent, sameLink, services: [{ ...service, source }] });
      return rulesOf("postrouting", plan)
        .filter(({ family }) => family === 4)
        .map(({ statements }) => statements[0]?.kind);
    };
    expect(sources({ kind: "client" })).toEqual(["from-address"]);
    expect(sources({ kind: "self" })).toEqual(["masquerade"]);
    // A client on the upstream's link would be answered past this host.
    expect(sources({ kind: "client" }, ["eth0"])).toEqual(["masquerade", "from-address"]);
  });

  test("has a flowtable where there are interfaces for one", () => {
    const plan = makePathPlan({ ...intent, offload: ["eth0", "eth1"] });
    const [rule] = rulesOf("forward", plan);
    expect(rule?.statements).toEqual([{ kind: "offload", flowtable: "ft" }]);
    expect(renderNft(plan)).toContain('hook ingress priority 0; devices = { "eth0", "eth1" }');
    expect(makePathPlan(intent).firewall.chains.map(({ name }) => name)).not.toContain("forward");
  });

  test("a refused connection is tried again while there is another upstream", () => {
    const retried = (...upstreams: readonly Parameters<typeof poolOf>[1][]) => {
      const pools = [poolOf(4, ...upstreams)];
      const plan = makePathPlan({ ...intent, services: [{ ...service, pools }] });
      expect(rulesOf("retry", plan)).toHaveLength(2);
      const set = plan.firewall.objects?.find(({ name }) => name === "retried4_1");
      return set?.kind === "endpoints" ? set.endpoints.length : undefined;
    };
    expect(retried(endpoint("192.0.2.9", 80), endpoint("192.0.2.10", 80))).toBe(2);
    expect(retried(endpoint("192.0.2.9", 80), undefined)).toBe(0);
    const bySource = { ...intent, services: [{ ...service, choice: "source" as const }] };
    expect(rulesOf("retry", makePathPlan(bySource))).toEqual([]);
  });

  test("translates nothing new while it drains, and keeps what it has begun", () => {
    const plan = drainPathPlan(intent, "tproxyd_draining_1");
    const statements = plan.firewall.chains.flatMap(({ rules }) =>
      rules.flatMap((rule) => rule.statements.map(({ kind }) => kind)),
    );
    expect(new Set(statements)).toEqual(new Set(["return", "drop"]));
    expect(plan.firewall.chains[0]).toMatchObject({ type: "nat", hook: "prerouting" });
  });

  test("has no iptables, and JSON that names every slot", () => {
    expect(() => renderIptables(makePathPlan(intent))).toThrow("iptables has no words");
    const { steps } = JSON.parse(renderJson(makePathPlan(intent)));
    expect(steps[0].objects[0].slots).toEqual(Array(slotCount).fill("192.0.2.9:8080"));
  });
});

describe("the numbers of services", () => {
  test("are read from the rules that the kernel lists", () => {
    const all = Object.values(pathIntents).map((each) => {
      const { firewall } = partsOf(makePathPlan(each), indexOf);
      const found = numbersIn(firewall.chains.flatMap(({ rules }) => rules));
      return [[...found].sort(), each.services.map(({ number }) => number).sort()];
    });
    for (const [found, wanted] of all) expect(found).toEqual(wanted);
    expect(freeNumbers(new Set([1, 2, 4]), 2)).toEqual([3, 5]);
    expect(freeNumbers(new Set(Array.from({ length: 254 }, (_, i) => i + 1)), 2)).toEqual([255]);
    expect(flowMark(255)).toEqual({ value: 0xff000000, mask: 0xff000000 } as never);
  });
});

describe("a change of upstreams", () => {
  const upstreams = [2, 3, 4].map((host) => endpoint(`192.0.2.${host}`, 80));
  const choice = fc.option(fc.constantFrom(...upstreams), { nil: undefined });
  const slots = fc.array(choice, { minLength: 8, maxLength: 8 });

  test("sends the slots that have changed, and no other", () => {
    fc.assert(
      fc.property(slots, slots, (before, after) => {
        const object = (each: typeof before): FlowObject => {
          return { kind: "slots", name: "m", family: 4, slots: each };
        };
        const inet = { family: NFPROTO_INET, table: "t" };
        const map = new Map(before.flatMap((each, i) => (each ? [[i, endpointKey(each)]] : [])));
        const messages = objectChanges(inet, object(before), object(after));
        let touched = 0;
        for (const message of messages) {
          for (const { key, data } of decodeElements(message.body)) {
            const slot = key[0] as number;
            touched++;
            if (nftType(message) === NFT_MSG_DELSETELEM) map.delete(slot);
            else {
              expect(nftType(message)).toBe(NFT_MSG_NEWSETELEM);
              expect(map.has(slot)).toBe(false);
              map.set(slot, `${Buffer.from(data?.subarray(0, 4) ?? []).toString("hex")}:80`);
            }
          }
        }
        expect([...map].sort()).toEqual(
          after.flatMap((each, i) => (each ? [[i, endpointKey(each)] as never] : [])).sort(),
        );
        const changed = after.filter((each, i) => each !== before[i]).length;
        expect(touched).toBeLessThanOrEqual(2 * changed);
      }),
    );
  });

  const [a, b, c] = upstreams as [FlowEndpoint, FlowEndpoint, FlowEndpoint];

  test.each([
    ["all have slots", [a, b, c], [a, b, c]],
    ["one is on trial", [a, a, a, b], [a, b, c]],
    ["one is left: the refusals of the others may be on their way", [a], [b, c]],
    ["none is left", [undefined], []],
  ])("a refused client goes elsewhere: %s", (_, slots, retried) => {
    expect(retriedEndpoints({ family: 4, upstreams: [a, b, c], slots })).toEqual(retried);
  });

  test("knows those without slots as upstreams: their connections may go on", () => {
    const pool = { ...poolOf(4, a), upstreams };
    const plan = makePathPlan({ ...intent, services: [{ ...service, pools: [pool] }] });
    const sets = plan.firewall.objects?.filter(({ kind }) => kind === "endpoints");
    expect(sets).toEqual([
      expect.objectContaining({ name: "upstreams4_1", endpoints: upstreams }),
      expect.objectContaining({ name: "retried4_1", endpoints: [b, c] }),
    ]);
  });

  test("leaves a family without upstreams to be rejected", () => {
    const bare = { ...service, pools: [poolOf(4, undefined)] };
    const { firewall } = makePathPlan({ ...intent, services: [bare] });
    expect(firewall.objects?.[0]).toMatchObject({ slots: Array(slotCount).fill(undefined) });
  });
});

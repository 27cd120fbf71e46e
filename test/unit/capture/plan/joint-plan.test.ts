import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Port } from "../../../../ffi/types.ts";
import { drainPlan } from "../../../../src/capture/plan/drain.ts";
import type { FirewallChain } from "../../../../src/capture/plan/firewall-chain.ts";
import { type Intent, parseIntent } from "../../../../src/capture/plan/intent.ts";
import { jointPlan, type ServiceIntent, single } from "../../../../src/capture/plan/joint-plan.ts";
import {
  type FirewallRule,
  makePlan,
  type Plan,
  ruleComment,
} from "../../../../src/capture/plan/plan.ts";

const runs = { numRuns: 1_000, seed: 13 };
const network = (family: 4 | 6, ...bytes: number[]) => {
  const all = new Uint8Array(family === 4 ? 4 : 16);
  all.set(bytes);
  return { family, bytes: all, prefix: bytes.length * 8 };
};

/** What a service asks for; all of a configuration share mark, table, priority and name. */
const request = fc.record(
  {
    families: fc.subarray([4 as const, 6 as const], { minLength: 1 }),
    protocols: fc.subarray(["tcp" as const, "udp" as const], { minLength: 1 }),
    ports: fc.constantFrom([{ from: 80, to: 80 }], [{ from: 53, to: 53 }], [{ from: 1, to: 99 }]),
    interfaces: fc.constantFrom(["eth0"], ["eth0", "wlan*"]),
    toPort: fc.integer({ min: 50_000, max: 50_099 }),
    local: fc.boolean(),
    replyPath: fc.boolean(),
    redirect: fc.boolean(),
    bypassPrivate: fc.boolean(),
    guardUids: fc.constantFrom([7], [8, 9]),
    sysctl: fc.boolean(),
    // A list that is so long that it becomes a set.
    bypass: fc.constant([
      ...Array.from({ length: 99 }, (_, i) => network(4, 198, 51, 2 * i + 1)),
      ...Array.from({ length: 99 }, (_, i) => network(6, 0x20, 1, 2 * i + 1)),
    ]),
  },
  { requiredKeys: ["families", "toPort"] },
);
const intents = fc
  .array(request, { minLength: 1, maxLength: 5 })
  .map((all) =>
    all.flatMap((each, i): ServiceIntent[] => {
      const parsed = parseIntent({ ...each, toPort: 50_000 + 100 * i + (each.toPort % 100) });
      return parsed.ok ? [{ service: `s${i}`, intent: parsed.value }] : [];
    }),
  )
  .filter((all) => all.length > 0);

const rulesOf = ({ firewall }: Plan) => firewall.chains.flatMap(({ rules }) => rules);
const called = ({ firewall }: Plan) => firewall.chains.filter(({ isCalled }) => isCalled);
const bases = ({ firewall }: Plan) => firewall.chains.filter(({ isCalled }) => !isCalled);
const jumpsOf = ({ rules }: FirewallChain) =>
  rules.flatMap(({ service, family, statements: [first] }) =>
    first?.kind === "jump" ? [{ service, family, chain: first.chain }] : [],
  );
/** The ports of this host to which a rule hands packets. */
const portsOf = ({ statements }: FirewallRule) =>
  statements.flatMap((each) =>
    each.kind === "tproxy" || each.kind === "redirect" ? each.port : [],
  );
/** The chains of a service, which its jumps lead to. */
const chainsOf = (plan: Plan, service: string | undefined) => {
  const names = bases(plan)
    .flatMap(jumpsOf)
    .filter((each) => each.service === service);
  return called(plan).filter(({ name }) => names.some(({ chain }) => chain === name));
};

describe("captures of several services at random", () => {
  test("a chain of a service hands packets to no listener but its own, and names it", () => {
    fc.assert(
      fc.property(intents, (all) => {
        const plan = jointPlan(all);
        for (const { service, intent } of all) {
          const chains = chainsOf(plan, service);
          for (const rule of chains.flatMap(({ rules }) => rules)) {
            expect(rule.service).toBe(service);
            expect(ruleComment(plan.firewall, rule)).toEndWith(` ${service}`);
            for (const port of portsOf(rule)) expect(port).toBe(intent.toPort as Port);
            expect(intent.families).toContain(rule.family);
          }
        }
        // Every chain is some service's, and what the hooks share hands packets to nobody.
        const known = all.flatMap(({ service }) => chainsOf(plan, service));
        expect(new Set(known)).toEqual(new Set(called(plan)));
        expect(known.length).toBe(called(plan).length);
        for (const rule of bases(plan).flatMap(({ rules }) => rules)) {
          expect(portsOf(rule)).toEqual([]);
        }
      }),
      runs,
    );
  });

  test("a hook jumps in the order of the file, and the first that captures ends the search", () => {
    fc.assert(
      fc.property(intents, (all) => {
        const plan = jointPlan(all);
        const order = all.map(({ service }) => service);
        for (const base of bases(plan)) {
          for (const family of [4, 6]) {
            const jumped = jumpsOf(base).filter((each) => each.family === family);
            const services = jumped.map(({ service }) => service);
            expect(services).toEqual(order.filter((each) => services.includes(each)));
          }
          // Shared rules come first: replies belong to connections that there are.
          const kinds = base.rules.map(({ statements }) => statements[0]?.kind === "jump");
          expect(kinds).toEqual(kinds.toSorted());
        }
        for (const { purpose, statements } of called(plan).flatMap(({ rules }) => rules)) {
          const last = statements.at(-1)?.kind;
          if (purpose === "capture" || purpose === "local") expect(last).toBe("accept");
          // An exemption of one service is none of the others: the search goes on.
          else expect(last).toBe("return");
        }
      }),
      runs,
    );
  });

  test("all have one mark, one routing table and one table of the firewall", () => {
    fc.assert(
      fc.property(intents, (all) => {
        const { routes, ipRules, firewall, sysctls } = jointPlan(all);
        const spoofing = all.filter(({ intent }) => !intent.redirect);
        const families = new Set(spoofing.flatMap(({ intent }) => intent.families));
        expect(new Set(routes.map(({ family }) => family))).toEqual(families);
        expect(routes.length).toBe(families.size);
        expect(ipRules.length).toBe(families.size);
        const marks = rulesOf({ firewall } as Plan).flatMap(({ statements }) =>
          statements.flatMap((each) => (each.kind === "mark" ? [each.mark] : [])),
        );
        for (const { mark } of ipRules) marks.push(mark as (typeof marks)[0]);
        expect(new Set(marks.map((each) => JSON.stringify(each))).size).toBeLessThanOrEqual(1);
        expect(new Set(sysctls.map(({ name }) => name)).size).toBe(sysctls.length);
      }),
      runs,
    );
  });

  test("names of chains and sets are unique, and every jump and set that is named is there", () => {
    fc.assert(
      fc.property(intents, (all) => {
        const plan = jointPlan(all);
        const chains = plan.firewall.chains.map(({ name }) => name);
        const sets = plan.firewall.sets.map(({ name }) => name);
        expect(new Set(chains).size).toBe(chains.length);
        expect(new Set(sets).size).toBe(sets.length);
        for (const { chain } of bases(plan).flatMap(jumpsOf)) expect(chains).toContain(chain);
        const named = rulesOf(plan).flatMap(({ matches }) =>
          matches.flatMap((each) => ("set" in each && each.set !== undefined ? [each.set] : [])),
        );
        expect(new Set(named)).toEqual(new Set(sets));
      }),
      runs,
    );
  });

  test("without a name one is the plan of its own; with one its chain has the same rules", () => {
    fc.assert(
      fc.property(intents, ([first]) => {
        const { intent } = first as ServiceIntent;
        const own = makePlan(intent);
        expect(jointPlan(single(intent))).toEqual(own);
        const { firewall, ...rest } = jointPlan([first as ServiceIntent]);
        const { firewall: ownFirewall, ...ownRest } = own;
        expect(rest).toEqual(ownRest);
        const outline = (rules: readonly FirewallRule[]) =>
          rules
            .filter(({ purpose }) => ["capture", "bypass", "guard"].includes(purpose))
            .filter(({ statements }) => statements[0]?.kind !== "jump")
            .map(({ family, purpose, matches }) => [family, purpose, matches.length]);
        expect(outline(firewall.chains.flatMap(({ rules }) => rules))).toEqual(
          outline(ownFirewall.chains.flatMap(({ rules }) => rules)),
        );
      }),
      runs,
    );
  });

  test("what is left while connections end captures nothing new by TPROXY", () => {
    fc.assert(
      fc.property(intents, (all) => {
        const plan = drainPlan(all, "tproxyd-drain");
        expect(plan.firewall.name).toBe("tproxyd-drain");
        for (const { service, intent } of all) {
          if (intent.local && !intent.redirect) continue;
          for (const rule of chainsOf(plan, service).flatMap(({ rules }) => rules)) {
            expect(portsOf(rule)).toEqual([]);
          }
        }
      }),
      runs,
    );
  });
});

test("no intent is an error of the program", () => {
  expect(() => jointPlan([])).toThrow(RangeError);
});

test("two that would capture one port: the first has it, and both have the replies", () => {
  const of = (more: object): Intent => {
    const parsed = parseIntent({ families: [4], ports: [{ from: 80, to: 80 }], ...more });
    if (!parsed.ok) throw new Error(parsed.issue.code);
    return parsed.value;
  };
  const plan = jointPlan([
    { service: "web", intent: of({ toPort: 50_080, replyPath: true }) },
    { service: "dns", intent: of({ toPort: 50_053, replyPath: true, protocols: ["udp"] }) },
  ]);
  const lines = plan.firewall.chains.map(({ name, rules }) => [
    name,
    ...rules.map((rule) => {
      const does = rule.statements.map((each) => ("port" in each ? each.port : each.kind));
      return `${ruleComment(plan.firewall, rule)}: ${does.join(", ")}`;
    }),
  ]);
  expect(lines).toEqual([
    ["prerouting_1", "tproxyd: capture web: mark, 50080, accept"],
    ["prerouting_2", "tproxyd: capture dns: mark, 50053, accept"],
    [
      "prerouting",
      ...["tproxyd: reply path: mark", "tproxyd: reply path: mark", "tproxyd: errors: mark"],
      ...["tproxyd: capture web: jump", "tproxyd: capture dns: jump"],
    ],
  ]);
});

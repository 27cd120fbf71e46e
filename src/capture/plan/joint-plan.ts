/**
 * One Plan for the captures of several services: one firewall table, one mark, one routing table.
 *
 * Each service has chains of its own, with the rules of its own Plan. The base chain of a hook
 * first delivers replies and errors, for all services at once, and then jumps to them in the order
 * of the configuration. So an exemption of one service exempts nothing from another one, and a
 * packet that several would capture goes to the first of them. Pure.
 */

import type { Family } from "../../net/address.ts";
import type { PortRange } from "../../net/port.ts";
import type { FirewallChain } from "./firewall-chain.ts";
import type { FirewallRule, Match, Statement } from "./firewall-rule.ts";
import type { Intent } from "./intent.ts";
import { makePlan, type Plan } from "./plan.ts";
import { besideNat, errorRules, replyPathRules } from "./reply-path.ts";

/** What is captured for one service. */
export interface ServiceIntent {
  /** Its name in the rules' comments; undefined: there is no other one. */
  readonly service: string | undefined;
  readonly intent: Intent;
}

/** What is captured where there is one service, or none: without a name. */
export function single(intent: Intent): readonly ServiceIntent[] {
  return [{ service: undefined, intent }];
}

/** Makes the Plan of a single Intent. */
type Make = (intent: Intent) => Plan;

/**
 * The Plan of all intents, of which there is at least one. They share their mark, table, priority
 * and table name. `make` is for Plans of another kind than `makePlan`'s.
 */
export function jointPlan(intents: readonly ServiceIntent[], make: Make = makePlan): Plan {
  const [first] = intents;
  if (first === undefined) throw new RangeError("a plan without an intent");
  if (intents.length === 1 && first.service === undefined) return make(first.intent);
  const plans = intents.map((each, i) => ownChains(each, make(each.intent), i + 1));
  const called = plans.flatMap(({ chains }) => chains);
  const all = intents.map(({ intent }) => intent);
  const bases = baseChains(all, plans);
  return {
    seed: false,
    families: unique(plans.flatMap(({ plan }) => plan.families)),
    routes: unique(plans.flatMap(({ plan }) => plan.routes)),
    ipRules: unique(plans.flatMap(({ plan }) => plan.ipRules)),
    firewall: {
      name: first.intent.tableName,
      sets: plans.flatMap(({ sets }) => sets),
      chains: [...called, ...besideNat(all, bases)],
    },
    sysctls: unique(plans.flatMap(({ plan }) => plan.sysctls)),
    setsSysctls: plans.some(({ plan }) => plan.setsSysctls),
    backends: unique(plans.flatMap(({ plan }) => plan.backends)),
  };
}

/** The part of a service. */
interface Part extends ServiceIntent {
  readonly plan: Plan;
  readonly sets: Plan["firewall"]["sets"];
  readonly chains: readonly FirewallChain[];
}

/** A service's chains and sets; `number` keeps their names apart from those of others. */
function ownChains(each: ServiceIntent, plan: Plan, number: number): Part {
  const { service, intent } = each;
  const rename = (name: string) => `${name}_${number}`;
  const chains = plan.firewall.chains.map((chain): FirewallChain => {
    const rules = chain.rules
      .filter(({ purpose }) => !isShared(purpose) && purpose !== "local")
      .map((rule) => final({ ...rule, service }));
    const returned = chain.hook === "prerouting" ? returnedRules(each, plan) : [];
    return {
      ...chain,
      name: rename(chain.name),
      isCalled: true,
      rules: [...returned, ...rules].map((rule) => withSets(rule, rename)),
    };
  });
  return {
    ...{ service, intent, plan },
    sets: plan.firewall.sets.map((set) => ({ ...set, name: rename(set.name) })),
    chains: chains.filter(({ rules }) => rules.length > 0),
  };
}

/** Rules that are the same for all services. */
function isShared(purpose: FirewallRule["purpose"]): boolean {
  return purpose === "reply path" || purpose === "errors" || purpose === "drain";
}

/** A rule that captures ends the search: no later service gets the packet. */
function final(rule: FirewallRule): FirewallRule {
  if (rule.purpose !== "capture") return rule;
  return { ...rule, statements: [...rule.statements, { kind: "accept" }] };
}

/**
 * What a service's output chain has marked comes in by lo. It is what that chain captures, and so
 * is told from what others' have marked.
 */
function returnedRules({ service, intent }: ServiceIntent, { firewall }: Plan): FirewallRule[] {
  const output = firewall.chains.find(({ hook }) => hook === "output");
  if (output === undefined || intent.redirect) return [];
  return output.rules
    .filter(({ purpose }) => purpose === "capture")
    .map(({ family, matches }): FirewallRule => {
      const byLoopback: Match[] = [
        { kind: "interface", names: ["lo"] },
        { kind: "mark", mark: intent.mark },
      ];
      const statements: Statement[] = [...handing(intent, family), { kind: "accept" }];
      return {
        ...{ family, purpose: "local", service, statements },
        matches: [...byLoopback, ...matches],
      };
    });
}

/** Without TPROXY the mark alone has delivered it. */
function handing({ toPort: port, toAddresses }: Intent, family: Family): Statement[] {
  if (port === undefined) return [];
  const address = toAddresses.find((each) => each.family === family);
  return [address === undefined ? { kind: "tproxy", port } : { kind: "tproxy", port, address }];
}

function withSets(rule: FirewallRule, rename: (name: string) => string): FirewallRule {
  const matches = rule.matches.map((match) =>
    "networks" in match && match.set !== undefined ? { ...match, set: rename(match.set) } : match,
  );
  return { ...rule, matches };
}

/** The base chain of each hook and type: what all services share, and a jump to each of them. */
function baseChains(intents: readonly Intent[], parts: readonly Part[]): FirewallChain[] {
  const bases = new Map<string, FirewallChain>();
  const all = parts.flatMap(({ plan }) => plan.firewall.chains);
  for (const { name, type, hook, priority } of all) {
    const isTaken = [...bases.values()].some((each) => each.name === name && each.type !== type);
    const base = { name: isTaken ? `${name}_${type}` : name, type, hook, priority, rules: [] };
    bases.set(`${hook} ${type}`, bases.get(`${hook} ${type}`) ?? base);
  }
  return [...bases.values()].map((base): FirewallChain => {
    const own = (chain: FirewallChain) => chain.hook === base.hook && chain.type === base.type;
    const shared = sharedRules(base, intents, all);
    const jumps = parts.flatMap(({ service, plan, chains }) =>
      chains.filter(own).flatMap(({ name }) =>
        plan.families.map((family): FirewallRule => {
          const statements = [{ kind: "jump", chain: name }] as const;
          return { family, purpose: "capture", service, matches: [], statements };
        }),
      ),
    );
    return { ...base, rules: [...shared, ...jumps] };
  });
}

/** The rules of the reply path and for errors, once for all services of this type of chain. */
function sharedRules(
  base: FirewallChain,
  intents: readonly Intent[],
  all: readonly FirewallChain[],
): FirewallRule[] {
  const drains = all
    .filter(({ type, hook }) => type === base.type && hook === base.hook)
    .flatMap(({ rules }) => rules.filter(({ purpose }) => purpose === "drain"));
  const spoofing = intents.filter(({ redirect }) => !redirect);
  const [first] = spoofing;
  const isDelivering = base.hook === "prerouting" && base.type !== "nat";
  if (!isDelivering || first === undefined) return unique(drains);
  const replying = spoofing.filter(({ replyPath }) => replyPath);
  // To every port, if one of them is asked at every port.
  const asked = replying.some(({ ports }) => ports.length === 0)
    ? []
    : replying.flatMap(({ ports }) => ports);
  const taken = replying.flatMap(({ ports, toPort }): PortRange[] =>
    toPort === undefined ? [...ports] : [...ports, { from: toPort, to: toPort }],
  );
  const rules = ([4, 6] as const).flatMap((family) => {
    const ofFamily = replying.filter(({ families }) => families.includes(family));
    const protocols = unique(ofFamily.flatMap((intent) => intent.protocols));
    return replyPathRules({ ...first, replyPath: true, protocols, ports: taken }, family);
  });
  const replies = rules.map((rule) => ({ ...rule, matches: rule.matches.map(asking(asked)) }));
  const families = unique(spoofing.flatMap((intent) => intent.families));
  return [
    ...replies,
    ...families.flatMap((family) => errorRules({ ...first, seed: false }, family)),
  ];
}

/** The ports that clients send to, among the taken ones. */
function asking(asked: readonly PortRange[]): (match: Match) => Match {
  return (match) => (match.kind === "connected-socket" ? { ...match, asked } : match);
}

/** Without those that are equal to an earlier one. */
function unique<T>(items: readonly T[]): T[] {
  return [...new Map(items.map((each) => [JSON.stringify(each), each])).values()];
}

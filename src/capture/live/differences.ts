/** The live system against a Plan: what is missing, and what is there too much. Pure. */

import type { FirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import type { Rule } from "../../../ffi/netlink/rule.ts";
import { fullMask } from "../../net/mark.ts";
import { firewallRuleText, isSameRoute, isSameRule, tableLines } from "./canonical.ts";
import type { CurrentState } from "./current-state.ts";
import { describeFirewallRule, describeRoute, describeRule } from "./describe.ts";
import type { DesiredState, RoutingPart, TableContents } from "./desired-state.ts";
import { closedSuffix } from "./names.ts";
import { type LivePart, neededBy, type Setup, setupFrom } from "./setups.ts";

/** One difference between the system and the Plan. */
export interface Difference {
  /** `missing`: the Plan has it and the system has not. `extra`: the other way round. */
  readonly kind: "missing" | "extra";
  readonly part: "rule" | "route" | "firewall";
  /** In words close to ip's and nft's. */
  readonly what: string;
}

/** Every difference; none means that the system matches the Plan. */
export function compare(
  parts: DesiredState,
  live: CurrentState,
  tag: number | undefined,
): Difference[] {
  const { name } = parts.firewall.table;
  const closed = live.tables.some((table) => table.name === name + closedSuffix);
  const held = live.firewall?.table.owner !== undefined;
  const leftover: Difference[] =
    closed && !held
      ? [
          {
            kind: "extra",
            part: "firewall",
            what: `table inet ${name}${closedSuffix}: drops what a held set-up captured`,
          },
        ]
      : [];
  return [
    ...missingRouting(parts, live).map(
      (part): Difference => ({ kind: "missing", part: part.kind, what: describePart(part) }),
    ),
    ...staleRouting(parts, live, tag)
      .filter(isNear(parts, live, tag))
      .map((part): Difference => ({ kind: "extra", part: part.kind, what: describePart(part) })),
    ...firewallDifferences(parts.firewall, live.firewall),
    ...leftover,
  ];
}

/** The rules and routes of the Plan that are not there, in the order to add them. */
export function missingRouting(parts: DesiredState, live: CurrentState): RoutingPart[] {
  return parts.routing.filter((part) => !isThere(part, live));
}

function isThere(part: RoutingPart, { rules, routes }: CurrentState): boolean {
  return part.kind === "rule"
    ? rules.some((rule) => isSameRule(part.rule, rule))
    : routes.some((route) => isSameRoute(part.route, route));
}

/**
 * Rules and routes that bear our tag and are neither of this Plan nor of another set-up: they are
 * of the one that it takes the place of, or left over from a process that was killed. Rules first,
 * in the order to remove them.
 */
export function staleRouting(
  parts: DesiredState,
  live: CurrentState,
  tag: number | undefined,
): LivePart[] {
  const isNeeded = neededBy(live.others, taggedRules(live, tag));
  return taggedRouting(live, tag).filter((part) => !isPlanned(parts, part) && !isNeeded(part));
}

/**
 * Whether a rule or route has to do with the set-up: its firewall rules lead to it, or it has a
 * mark or a table of the Plan. What a killed process has left elsewhere does not make it wrong.
 */
function isNear(
  parts: DesiredState,
  live: CurrentState,
  tag: number | undefined,
): (part: LivePart) => boolean {
  const own = ownSetup(live);
  const isOwn = neededBy(own === undefined ? [] : [own], taggedRules(live, tag));
  const planned = parts.routing.map(placeOf);
  return (part) => {
    const { table, mark } = placeOf(part);
    const hasOurs = planned.some(
      (each) => each.table === table || (mark !== undefined && each.mark === mark),
    );
    return hasOurs || isOwn(part);
  };
}

function placeOf(part: LivePart): { readonly table: number; readonly mark?: string } {
  if (part.kind === "route") return { table: part.route.table };
  const { table, mark, mask = fullMask } = part.rule;
  return mark === undefined ? { table } : { table, mark: `${mark}/${mask}` };
}

/** All rules and routes that bear our tag, rules first. */
export function taggedRouting(live: CurrentState, tag: number | undefined): LivePart[] {
  if (tag === undefined) return [];
  return routingOf(live).filter((part) => hasTag(part, tag));
}

/** The ip rules that bear our tag. */
export function taggedRules(
  { rules }: Pick<CurrentState, "rules">,
  tag: number | undefined,
): Rule[] {
  return rules.filter(({ protocol }) => tag !== undefined && protocol === tag);
}

function routingOf({ rules, routes }: CurrentState): LivePart[] {
  return [
    ...rules.map((rule): LivePart => ({ kind: "rule", rule })),
    ...routes.map((route): LivePart => ({ kind: "route", route })),
  ];
}

/**
 * The live rules and routes that go with a set-up, rules first: those that are exactly the Plan's
 * and, with the tag, those that its firewall rules lead to, but for what another set-up needs.
 */
export function ownRouting(
  parts: DesiredState,
  live: CurrentState,
  tag: number | undefined,
): LivePart[] {
  const own = ownSetup(live);
  const rules = taggedRules(live, tag);
  const isOwn = neededBy(own === undefined ? [] : [own], rules);
  const isNeeded = neededBy(live.others, rules);
  return routingOf(live).filter((part) => {
    const isOurs =
      isPlanned(parts, part) || (tag !== undefined && hasTag(part, tag) && isOwn(part));
    return isOurs && !isNeeded(part);
  });
}

function hasTag(part: LivePart, tag: number): boolean {
  return (part.kind === "rule" ? part.rule : part.route).protocol === tag;
}

/** The set-up of the name that was asked for, as its firewall rules show it. */
export function ownSetup({ firewall, tables }: CurrentState): Setup | undefined {
  if (firewall === undefined) return undefined;
  const rules = firewall.chains.flatMap((chain) => chain.rules);
  return setupFrom(firewall.table.name, tables, rules);
}

/** Whether the Plan has this live rule or route. */
export function isPlanned(parts: DesiredState, live: LivePart): boolean {
  return parts.routing.some((part) =>
    part.kind === "rule"
      ? live.kind === "rule" && isSameRule(part.rule, live.rule)
      : live.kind === "route" && isSameRoute(part.route, live.route),
  );
}

/** A rule or route in words. */
export function describePart(part: LivePart | RoutingPart): string {
  return part.kind === "rule" ? describeRule(part.rule) : describeRoute(part.route);
}

/** Whether two tables do the same. */
export function isSameFirewall(wanted: TableContents, live: TableContents | undefined): boolean {
  return firewallDifferences(wanted, live).length === 0;
}

function firewallDifferences(wanted: TableContents, live: TableContents | undefined): Difference[] {
  const { name } = wanted.table;
  const difference = (kind: Difference["kind"], what: string): Difference => ({
    kind,
    part: "firewall",
    what: `table inet ${name}${what}`,
  });
  if (live === undefined) return [difference("missing", "")];
  const [expected, found] = [tableLines(wanted), tableLines(live)];
  return [...new Set([...expected.keys(), ...found.keys()])].flatMap((chain) => {
    const [want, have] = [expected.get(chain), found.get(chain)];
    if (have === undefined) return [difference("missing", ` chain ${chain}`)];
    if (want === undefined) return [difference("extra", ` chain ${chain}`)];
    if (want.join("\n") === have.join("\n")) return [];
    const hook = want[0] === have[0] ? [] : [difference("missing", ` chain ${chain}: its hook`)];
    const rules = ruleDifferences(chain, wanted, live).map(([kind, text]) =>
      difference(kind, ` chain ${chain}: ${text}`),
    );
    const order = [difference("missing", ` chain ${chain}: the order of its rules`)];
    const named = [...hook, ...rules];
    return named.length > 0 ? named : order;
  });
}

function ruleDifferences(
  chain: string,
  wanted: TableContents,
  live: TableContents,
): [kind: Difference["kind"], text: string][] {
  const [want, have] = [wanted, live].map((contents) => {
    const { rules = [] } = contents.chains.find(({ name }) => name === chain) ?? {};
    return rules.map((rule) => ({
      key: firewallRuleText(rule, contents.sets),
      text: describeWith(rule, contents),
    }));
  }) as [Described[], Described[]];
  return [
    ...without(want, have).map(({ text }): ["missing", string] => ["missing", text]),
    ...without(have, want).map(({ text }): ["extra", string] => ["extra", text]),
  ];
}

interface Described {
  readonly key: string;
  readonly text: string;
}

function describeWith(rule: FirewallRule, contents: TableContents): string {
  const { comment } = rule;
  const words = describeFirewallRule(rule, contents.sets);
  return comment === undefined ? words : `${words} comment "${comment}"`;
}

/** Returns the members of `all` that `others` lacks, counting duplicates. */
function without(all: readonly Described[], others: readonly Described[]): Described[] {
  const left = others.map(({ key }) => key);
  return all.filter(({ key }) => {
    const at = left.indexOf(key);
    if (at < 0) return true;
    left.splice(at, 1);
    return false;
  });
}

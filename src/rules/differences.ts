/** The live system against a Plan: what is missing, and what is there too much. Pure. */

import type { FirewallRule } from "../../ffi/netlink/nftables/rule.ts";
import type { Route } from "../../ffi/netlink/route.ts";
import type { Rule } from "../../ffi/netlink/rule.ts";
import { fullMask } from "../net/mark.ts";
import { firewallRuleText, isSameRoute, isSameRule, tableLines } from "./canonical.ts";
import { describeFirewallRule, describeRoute, describeRule } from "./describe.ts";
import type { Live } from "./live.ts";
import { findMarking } from "./marking.ts";
import { closedSuffix } from "./names.ts";
import type { Parts, RoutingPart, TableContents } from "./parts.ts";

/** One respect in which the system is not what the Plan says. */
export interface Difference {
  /** `missing`: the Plan has it and the system has not. `extra`: the other way round. */
  readonly kind: "missing" | "extra";
  readonly part: "rule" | "route" | "firewall";
  /** In words close to ip's and nft's. */
  readonly what: string;
}

/** Every difference; none means that the system is as the Plan says. */
export function compare(parts: Parts, live: Live, tag: number | undefined): Difference[] {
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
    ...staleRouting(parts, live, tag).map(
      (part): Difference => ({ kind: "extra", part: part.kind, what: describePart(part) }),
    ),
    ...firewallDifferences(parts.firewall, live.firewall),
    ...leftover,
  ];
}

/** The rules and routes of the Plan that are not there, in the order to add them. */
export function missingRouting(parts: Parts, live: Live): RoutingPart[] {
  return parts.routing.filter((part) => !isThere(part, live));
}

function isThere(part: RoutingPart, { rules, routes }: Live): boolean {
  return part.kind === "rule"
    ? rules.some((rule) => isSameRule(part.rule, rule))
    : routes.some((route) => isSameRoute(part.route, route));
}

/** A live rule or route. */
export type LivePart =
  | { readonly kind: "rule"; readonly rule: Rule }
  | { readonly kind: "route"; readonly route: Route };

/**
 * Rules and routes that bear our tag and are not of this Plan, but of the set-up that it takes the
 * place of: they have to do with its tables or marks, or with the marks of the firewall table that
 * is there. Rules first, in the order to remove them.
 */
export function staleRouting(parts: Parts, live: Live, tag: number | undefined): LivePart[] {
  const marks = new Set<string | undefined>([
    ...parts.routing.map(markOf),
    ...firewallMarks(live.firewall),
  ]);
  marks.delete(undefined);
  const unplanned = taggedRouting(live, tag).filter((part) => !isPlanned(parts, part));
  const marked = unplanned.filter((part) => part.kind === "rule" && marks.has(markOf(part)));
  const tables = new Set([...parts.routing, ...marked].map(tableOf));
  return unplanned.filter((part) => marked.includes(part) || tables.has(tableOf(part)));
}

const tableOf = (part: LivePart) => (part.kind === "rule" ? part.rule.table : part.route.table);

function markOf(part: LivePart): string | undefined {
  if (part.kind === "route" || part.rule.mark === undefined) return undefined;
  return `${part.rule.mark}/${part.rule.mask ?? fullMask}`;
}

function firewallMarks(firewall: TableContents | undefined): string[] {
  const rules = firewall?.chains.flatMap((chain) => chain.rules) ?? [];
  return rules.flatMap(({ expressions }) => {
    const mark = findMarking(expressions)?.mark;
    return mark === undefined ? [] : [`${mark.value}/${mark.mask}`];
  });
}

/** All rules and routes that bear our tag, rules first. */
export function taggedRouting(live: Live, tag: number | undefined): LivePart[] {
  if (tag === undefined) return [];
  return [
    ...live.rules.filter(({ protocol }) => protocol === tag).map(asRule),
    ...live.routes.filter(({ protocol }) => protocol === tag).map(asRoute),
  ];
}

/** The live rules and routes that are exactly the Plan's, rules first. */
export function plannedRouting(parts: Parts, live: Live): LivePart[] {
  return [...live.rules.map(asRule), ...live.routes.map(asRoute)].filter((part) =>
    isPlanned(parts, part),
  );
}

const asRule = (rule: Rule): LivePart => ({ kind: "rule", rule });
const asRoute = (route: Route): LivePart => ({ kind: "route", route });

/** Whether the Plan has this live rule or route. */
export function isPlanned(parts: Parts, live: LivePart): boolean {
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

/** What of `all` is not in `others`, each as often as it is there once more. */
function without(all: readonly Described[], others: readonly Described[]): Described[] {
  const left = others.map(({ key }) => key);
  return all.filter(({ key }) => {
    const at = left.indexOf(key);
    if (at < 0) return true;
    left.splice(at, 1);
    return false;
  });
}

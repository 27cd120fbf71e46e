/**
 * Canonical texts of parts, equal for equal parts from any source: an iproute2 or nft command,
 * this program's messages, or the kernel in a dump. Pure.
 */

import { AF_INET6 } from "../../../ffi/constants.ts";
import {
  IP6_RT_PRIO_USER,
  NFT_SET_ELEM_INTERVAL_END,
  NFT_SET_INTERVAL,
  RTN_LOCAL,
  RTN_UNICAST,
} from "../../../ffi/netlink/constants.ts";
import type { Expression } from "../../../ffi/netlink/nftables/expressions.ts";
import type { FirewallRule } from "../../../ffi/netlink/nftables/rule.ts";
import {
  intervalElements,
  type SetElement,
  TYPE_INET_SERVICE,
} from "../../../ffi/netlink/nftables/set.ts";
import type { Prefix, Route } from "../../../ffi/netlink/route.ts";
import type { Rule } from "../../../ffi/netlink/rule.ts";
import { fullMask } from "../../net/mark.ts";
import type { FilledSet, TableContents } from "./desired-state.ts";

/** Whether a live rule is the wanted one. A wanted rule without a priority is found at any. */
export function isSameRule(wanted: Rule, live: Rule): boolean {
  const priority = wanted.priority === undefined ? undefined : live.priority;
  const { priority: _, ...rest } = live;
  return ruleText(wanted) === ruleText(priority === undefined ? rest : { ...rest, priority });
}

/** Whether a live route is the wanted one. */
export function isSameRoute(wanted: Route, live: Route): boolean {
  return routeText(wanted) === routeText(live);
}

function ruleText(rule: Rule): string {
  const { mark, mask, protocol = 0, source, destination, suppressPrefixLength, ...rest } = rule;
  const hasMark = mark !== undefined || mask !== undefined;
  return stable({
    ...rest,
    protocol,
    source: prefixText(source),
    destination: prefixText(destination),
    // The kernel dumps the mask with every mark, and -1 for nothing to suppress.
    mark: hasMark ? `${mark ?? 0}/${mask ?? fullMask}` : undefined,
    suppress: suppressPrefixLength === fullMask ? undefined : suppressPrefixLength,
  });
}

function routeText(route: Route): string {
  const { family, type, table, protocol, destination, source, gateway, preferredSource } = route;
  // The kernel gives an IPv6 route that asks for no metric this one.
  const metric = route.priority ?? (family === AF_INET6 ? IP6_RT_PRIO_USER : 0);
  const hasDevice = type === RTN_LOCAL || type === RTN_UNICAST;
  return stable({
    ...{ family, type, table, protocol, metric },
    destination: prefixText(destination),
    source: prefixText(source),
    gateway,
    preferredSource,
    // A blackhole of IPv6 is listed with lo as its device.
    oif: hasDevice ? route.oif : undefined,
  });
}

/** The default prefix is listed without an address; it is none. */
function prefixText(prefix: Prefix | undefined): string | undefined {
  if (prefix === undefined || prefix.length === 0) return undefined;
  return `${hex(prefix.address)}/${prefix.length}`;
}

/** A table's chains, each as a line for itself and one for each of its rules. */
export function tableLines(contents: TableContents): Map<string, string[]> {
  return new Map(
    contents.chains.map(({ name, base, rules }) => [
      name,
      [
        base === undefined ? "" : stable({ ...base }),
        ...rules.map((rule) => firewallRuleText(rule, contents.sets)),
      ],
    ]),
  );
}

/**
 * A firewall rule as text. Counters are left out, and a set's name is replaced by what is in it.
 */
export function firewallRuleText(rule: FirewallRule, sets: readonly FilledSet[]): string {
  const parts = rule.expressions.filter(({ kind }) => kind !== "counter");
  return parts.map((each) => expressionText(each, sets)).join(" ");
}

function expressionText(expression: Expression, sets: readonly FilledSet[]): string {
  if (expression.kind !== "lookup") return stable({ ...expression });
  const { set: name, setId, ...rest } = expression;
  const set = sets.find((each) => (setId === undefined ? each.name === name : each.id === setId));
  return stable({ ...rest, set: set === undefined ? name : setText(set) });
}

const none = new Uint8Array();

/**
 * The bounds of a set's ranges, or its keys with a map's values, sorted. The end at 0 that leads a
 * set of ranges says nothing, and who made the set decides whether it is there.
 */
function setText(set: FilledSet): string {
  const { keyLength } = set;
  const texts: string[] = [];
  for (const { key, data = none, flags = 0 } of comparable(set)) {
    const isEnd = (flags & NFT_SET_ELEM_INTERVAL_END) !== 0;
    if (isEnd && key.every((byte) => byte === 0)) continue;
    // Bytes as they are: there may be very many, and nobody reads this.
    texts.push(String.fromCharCode(...key) + (isEnd ? "]" : "[") + String.fromCharCode(...data));
  }
  return `${keyLength}: ${texts.sort().join(" ")}`;
}

/** nft(8) makes a set of ranges of a list of ports only where there is a range among them. */
function comparable({ keyType, flags = 0, elements }: FilledSet): readonly SetElement[] {
  if (keyType !== TYPE_INET_SERVICE || (flags & NFT_SET_INTERVAL) !== 0) return elements;
  return intervalElements(elements.map(({ key }) => ({ first: key, last: key })));
}

/** JSON with sorted members, and bytes and big integers as text; undefined members are left out. */
function stable(value: Readonly<Record<string, unknown>>): string {
  const entries = Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, member]) => [name, plain(member)]);
  return JSON.stringify(Object.fromEntries(entries));
}

function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return hex(value);
  return typeof value === "bigint" ? String(value) : value;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

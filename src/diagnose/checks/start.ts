/** Finds obstacles between packets and rules that are about to be applied, by facts alone. Pure. */

import { AF_INET6 } from "../../../ffi/constants.ts";
import { FR_ACT_TO_TBL, RT_TABLE_LOCAL } from "../../../ffi/netlink/constants.ts";
import type { Link } from "../../../ffi/netlink/link.ts";
import type { Rule } from "../../../ffi/netlink/rule.ts";
import { describeRule } from "../../capture/live/describe.ts";
import type { Intent } from "../../capture/plan/intent.ts";
import type { SettingWords } from "../../config/setting-words.ts";
import type { Family } from "../../net/address.ts";
import { type Cidr, cidrContains } from "../../net/cidr.ts";
import { isPrefix, patternMatches } from "../../net/interface.ts";
import { fullMask } from "../../net/mark.ts";
import { masterOf } from "../master.ts";

/** The facts. */
export interface StartFacts {
  readonly links: readonly Link[];
  /** Ip rules of both families that are not ours. */
  readonly rules: readonly Rule[];
  /** Whether a routing table has any route: what it has none for goes on to the next rule. */
  readonly hasRoutes: (family: Family, table: number) => boolean;
  readonly sysctl: (name: string) => number | undefined;
}

/** A line for each obstacle. */
export function startWarnings(intent: Intent, facts: StartFacts, spell: SettingWords): string[] {
  if (!intent.captures) return [];
  return [
    ...interfaceWarnings(intent, facts, spell),
    ...bridgeWarnings(intent, facts),
    ...(intent.redirect ? [] : orderWarnings(intent, facts, spell)),
  ];
}

function interfaceWarnings(
  { interfaces }: Intent,
  { links }: StartFacts,
  spell: SettingWords,
): string[] {
  return interfaces.flatMap((pattern) => {
    const found = links.filter(({ name }) => patternMatches(pattern, name));
    if (found.length === 0) {
      const none = isPrefix(pattern)
        ? "no interface's name begins so"
        : "there is no such interface";
      const known = links.map(({ name }) => name).join(", ");
      return [
        `${spell("in", pattern)}: ${none}, nothing is captured until one comes; there are ${known}`,
      ];
    }
    return found.flatMap((link) => portWarning(link, links, spell));
  });
}

function portWarning(port: Link, links: readonly Link[], spell: SettingWords): string[] {
  const owner = masterOf(port, links);
  if (owner === undefined) return [];
  return [
    `${spell("in", port.name)}: it is a port of the ${owner.kind} ${owner.name}, and the rules ` +
      `see its packets as those of ${owner.name}: give ${spell("in", owner.name)}`,
  ];
}

function bridgeWarnings({ interfaces, families }: Intent, facts: StartFacts): string[] {
  const bridges = facts.links
    .filter(({ kind, name }) => {
      const isMeant = interfaces.some((pattern) => patternMatches(pattern, name));
      return kind === "bridge" && (interfaces.length === 0 || isMeant);
    })
    .map(({ name }) => name);
  const settings = families
    .map((family) => `net.bridge.bridge-nf-call-ip${family === 6 ? "6" : ""}tables`)
    .filter((name) => facts.sysctl(name) === 1);
  if (bridges.length === 0 || settings.length === 0) return [];
  return [
    `${settings.join(" and ")} is 1: packets of ${bridges.join(", ")} pass the rules before they ` +
      `are routed, and are lost: ${settings.map((name) => `sysctl -w ${name}=0`).join("; ")}`,
  ];
}

/** Ip rules that are tried before ours and may take what is captured. */
function orderWarnings(intent: Intent, facts: StartFacts, spell: SettingWords): string[] {
  return intent.families.flatMap((family) =>
    facts.rules
      .filter((rule) => (rule.family === AF_INET6 ? 6 : 4) === family)
      .filter((rule) => comesBefore(rule, intent) && mayTake(rule, intent, family, facts))
      .map(
        (rule) =>
          `"${describeRule(rule)}" comes before ours (${intent.priority}), and what it matches ` +
          `is not captured: give a ${spell("priority")} below ${rule.priority ?? 0}, or that ` +
          `rule a priority above ${intent.priority}`,
      ),
  );
}

function comesBefore({ priority = 0 }: Rule, { priority: ours = 0 }: Intent): boolean {
  return priority < ours;
}

function mayTake(rule: Rule, intent: Intent, family: Family, facts: StartFacts): boolean {
  const { action = FR_ACT_TO_TBL, table, mark, mask = fullMask } = rule;
  if (action === FR_ACT_TO_TBL && (table === RT_TABLE_LOCAL || !facts.hasRoutes(family, table))) {
    return false;
  }
  // A table with the default route left out: what it has more of is this host's neighbourhood.
  if (rule.suppressPrefixLength !== undefined) return false;
  if (rule.invert === true) return true;
  const ours = intent.mark;
  const common = (mask & ours.mask) >>> 0;
  if (mark !== undefined && ((mark ^ ours.value) & common) >>> 0 !== 0) return false;
  return (
    comesBy(rule, intent) &&
    overlaps(rule.source, intent.sources, family) &&
    overlaps(rule.destination, intent.destinations, family)
  );
}

/** Rules about this host's own packets matter where these are captured. */
function comesBy({ iif, oif, uids }: Rule, { interfaces, local }: Intent): boolean {
  if (iif === "lo" || oif !== undefined || uids !== undefined) return local;
  if (iif === undefined || interfaces.length === 0) return true;
  return interfaces.some((pattern) => patternMatches(pattern, iif));
}

function overlaps(prefix: Rule["source"], networks: readonly Cidr[], family: Family): boolean {
  const own = networks.filter((network) => network.family === family);
  if (prefix === undefined || own.length === 0) return true;
  const other: Cidr = { family, bytes: prefix.address, prefix: prefix.length };
  return own.some((network) => {
    const [wide, narrow] = network.prefix < other.prefix ? [network, other] : [other, network];
    return cidrContains(wide, { family, bytes: narrow.bytes });
  });
}

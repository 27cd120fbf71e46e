/**
 * A plan as `ip` and `iptables` commands. The article's plan comes out as the article has it: bare
 * rules in PREROUTING. Any other has its rules in a chain of its own, which captures nothing until
 * the last command makes PREROUTING jump to it.
 */

import type { Family } from "../../net/address.ts";
import { formatCidr } from "../../net/cidr.ts";
import type { PortRange } from "../../net/port.ts";
import type { AddressType, FirewallRule, Match, Plan, Statement } from "../plan.ts";
import { describeFirewallRule } from "./describe.ts";
import {
  applyScript,
  ipSections,
  ipUndoSection,
  line,
  type Section,
  tolerant,
  undoScript,
} from "./script.ts";

/** The most ports that `-m multiport` takes; a range counts as two (iptables-extensions(8)). */
const multiportMax = 15;

/** The script that puts a plan in place, or with `undo` the one that takes it back. */
export function renderIptables(plan: Plan, options: { undo?: boolean } = {}): string {
  if (options.undo === true) {
    const firewall = plan.seed ? seedUndoSections(plan) : undoSections(plan);
    return undoScript(plan, [tidyFunction, ...firewall, ipUndoSection(plan)]);
  }
  if (plan.seed) return applyScript(plan, [...ipSections(plan), ...seedSections(plan)]);
  return applyScript(plan, [reserveSection(plan), ...ipSections(plan), ...ownSections(plan)]);
}

function rulesOf(plan: Plan): readonly FirewallRule[] {
  return plan.firewall.chains.flatMap((chain) => chain.rules);
}

function seedSections(plan: Plan): readonly Section[] {
  return rulesOf(plan).map((rule) => ({
    comment: describeFirewallRule(rule),
    commands: specs(rule).map((spec) => seedLine("-A", rule.family, spec)),
  }));
}

function seedUndoSections(plan: Plan): readonly Section[] {
  return rulesOf(plan).map((rule) => ({
    comment: ["The firewall rule: from here on nothing is captured."],
    commands: specs(rule).map((spec) => tidied(seedLine("-D", rule.family, spec), rule.family)),
  }));
}

function seedLine(verb: "-A" | "-D", family: Family, spec: readonly string[]): string {
  return line(tool(family), "-t", "mangle", verb, "PREROUTING", ...spec);
}

function reserveSection(plan: Plan): Section {
  return {
    comment: [
      "A chain of our own. This comes first because it fails, with nothing changed, if there is",
      "one already. Nothing jumps to it yet.",
    ],
    commands: plan.families.map((family) => mangle(family, "-N", plan.firewall.name)),
  };
}

function ownSections(plan: Plan): readonly Section[] {
  const { name } = plan.firewall;
  const note = ["-m", "comment", "--comment", name];
  const rules = rulesOf(plan).map((rule) => ({
    comment: describeFirewallRule(rule),
    commands: specs(rule, note).map((spec) => mangle(rule.family, "-A", name, ...spec)),
  }));
  const jump = {
    comment: ["From here on packets are captured."],
    commands: plan.families.map((family) =>
      mangle(family, "-A", "PREROUTING", ...note, "-j", name),
    ),
  };
  return [...rules, jump];
}

function undoSections(plan: Plan): readonly Section[] {
  const { name } = plan.firewall;
  const families = plan.families.toReversed();
  const note = ["-m", "comment", "--comment", name];
  return [
    {
      comment: ["From here on nothing is captured."],
      commands: families.map((family) =>
        tolerant(mangle(family, "-D", "PREROUTING", ...note, "-j", name)),
      ),
    },
    {
      comment: ["The chain of our own and its rules."],
      commands: families.flatMap((family) => [
        tolerant(mangle(family, "-F", name)),
        tidied(mangle(family, "-X", name), family),
      ]),
    },
  ];
}

const tidyFunction: Section = {
  comment: [
    "On nf_tables, iptables makes the table mangle and its chain PREROUTING on first use and",
    "leaves them behind, empty. They go too, if nothing is in them, but not if all five chains of",
    "mangle are there: then a restored dump made them. iptables removes the chain, but not if it",
    "has a rule or another policy than ACCEPT; the table can only be removed by nft.",
  ],
  commands: [
    "tidy() {",
    '  command -v nft >/dev/null && "$1" -V | grep -q nf_tables || return 0',
    `  [ "$(nft list table "$2" mangle 2>/dev/null | grep -c ' hook ')" -lt 5 ] || return 0`,
    '  "$1" -w -t mangle -X PREROUTING 2>/dev/null || true',
    `  rest=$(nft list table "$2" mangle 2>/dev/null | tr -d '[:space:]')`,
    `  [ "$rest" != "table$2mangle{}" ] || nft delete table "$2" mangle || status=1`,
    "}",
  ],
};

/** A command of an undo script that, where it succeeds, may leave empty things behind. */
function tidied(command: string, family: Family): string {
  const table = family === 4 ? "ip" : "ip6";
  const tidy = `tidy ${tool(family)} ${table}`;
  return [`if ${command}; then`, `  ${tidy}`, "else", "  status=1", "fi"].join("\n");
}

function tool(family: Family): string {
  return family === 4 ? "iptables" : "ip6tables";
}

/** A command on the table mangle that waits for the lock of other iptables commands (`-w`). */
function mangle(family: Family, ...words: readonly string[]): string {
  return line(tool(family), "-w", "-t", "mangle", ...words);
}

/** A rule's matches and target as iptables words: a rule of ours can take several of iptables'. */
function specs(rule: FirewallRule, note: readonly string[] = []): readonly (readonly string[])[] {
  const { protocol } = rule.matches.find((match) => match.kind === "protocol") ?? {};
  let products: readonly (readonly string[])[] = [[]];
  for (const match of rule.matches) {
    const choices = matchWords(match, rule, protocol);
    products = products.flatMap((head) => choices.map((words) => [...head, ...words]));
  }
  return products.map((words) => [...words, ...note, ...targetWords(rule.statements)]);
}

/** The alternatives of one match, each the words of one iptables rule. */
function matchWords(
  match: Match,
  rule: FirewallRule,
  protocol: string | undefined,
): readonly (readonly string[])[] {
  switch (match.kind) {
    case "interface":
      return match.names.map((name) => ["-i", name]);
    case "protocol":
      return [["-p", match.protocol]];
    case "source":
      return match.networks.map((network) => ["-s", formatCidr(network)]);
    case "destination":
      return match.networks.map((network) => ["-d", formatCidr(network)]);
    case "destination-type":
      return [addressTypeWords(match.not, rule.family)];
    case "destination-port":
      return portWords(match.ranges, protocol);
  }
}

/**
 * In IPv4 a list of types is met by any of them. In IPv6 a list with MULTICAST in it is met by
 * multicast addresses alone (match_type6 in net/netfilter/xt_addrtype.c), so that stands apart.
 */
function addressTypeWords(types: readonly AddressType[], family: Family): readonly string[] {
  const others = types.filter((type) => type !== "multicast");
  const lists = family === 4 ? [types] : [others, types.filter((type) => type === "multicast")];
  return lists
    .filter((list) => list.length > 0)
    .flatMap((list) => ["-m", "addrtype", "!", "--dst-type", list.join(",").toUpperCase()]);
}

function portWords(ranges: readonly PortRange[], protocol: string | undefined) {
  const text = ({ from, to }: PortRange) => (from === to ? `${from}` : `${from}:${to}`);
  const [first, second] = ranges;
  if (first !== undefined && second === undefined) {
    return [["-m", protocol ?? "", "--dport", text(first)]];
  }
  return multiportChunks(ranges).map((chunk) => [
    "-m",
    "multiport",
    "--dports",
    chunk.map(text).join(","),
  ]);
}

function multiportChunks(ranges: readonly PortRange[]): readonly (readonly PortRange[])[] {
  const chunks: PortRange[][] = [];
  let room = 0;
  for (const range of ranges) {
    const size = range.from === range.to ? 1 : 2;
    if (size > room) {
      chunks.push([]);
      room = multiportMax;
    }
    chunks.at(-1)?.push(range);
    room -= size;
  }
  return chunks;
}

/** The target; TPROXY sets the mark itself, and drops the packet if there is no listener. */
function targetWords(statements: readonly Statement[]): readonly string[] {
  const marking = statements.find((statement) => statement.kind === "mark");
  const tproxy = statements.find((statement) => statement.kind === "tproxy");
  const mark = marking === undefined ? "0x0/0x0" : markAndMask(marking.mark);
  return tproxy === undefined
    ? ["-j", "MARK", "--set-xmark", mark]
    : ["-j", "TPROXY", "--on-port", String(tproxy.port), "--tproxy-mark", mark];
}

function markAndMask({ value, mask }: { value: number; mask: number }): string {
  return `0x${value.toString(16)}/0x${mask.toString(16)}`;
}

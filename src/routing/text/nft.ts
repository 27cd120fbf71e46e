/** A plan as `ip` commands and an nft table of its own, `inet tproxyd`. */

import { formatCidr } from "../../net/cidr.ts";
import { fullMask } from "../../net/mark.ts";
import { formatPortRange } from "../../net/port.ts";
import type {
  FirewallChain,
  FirewallRule,
  FirewallTable,
  Match,
  Plan,
  Statement,
} from "../plan.ts";
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

/** The script that puts a plan in place, or with `undo` the one that takes it back. */
export function renderNft(plan: Plan, options: { undo?: boolean } = {}): string {
  const { name } = plan.firewall;
  if (options.undo === true) {
    const firewall = {
      comment: ["The table of our own: from here on nothing is captured."],
      commands: [tolerant(line("nft", "delete", "table", "inet", name))],
    };
    return undoScript(plan, [firewall, ipUndoSection(plan)]);
  }
  const reserve: Section = {
    comment: [
      "A table of our own. This comes first because it fails, with nothing changed, if there is",
      "one already. It is empty and captures nothing yet.",
    ],
    commands: [line("nft", "create", "table", "inet", name)],
  };
  const rules: Section = {
    comment: ["From here on packets are captured: nft adds all of this at once, or none of it."],
    commands: ["nft -f - <<'EOF'", ...tableLines(plan.firewall), "EOF"],
  };
  return applyScript(plan, [reserve, ...ipSections(plan), rules]);
}

function tableLines(table: FirewallTable): readonly string[] {
  return [`table inet ${table.name} {`, ...table.chains.flatMap(chainLines), "}"];
}

function chainLines(chain: FirewallChain): readonly string[] {
  const { name, type, hook, priority } = chain;
  return [
    `  chain ${name} {`,
    `    type ${type} hook ${hook} priority ${priority}; policy accept;`,
    ...chain.rules.flatMap(ruleLines).map((text) => `    ${text}`),
    "  }",
  ];
}

function ruleLines(rule: FirewallRule): readonly string[] {
  const { protocol } = rule.matches.find((match) => match.kind === "protocol") ?? {};
  const words = [
    `meta nfproto ipv${rule.family}`,
    ...rule.matches.map((match) => matchText(match, rule, protocol)),
    ...rule.statements.map((statement) => statementText(statement, rule)),
  ];
  return [...describeFirewallRule(rule).map((text) => `# ${text}`), words.join(" ")];
}

function matchText(match: Match, rule: FirewallRule, protocol: string | undefined): string {
  const header = rule.family === 4 ? "ip" : "ip6";
  switch (match.kind) {
    case "interface":
      return `iifname ${set(match.names.map((name) => `"${name}"`))}`;
    case "protocol":
      return `meta l4proto ${match.protocol}`;
    case "source":
      return `${header} saddr ${set(match.networks.map(formatCidr))}`;
    case "destination":
      return `${header} daddr ${set(match.networks.map(formatCidr))}`;
    case "destination-type":
      return `fib daddr type != ${set(match.not)}`;
    case "destination-port":
      return `${protocol} dport ${set(match.ranges.map(formatPortRange))}`;
  }
}

function set(items: readonly string[]): string {
  return items.length === 1 ? (items[0] as string) : `{ ${items.join(", ")} }`;
}

function statementText(statement: Statement, rule: FirewallRule): string {
  if (statement.kind === "tproxy") {
    return `tproxy ${rule.family === 4 ? "ip" : "ip6"} to :${statement.port}`;
  }
  const { value, mask } = statement.mark;
  const bits = `0x${value.toString(16)}`;
  if (mask === fullMask) return `meta mark set ${bits}`;
  return `meta mark set meta mark & 0x${(~mask >>> 0).toString(16)} | ${bits}`;
}

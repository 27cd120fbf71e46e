/** A plan as `ip` commands and an nft table of its own: `inet tproxyd`, or by another name. */

import type { Port } from "../../../ffi/types.ts";
import { loopbackOf } from "../../net/address.ts";
import { formatCidr } from "../../net/cidr.ts";
import { formatEndpoint } from "../../net/endpoint.ts";
import { fullMask } from "../../net/mark.ts";
import { formatPortRange } from "../../net/port.ts";
import type { FirewallChain } from "../plan/firewall-chain.ts";
import type { Exceptable } from "../plan/firewall-rule.ts";
import { formatRange, rangesOf } from "../plan/networks.ts";
import {
  type FirewallRule,
  type FirewallTable,
  type Match,
  type NetworkSet,
  type Plan,
  ruleComment,
  type Statement,
} from "../plan/plan.ts";
import { describeFirewallRule } from "./describe.ts";
import { flowMatchText, flowObjectLines, flowStatementText } from "./flow-nft.ts";
import {
  applyScript,
  beginning,
  ending,
  ipSections,
  ipUndoSections,
  line,
  type Section,
  tolerant,
  undoScript,
} from "./script.ts";

/**
 * The script that puts a plan in place, or with `undo` the one that takes it back. `origin` is for
 * its heading, see `applyScript`.
 */
export function renderNft(
  plan: Plan,
  options: { undo?: boolean; origin?: Parameters<typeof applyScript>[2] } = {},
): string {
  const { name } = plan.firewall;
  if (options.undo === true) {
    const firewall = {
      comment: ["The table of our own.", ending(plan)],
      commands: [tolerant(line("nft", "delete", "table", "inet", name))],
    };
    return undoScript(plan, [firewall, ...ipUndoSections(plan)]);
  }
  const reserve: Section = {
    comment: [
      "A table of our own. This comes first because it fails, with nothing changed, if there is",
      "one already. It is empty and captures nothing yet.",
    ],
    commands: [line("nft", "create", "table", "inet", name)],
  };
  const rules: Section = {
    comment: [`${beginning(plan)}: nft adds all of this at once, or none of it.`],
    commands: ["nft -f - <<'EOF'", ...tableLines(plan.firewall), "EOF"],
  };
  return applyScript(plan, [reserve, ...ipSections(plan), rules], options.origin);
}

function tableLines(table: FirewallTable): readonly string[] {
  return [
    `table inet ${table.name} {`,
    ...table.sets.flatMap(setLines),
    ...(table.objects ?? []).flatMap(flowObjectLines),
    ...table.chains.flatMap((chain) => chainLines(table, chain)),
    "}",
  ];
}

function setLines({ name, family, networks }: NetworkSet): readonly string[] {
  return [
    `  set ${name} {`,
    `    type ipv${family}_addr; flags interval;`,
    "    elements = {",
    ...rangesOf(networks).map((range) => `      ${formatRange(range)},`),
    "    }",
    "  }",
  ];
}

function chainLines(table: FirewallTable, chain: FirewallChain): readonly string[] {
  const { name, type, hook, priority, isCalled } = chain;
  const rules = chain.rules.flatMap((rule) => [
    ...describeFirewallRule(rule, hook).map((text) => `# ${text}`),
    `${ruleText(rule)} comment "${ruleComment(table, rule)}"`,
  ]);
  return [
    `  chain ${name} {`,
    ...(isCalled ? [] : [`    type ${type} hook ${hook} priority ${priority}; policy accept;`]),
    ...rules.map((text) => `    ${text}`),
    "  }",
  ];
}

function ruleText(rule: FirewallRule): string {
  const { protocol } = rule.matches.find((match) => match.kind === "protocol") ?? {};
  return [
    `meta nfproto ipv${rule.family}`,
    ...rule.matches.map((match) => matchText(match, rule, protocol)),
    ...rule.statements.map((statement) => statementText(statement, rule)),
  ].join(" ");
}

function matchText(match: Match, rule: FirewallRule, protocol: string | undefined): string {
  const header = rule.family === 4 ? "ip" : "ip6";
  switch (match.kind) {
    case "interface":
      return `iifname ${set(match.names.map((name) => `"${name}"`))}`;
    case "protocol":
      return `meta l4proto ${match.protocol}`;
    case "source":
      return `${header} saddr ${networksText(match)}`;
    case "destination":
      return `${header} daddr ${networksText(match)}`;
    case "destination-type":
      return `fib daddr type != ${set(match.not)}`;
    case "destination-port":
      return `${protocol} dport ${set(match.ranges.map(formatPortRange))}`;
    case "mark": {
      const { value, mask } = match.mark;
      if (mask === fullMask) return `meta mark ${hex(value)}`;
      return `meta mark & ${hex(mask)} == ${hex(value)}`;
    }
    case "user":
      return `meta skuid ${match.id}`;
    case "group":
      return `meta skgid ${match.id}`;
    case "cgroup":
      return `socket cgroupv2 level ${match.path.split("/").length} "${match.path}"`;
    case "reply":
      return "ct direction reply";
    case "not-syn":
      return "tcp flags & (fin | syn | rst | ack) != syn";
    case "transparent-socket":
      return "socket transparent 1 socket wildcard 0";
    case "connected-socket": {
      const to = formatEndpoint({ address: loopbackOf(rule.family), port: match.unused as Port });
      return `socket transparent 1 tproxy ${header} to ${to}`;
    }
    case "icmp":
      return `meta l4proto ${rule.family === 4 ? "icmp" : "ipv6-icmp"}`;
    default:
      return flowMatchText(match, rule, protocol, (each) => exceptText(each, header));
  }
}

/** A condition that is turned round. */
function exceptText(match: Exceptable, header: string): string {
  switch (match.kind) {
    case "destination":
      return `${header} daddr != ${networksText(match)}`;
    case "mark": {
      const { value, mask } = match.mark;
      if (mask === fullMask) return `meta mark != ${hex(value)}`;
      return `meta mark & ${hex(mask)} != ${hex(value)}`;
    }
    case "user":
      return `meta skuid != ${match.id}`;
    case "group":
      return `meta skgid != ${match.id}`;
    case "cgroup":
      return `socket cgroupv2 level ${match.path.split("/").length} != "${match.path}"`;
  }
}

function networksText({ networks, set: name }: Extract<Match, { networks: unknown }>): string {
  if (name !== undefined) return `@${name}`;
  if (networks.length === 1) return networks.map(formatCidr).join();
  return `{ ${rangesOf(networks).map(formatRange).join(", ")} }`;
}

function set(items: readonly string[]): string {
  return items.length === 1 ? (items[0] as string) : `{ ${items.join(", ")} }`;
}

function statementText(statement: Statement, rule: FirewallRule): string {
  const { family } = rule;
  switch (statement.kind) {
    case "mark": {
      const { value, mask } = statement.mark;
      if (mask === fullMask) return `meta mark set ${hex(value)}`;
      return `meta mark set meta mark & ${hex(~mask >>> 0)} | ${hex(value)}`;
    }
    case "tproxy": {
      const { address, port } = statement;
      const to = address === undefined ? `:${port}` : formatEndpoint({ address, port });
      return `tproxy ${family === 4 ? "ip" : "ip6"} to ${to}`;
    }
    case "redirect":
      return `redirect to :${statement.port}`;
    case "return":
      return "return";
    case "accept":
      return "accept";
    case "jump":
      return `jump ${statement.chain}`;
    default:
      return flowStatementText(statement, rule);
  }
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/**
 * A plan as `ip` and `iptables` commands. The article's plan comes out as the article has it: bare
 * rules in PREROUTING. Any other has its rules in a chain of its own, which captures nothing until
 * the last command makes PREROUTING jump to it.
 */

import type { Family } from "../../net/address.ts";
import { formatCidr } from "../../net/cidr.ts";
import { chainTypes, type FirewallChain, hooks } from "../plan/firewall-chain.ts";
import { type Plan, ruleComment } from "../plan/plan.ts";
import { describeFirewallRule } from "./describe.ts";
import { ruleWords } from "./iptables-words.ts";
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

/** The script that puts a plan in place, or with `undo` the one that takes it back. */
export function renderIptables(plan: Plan, options: { undo?: boolean } = {}): string {
  if (options.undo === true) {
    const firewall = plan.seed ? seedUndoSections(plan) : undoSections(plan);
    return undoScript(plan, [tidyFunction, ...firewall, ...ipUndoSections(plan)]);
  }
  if (plan.seed) return applyScript(plan, [...ipSections(plan), ...seedSections(plan)]);
  return applyScript(plan, [reserveSection(plan), ...ipSections(plan), ...ownSections(plan)]);
}

function seedSections(plan: Plan): readonly Section[] {
  return rulesOf(plan).map(({ chain, rule }) => ({
    comment: describeFirewallRule(rule, chain.hook),
    commands: ruleWords(rule).map((spec) => seedLine("-A", rule.family, spec)),
  }));
}

function seedUndoSections(plan: Plan): readonly Section[] {
  return rulesOf(plan).map(({ chain, rule }) => ({
    comment: ["The firewall rule: from here on nothing is captured."],
    commands: ruleWords(rule).map((spec) =>
      tidied(seedLine("-D", rule.family, spec), rule.family, chain),
    ),
  }));
}

function seedLine(verb: "-A" | "-D", family: Family, spec: readonly string[]): string {
  return line(tool(family), "-t", "mangle", verb, "PREROUTING", ...spec);
}

/** Each chain of our own, for each family: what nft has once, iptables and ip6tables have both. */
function chainsOf({ families, firewall }: Plan) {
  return firewall.chains.flatMap((chain) =>
    families.map((family) => ({ chain, family, name: ownName(firewall.name, chain) })),
  );
}

function rulesOf({ firewall }: Plan) {
  return firewall.chains.flatMap((chain) =>
    chain.rules.map((rule) => ({ chain, rule, name: ownName(firewall.name, chain) })),
  );
}

function ownName(table: string, { hook }: FirewallChain): string {
  return hook === "prerouting" ? table : `${table}-${hook}`;
}

function reserveSection(plan: Plan): Section {
  const chains = plan.firewall.chains.length === 1 ? "A chain" : "Chains";
  return {
    comment: [
      `${chains} of our own. This comes first because it fails, with nothing changed, if there is`,
      "one already. Nothing jumps to it yet.",
    ],
    commands: chainsOf(plan).map(({ chain, family, name }) => command(family, chain, "-N", name)),
  };
}

function ownSections(plan: Plan): readonly Section[] {
  const rules = rulesOf(plan).map(({ chain, rule, name }) => ({
    comment: describeFirewallRule(rule, chain.hook),
    commands: ruleWords(rule, {
      table: plan.firewall.name,
      comment: ruleComment(plan.firewall, rule),
    }).map((spec) => command(rule.family, chain, "-A", name, ...spec)),
  }));
  const jump = {
    comment: [`${beginning(plan)}.`],
    commands: chainsOf(plan).map((each) => jumpLine(plan, "-A", each)),
  };
  const needed = rules.filter(({ commands }) => commands.length > 0);
  return [...setSections(plan), ...needed, jump];
}

/** Long lists of networks, in one command each: it makes the set and fills it. */
function setSections({ firewall }: Plan): readonly Section[] {
  return firewall.sets.map(({ name, family, networks }) => {
    const set = `${firewall.name}-${name}`;
    const room = Math.max(networks.length, 65_536);
    return {
      comment: [`A set of ${networks.length} networks, which rules below look up.`],
      commands: [
        "ipset restore <<'EOF'",
        `create ${set} hash:net family ${family === 4 ? "inet" : "inet6"} maxelem ${room}`,
        ...networks.map((network) => `add ${set} ${formatCidr(network)}`),
        "EOF",
      ],
    };
  });
}

function undoSections(plan: Plan): readonly Section[] {
  const chains = chainsOf(plan).toReversed();
  const { name: table, sets } = plan.firewall;
  const emptied = {
    comment: ["The sets of networks."],
    commands: sets.map(({ name }) => tolerant(line("ipset", "destroy", `${table}-${name}`))),
  };
  return [
    {
      comment: [ending(plan)],
      commands: chains.map((each) => tolerant(jumpLine(plan, "-D", each))),
    },
    {
      comment: ["What was of our own, and its rules."],
      commands: chains.flatMap(({ chain, family, name }) => [
        tolerant(command(family, chain, "-F", name)),
        tidied(command(family, chain, "-X", name), family, chain),
      ]),
    },
    ...(sets.length === 0 ? [] : [emptied]),
  ];
}

function jumpLine(
  plan: Plan,
  verb: "-A" | "-D",
  { chain, family, name }: ReturnType<typeof chainsOf>[number],
): string {
  const note = ["-m", "comment", "--comment", plan.firewall.name];
  return command(family, chain, verb, hooks[chain.hook].builtIn, ...note, "-j", name);
}

const tidyFunction: Section = {
  comment: [
    "On nf_tables, iptables makes a table and its chain PREROUTING or OUTPUT on first use and",
    "leaves them behind, empty. They go too, if nothing is in them, but not if all chains of the",
    "table are there: then a restored dump made them. iptables removes the chain, but not if it",
    "has a rule or another policy than ACCEPT; the table can only be removed by nft.",
  ],
  commands: [
    "tidy() {",
    '  command -v nft >/dev/null && "$1" -V | grep -q nf_tables || return 0',
    `  [ "$(nft list table "$2" "$3" 2>/dev/null | grep -c ' hook ')" -lt "$5" ] || return 0`,
    '  "$1" -w -t "$3" -X "$4" 2>/dev/null || true',
    `  rest=$(nft list table "$2" "$3" 2>/dev/null | tr -d '[:space:]')`,
    `  [ "$rest" != "table$2$3{}" ] || nft delete table "$2" "$3" || status=1`,
    "}",
  ],
};

/** A command of an undo script that, where it succeeds, may leave empty things behind. */
function tidied(text: string, family: Family, chain: FirewallChain): string {
  const { table, builtInChains } = chainTypes[chain.type];
  const tidy = line(
    "tidy",
    tool(family),
    family === 4 ? "ip" : "ip6",
    table,
    hooks[chain.hook].builtIn,
    builtInChains,
  );
  return [`if ${text}; then`, `  ${tidy}`, "else", "  status=1", "fi"].join("\n");
}

function tool(family: Family): string {
  return family === 4 ? "iptables" : "ip6tables";
}

/** A command that waits for the lock of other iptables commands (`-w`). */
function command(family: Family, chain: FirewallChain, ...words: readonly string[]): string {
  return line(tool(family), "-w", "-t", chainTypes[chain.type].table, ...words);
}

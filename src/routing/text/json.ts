/**
 * A plan as JSON, for programs: the steps in the order in which they are to be done.
 *
 * ```json
 * {
 *   "version": 1,
 *   "steps": [
 *     { "action": "add", "kind": "route", "type": "local", "family": 4,
 *       "destination": "0.0.0.0/0", "device": "lo", "table": 100, "protocol": 116 },
 *     { "action": "add", "kind": "rule", "family": 4, "priority": 100,
 *       "mark": { "value": 1, "mask": 1 }, "table": 100, "protocol": 116 },
 *     { "action": "add", "kind": "firewall", "family": "inet", "table": "tproxyd", "chains": [
 *       { "name": "prerouting", "type": "filter", "hook": "prerouting", "priority": -150,
 *         "rules": [ { "family": 4, "matches": [], "statements": [] } ] } ] }
 *   ],
 *   "sysctls": []
 * }
 * ```
 *
 * With `undo` every `action` is `remove`, in the opposite order. A `priority` or `protocol` that
 * is left to the kernel is null. Networks are text, ports and marks are numbers; matches and
 * statements are those of `plan.ts`. A change that could break a reader raises `version`.
 */

import { formatCidr } from "../../net/cidr.ts";
import type { FirewallRule, Match, Plan } from "../plan.ts";
import { applySteps, type Step, undoSteps } from "../steps.ts";

/** The JSON of a plan, or with `undo` of its removal. */
export function renderJson(plan: Plan, options: { undo?: boolean } = {}): string {
  const steps = options.undo === true ? undoSteps(plan) : applySteps(plan);
  const document = { version: 1, steps: steps.map(stepObject), sysctls: plan.sysctls };
  return `${JSON.stringify(document, null, 2)}\n`;
}

function stepObject(step: Step): object {
  const { action, kind } = step;
  if (step.kind === "route") {
    const { family, destination, device, table, protocol = null } = step.route;
    const network = formatCidr(destination);
    return { action, kind, type: "local", family, destination: network, device, table, protocol };
  }
  if (step.kind === "rule") {
    const { family, priority = null, mark, table, protocol = null } = step.rule;
    return { action, kind, family, priority, mark, table, protocol };
  }
  const chains = step.table.chains.map((chain) => ({
    ...chain,
    rules: chain.rules.map(ruleObject),
  }));
  return { action, kind, family: "inet", table: step.table.name, chains };
}

function ruleObject({ family, matches, statements }: FirewallRule): object {
  return { family, matches: matches.map(matchObject), statements };
}

function matchObject(match: Match): object {
  return "networks" in match ? { ...match, networks: match.networks.map(formatCidr) } : match;
}

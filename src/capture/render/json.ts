/**
 * A plan as JSON, for programs: the steps in the order in which they are to be done.
 *
 * ```json
 * {
 *   "version": 3,
 *   "steps": [
 *     { "action": "add", "kind": "route", "type": "local", "family": 4,
 *       "destination": "0.0.0.0/0", "device": "lo", "table": 100, "protocol": 116 },
 *     { "action": "add", "kind": "rule", "family": 4, "priority": 100,
 *       "mark": { "value": 1, "mask": 1 }, "table": 100, "protocol": 116 },
 *     { "action": "add", "kind": "firewall", "family": "inet", "table": "tproxyd",
 *       "sets": [ { "name": "dst4", "family": 4, "networks": [ "192.0.2.0/24" ] } ],
 *       "chains": [
 *         { "name": "prerouting", "type": "filter", "hook": "prerouting", "priority": -150,
 *           "rules": [ { "family": 4, "purpose": "capture", "matches": [], "statements": [] } ] }
 *       ] }
 *   ],
 *   "sysctls": [ { "name": "net/ipv4/conf/eth0/accept_local", "value": "1", "reason": "…" } ],
 *   "setsSysctls": false,
 *   "backend": null
 * }
 * ```
 *
 * With `undo` every `action` is `remove`, in the opposite order. A `priority` or `protocol` that
 * is left to the kernel is null, and so is the `mark`
 * of an ip rule for a backend on this host, which has `from`, `iif` and perhaps `ipProtocol` and
 * `sourcePort` in its place. Networks and addresses are text, ports and marks are numbers;
 * matches and statements are those of `plan.ts`, but a match that names a `set` does not list its
 * networks again. A table of the kernel path also has its maps, time-outs and flowtable: `objects`.
 * `backend` is null when none was named; its commands are for a shell of that
 * host, with this host's address there in PROXY. A change that could break a reader raises
 * `version`.
 */

import { formatAddress } from "../../net/address.ts";
import { formatCidr } from "../../net/cidr.ts";
import type { FlowObject } from "../plan/flow-rule.ts";
import type { FirewallRule, Match, Plan, Statement } from "../plan/plan.ts";
import { applySteps, type Step, undoSteps } from "../plan/steps.ts";
import { backendCommands } from "./backend.ts";
import { endpointJson } from "./flow-nft.ts";

/** The JSON of a plan, or with `undo` of its removal. */
export function renderJson(plan: Plan, options: { undo?: boolean } = {}): string {
  const steps = options.undo === true ? undoSteps(plan) : applySteps(plan);
  const { sysctls, setsSysctls } = plan;
  const backend = backendObject(plan, options.undo === true);
  const document = { version: 3, steps: steps.map(stepObject), sysctls, setsSysctls, backend };
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
    const {
      family,
      priority = null,
      mark = null,
      from,
      table,
      protocol = null,
      ...rest
    } = step.rule;
    const source = from === undefined ? {} : { from: formatAddress(from) };
    return { action, kind, family, priority, mark, ...source, ...rest, table, protocol };
  }
  const { name: table, sets, chains, objects } = step.table;
  return {
    action,
    kind,
    family: "inet",
    table,
    sets: sets.map((set) => ({ ...set, networks: set.networks.map(formatCidr) })),
    ...(objects === undefined ? {} : { objects: objects.map(flowObject) }),
    chains: chains.map((chain) => ({ ...chain, rules: chain.rules.map(ruleObject) })),
  };
}

function flowObject(object: FlowObject): object {
  if (object.kind === "slots") return { ...object, slots: object.slots.map(endpointJson) };
  if (object.kind !== "endpoints") return object;
  return { ...object, endpoints: object.endpoints.map(endpointJson) };
}

function ruleObject({ matches, statements, ...rest }: FirewallRule): object {
  return {
    ...rest,
    matches: matches.map(matchObject),
    statements: statements.map(statementObject),
  };
}

function matchObject(match: Match): object {
  if (match.kind === "except") return { ...match, match: matchObject(match.match) };
  if (!("networks" in match)) return match;
  const { networks, ...rest } = match;
  return match.set === undefined ? { ...rest, networks: networks.map(formatCidr) } : rest;
}

function statementObject(statement: Statement): object {
  if (!("address" in statement) || statement.address === undefined) return statement;
  return { ...statement, address: formatAddress(statement.address) };
}

function backendObject({ backends }: Plan, undo: boolean): object | null {
  if (backends.length === 0) return null;
  const hosts = backends.map((backend) => ({
    address: formatAddress(backend.address),
    port: backend.port ?? null,
    commands: backendCommands(backend, undo),
  }));
  return { hosts };
}

/** Describes a plan's parts for the comments of the printed scripts. */

import { type Family, formatAddress, isLoopback } from "../../net/address.ts";
import { formatCidr } from "../../net/cidr.ts";
import { formatEndpoint } from "../../net/endpoint.ts";
import { formatMark, fullMask, type MaskedMark } from "../../net/mark.ts";
import { formatPortRange } from "../../net/port.ts";
import { type FirewallChain, hooks } from "../plan/firewall-chain.ts";
import type { FirewallRule, IpRule, LocalRoute, Match, Statement } from "../plan/plan.ts";
import { describeFlowMatch, describeFlowStatement } from "./flow-nft.ts";

const listedMax = 4;

/** One line about a route. */
export function describeRoute({ table, family }: LocalRoute): string {
  return (
    `In table ${table} every IPv${family} address is this host's own: what is routed by it is ` +
    "delivered here."
  );
}

/** One line about an ip rule, and another one about what it prevents. */
export function describeIpRule(rule: IpRule): readonly string[] {
  const { family, mark, from, ipProtocol, sourcePort, table } = rule;
  if (from === undefined) {
    const which = mark === undefined ? "all" : `with mark ${plainMark(mark)}`;
    return [`Route IPv${family} packets ${which} by table ${table}.`];
  }
  const what = sourcePort === undefined ? "" : ` of ${ipProtocol} port ${sourcePort}`;
  const address = formatAddress(from);
  const text = `Deliver here what the backend on this host, ${address}, sends to clients${what}.`;
  if (isLoopback(from)) return [text];
  return [text, "Other hosts do not reach it past the proxy any more."];
}

/** Two lines about a firewall rule: what is done, and to which packets. */
export function describeFirewallRule(
  rule: FirewallRule,
  hook: FirewallChain["hook"],
): readonly string[] {
  const actions = rule.statements
    .filter(({ kind }) => !aside.includes(kind) || rule.statements.length === 1)
    .map((statement) => describeStatement(statement, rule.family));
  const kinds = rule.matches.map((match) =>
    match.kind === "protocol" ? `${match.protocol} ` : "",
  );
  const where = rule.matches.map(describeMatch).filter((text) => text !== "");
  return [
    `${hooks[hook].when}, ${actions.join(" and ")}:`,
    `IPv${rule.family} ${kinds.join("")}packets ${where.join(", ") || "to any address"}.`,
  ];
}

/** Statements that are named only where they stand alone. */
const aside: readonly Statement["kind"][] = ["return", "mark-flow", "flow-timeout"];

/** A mark as `ip rule` takes it: `1`, `0x1/0x1`. */
export function plainMark(mark: MaskedMark): string {
  return mark.mask === fullMask && mark.value < 10 ? `${mark.value}` : formatMark(mark);
}

/** `IPv4`, `IPv6` or `IPv4 and IPv6`. */
export function describeFamilies(families: readonly Family[]): string {
  return families.map((family) => `IPv${family}`).join(" and ");
}

function describeStatement(statement: Statement, family: Family): string {
  switch (statement.kind) {
    case "mark":
      return `set mark ${formatMark(statement.mark)}`;
    case "tproxy": {
      const { address, port } = statement;
      if (address !== undefined)
        return `hand to the listener on ${formatEndpoint({ address, port })}`;
      return `hand to the listener on ${family === 4 ? "0.0.0.0" : "[::]"}:${port}`;
    }
    case "redirect":
      return `send to port ${statement.port} of this host`;
    case "return":
      return "leave alone";
    case "accept":
      return "look no further";
    case "jump":
      return `go on in the chain ${statement.chain}`;
    default:
      return describeFlowStatement(statement);
  }
}

function describeMatch(match: Match): string {
  switch (match.kind) {
    case "interface":
      return `arriving on ${shorten(match.names)}`;
    case "protocol":
      return "";
    case "source":
      return `from ${shorten(match.networks.map(formatCidr))}`;
    case "destination":
      return `to ${shorten(match.networks.map(formatCidr))}`;
    case "destination-type":
      return "to unicast addresses that are not this host's own";
    case "destination-port":
      return `to port ${shorten(match.ranges.map(formatPortRange))}`;
    case "mark":
      return `with mark ${formatMark(match.mark)}`;
    case "user":
      return `of sockets of user ${match.id}`;
    case "group":
      return `of sockets of group ${match.id}`;
    case "cgroup":
      return `of sockets of control group ${match.path}`;
    case "reply":
      return "from the accepting end of a connection";
    case "not-syn":
      return "other than the first of a connection";
    case "transparent-socket":
      return "about what a transparent socket has sent";
    case "connected-socket":
      return "for a transparent socket that is connected to the sender";
    case "icmp":
      return "of ICMP";
    default:
      return describeFlowMatch(match, describeMatch);
  }
}

function shorten(names: readonly string[]): string {
  if (names.length <= listedMax) return names.join(" or ");
  const listed = names.slice(0, listedMax - 1).join(", ");
  return `${listed} or ${names.length - listedMax + 1} more`;
}

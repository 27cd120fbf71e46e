/** What a plan's parts do, in words for the comments of the printed scripts. */

import type { Family } from "../../net/address.ts";
import { formatCidr } from "../../net/cidr.ts";
import { formatMark, fullMask, type MaskedMark } from "../../net/mark.ts";
import { formatPortRange } from "../../net/port.ts";
import type { FirewallRule, IpRule, LocalRoute, Match, Statement } from "../plan.ts";

const listedMax = 4;

/** One line about a route. */
export function describeRoute({ table, family }: LocalRoute): string {
  return (
    `In table ${table} every IPv${family} address is this host's own: what is routed by it is ` +
    "delivered here."
  );
}

/** One line about an ip rule. */
export function describeIpRule({ family, mark, table }: IpRule): string {
  return `Route IPv${family} packets with mark ${plainMark(mark)} by table ${table}.`;
}

/** Two lines about a firewall rule: what is done, and to which packets. */
export function describeFirewallRule(rule: FirewallRule): readonly string[] {
  const actions = rule.statements.map((statement) => describeStatement(statement, rule.family));
  const kinds = rule.matches.map((match) =>
    match.kind === "protocol" ? `${match.protocol} ` : "",
  );
  const where = rule.matches.map(describeMatch).filter((text) => text !== "");
  return [
    `Before routing, ${actions.join(" and ")}:`,
    `IPv${rule.family} ${kinds.join("")}packets ${where.join(", ") || "to any address"}.`,
  ];
}

/** A mark as `ip rule` takes it: `1`, `0x1/0x1`. */
export function plainMark(mark: MaskedMark): string {
  return mark.mask === fullMask && mark.value < 10 ? `${mark.value}` : formatMark(mark);
}

/** `IPv4`, `IPv6` or `IPv4 and IPv6`. */
export function describeFamilies(families: readonly Family[]): string {
  return families.map((family) => `IPv${family}`).join(" and ");
}

function describeStatement(statement: Statement, family: Family): string {
  return statement.kind === "mark"
    ? `set mark ${formatMark(statement.mark)}`
    : `hand to the listener on ${family === 4 ? "0.0.0.0" : "[::]"}:${statement.port}`;
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
  }
}

function shorten(names: readonly string[]): string {
  if (names.length <= listedMax) return names.join(" or ");
  const listed = names.slice(0, listedMax - 1).join(", ");
  return `${listed} or ${names.length - listedMax + 1} more`;
}

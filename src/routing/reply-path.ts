/** The rules that bring back what is for a socket with another host's address. Pure. */

import type { Family } from "../net/address.ts";
import { clearMark, type MaskedMark } from "../net/mark.ts";
import type { PortRange } from "../net/port.ts";
import type { FirewallRule, Match } from "./firewall-rule.ts";
import type { Intent } from "./intent.ts";

/**
 * What comes back to a socket that is bound to a client's address is marked, and so delivered, and
 * so are the ICMP errors about what it has sent: a refusal, or that a packet was too large.
 * No datagram that a client could have sent: an unconnected socket that is bound to the original
 * destination, to reply from it, would take it from the listener.
 */
export function replyPathRules(intent: Intent, family: Family): readonly FirewallRule[] {
  if (!intent.replyPath) return [];
  const { protocols, mark } = intent;
  const rule = (matches: readonly Match[], to = mark): FirewallRule => ({
    family,
    purpose: "reply path",
    matches,
    statements: [{ kind: "mark", mark: to }],
  });
  const ranges = mergeRanges(intent.ports);
  const udp: Match[] = [
    { kind: "protocol", protocol: "udp" },
    { kind: "destination-port", ranges, not: true },
    { kind: "transparent-socket", wildcard: false },
  ];
  return [
    ...(protocols.includes("tcp") ? tcpRules(rule, mark) : []),
    ...(protocols.includes("udp") && ranges.length > 0 ? [rule(udp)] : []),
    rule([{ kind: "icmp" }, { kind: "transparent-socket", wildcard: false }]),
  ];
}

/**
 * No first packet of a connection: one for a socket in TIME_WAIT is for TPROXY, which alone finds
 * the listener for it. Of a socket in TIME_WAIT, or in FIN_WAIT_2 after its descriptor is closed,
 * nf_tables does not tell whether it is bound to every address. So all that are transparent are
 * marked, and the mark is taken back from what is for a listener.
 */
function tcpRules(
  rule: (matches: readonly Match[], to?: MaskedMark) => FirewallRule,
  { mask }: MaskedMark,
): readonly FirewallRule[] {
  const matches: Match[] = [{ kind: "protocol", protocol: "tcp" }, { kind: "not-syn" }];
  return [
    rule([...matches, { kind: "transparent-socket" }]),
    rule([...matches, { kind: "transparent-socket", wildcard: true }], clearMark(mask)),
  ];
}

/** Sorted ranges that neither overlap nor touch. */
export function mergeRanges(ranges: readonly PortRange[]): readonly PortRange[] {
  const merged: PortRange[] = [];
  for (const range of ranges.toSorted((a, b) => a.from - b.from)) {
    const last = merged.at(-1);
    if (last === undefined || range.from > last.to + 1) merged.push(range);
    else if (range.to > last.to) merged[merged.length - 1] = { from: last.from, to: range.to };
  }
  return merged;
}

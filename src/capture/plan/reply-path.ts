/** The rules that bring back what is for a socket with another host's address. Pure. */

import type { Family } from "../../net/address.ts";
import type { PortRange } from "../../net/port.ts";
import type { FirewallRule } from "./firewall-rule.ts";
import type { Intent } from "./intent.ts";

/**
 * Marks, and so delivers, what comes back to a connection that has a client's address.
 *
 * Only a connected socket is certain to get a reply. An unconnected one that is bound to the
 * original destination, to answer from it, would take what other clients send to that destination,
 * captured or not. So would a listener that is bound to it.
 *
 * No first packet of a TCP connection is a reply: one for a socket in TIME_WAIT is for the TPROXY
 * of the capture, which alone finds the listener for it.
 */
export function replyPathRules(intent: Intent, family: Family): readonly FirewallRule[] {
  if (!intent.replyPath) return [];
  const { mark, protocols } = intent;
  const asked = mergeRanges(intent.ports);
  return protocols.map((protocol) => ({
    family,
    purpose: "reply path",
    matches: [
      { kind: "protocol", protocol },
      ...(protocol === "tcp" ? [{ kind: "not-syn" } as const] : []),
      { kind: "connected-socket", unused: unusedPort(intent), asked },
    ],
    statements: [{ kind: "mark", mark }],
  }));
}

/**
 * ICMP errors about what a proxy sends in another host's name go to that host: towards clients in
 * the name of the original destination, towards upstreams perhaps in the clients'. Nobody here
 * would hear of a narrower path (and large answers would never arrive) or of a refusal.
 */
export function errorRules(intent: Intent, family: Family): readonly FirewallRule[] {
  if (intent.seed || intent.redirect) return [];
  return [
    {
      family,
      purpose: "errors",
      matches: [{ kind: "icmp" }, { kind: "transparent-socket" }],
      statements: [{ kind: "mark", mark: intent.mark }],
    },
  ];
}

/** The lowest port at which this capture has no listener. */
function unusedPort({ toPort, ports }: Intent): number {
  let port = 1;
  for (const { from, to } of mergeRanges(ports)) {
    if (from <= port) port = to + 1;
  }
  // A capture of every port says nothing about listeners, but that of TPROXY.
  if (port > 65_535) port = 1;
  return port === toPort ? port + 1 : port;
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

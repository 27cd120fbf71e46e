/** The rules that bring back what is for a socket with another host's address. Pure. */

import { NF_IP_PRI_NAT_DST } from "../../../ffi/netlink/constants.ts";
import type { Family } from "../../net/address.ts";
import type { PortRange } from "../../net/port.ts";
import type { FirewallChain } from "./firewall-chain.ts";
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

/**
 * The chains of captures beside the kernel path; `base`: as they are without it. An upstream has
 * connections of the kernel path there from ports of clients, and the relay may take such a port,
 * too. The kernel then translates the relay's to another one (get_unique_tuple() in
 * net/netfilter/nf_nat_core.c). So what comes back to a translated destination is not for a socket,
 * and what comes back to a translated port is for one only when it has its own port again: behind
 * destination NAT. Such rules need connection tracking, which is on there already.
 */
export function besideNat(
  intents: readonly Intent[],
  base: readonly FirewallChain[],
): readonly FirewallChain[] {
  if (!intents.some(({ isBesideNat }) => isBesideNat === true)) return base;
  const own: FirewallRule[] = [];
  const narrowed = base.map((chain) => ({
    ...chain,
    rules: chain.rules.map((rule): FirewallRule => {
      if (rule.purpose !== "reply path" && rule.purpose !== "errors") return rule;
      const matches = [{ kind: "untranslated" } as const, ...rule.matches];
      own.push({ ...rule, matches: [{ kind: "source-translated" }, ...matches] });
      return { ...rule, matches };
    }),
  }));
  if (own.length === 0) return base;
  const priority = NF_IP_PRI_NAT_DST + 10;
  return [
    ...narrowed,
    { name: "replies", type: "filter", hook: "prerouting", priority, rules: own },
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

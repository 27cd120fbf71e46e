/** The kernel's packet counters as /proc shows them. Pure. */

import type { Family } from "../../net/address.ts";
import type { PathCounterName, PathCounters } from "../probe/path.ts";

/** Counters by the names of nstat(8): `IpInAddrErrors`, `TcpExtListenDrops`, `Ip6InNoRoutes`. */
export type KernelCounters = ReadonlyMap<string, number>;

/**
 * Reads net/snmp and net/netstat (a line of names, then a line of numbers, both after a prefix)
 * and net/snmp6 (a name and a number a line). Lines that are neither are skipped.
 */
export function parseCounters(text: string): KernelCounters {
  const counters = new Map<string, number>();
  let heads: readonly string[] = [];
  for (const line of text.split("\n")) {
    const words = line.split(/\s+/).filter((word) => word !== "");
    const [first = "", ...rest] = words;
    const values = rest.map(Number);
    if (!first.endsWith(":")) {
      if (values.length === 1 && Number.isFinite(values[0])) counters.set(first, values[0] ?? 0);
    } else if (heads[0] === first && heads.length === words.length) {
      const prefix = first.slice(0, -1);
      for (const [i, value] of values.entries()) counters.set(`${prefix}${heads[i + 1]}`, value);
      heads = [];
    } else heads = words;
  }
  return counters;
}

const tcpNames = {
  segments: "TcpInSegs",
  resets: "TcpOutRsts",
  listenDrops: "TcpExtListenDrops",
} as const;

/** The counters of the way of a packet, by family. */
export const counterNames: Readonly<Record<Family, Readonly<Record<PathCounterName, string>>>> = {
  4: {
    received: "IpInReceives",
    addressErrors: "IpInAddrErrors",
    noRoutes: "IpExtInNoRoutes",
    forwarded: "IpForwDatagrams",
    answersUnrouted: "IpOutNoRoutes",
    ...tcpNames,
  },
  6: {
    received: "Ip6InReceives",
    addressErrors: "Ip6InAddrErrors",
    noRoutes: "Ip6InNoRoutes",
    forwarded: "Ip6OutForwDatagrams",
    answersUnrouted: "Ip6OutNoRoutes",
    ...tcpNames,
  },
};

/** How far the counters of a packet's way have moved from one reading to the next. */
export function countersMoved(
  family: Family,
  before: KernelCounters,
  after: KernelCounters,
): PathCounters {
  const moved = (name: string) => (after.get(name) ?? 0) - (before.get(name) ?? 0);
  const names = counterNames[family];
  const entries = Object.entries(names).map(([key, name]) => [key, moved(name)]);
  const counters = Object.fromEntries(entries) as Record<PathCounterName, number>;
  // Neighbour discovery and the like: what counts here is unicast.
  if (family === 6) counters.received -= moved("Ip6InMcastPkts");
  return counters;
}

/** Whether net/tcp or net/tcp6 has a listener on the port: the columns local_address and st. */
export function hasListener(text: string, port: number): boolean {
  const TCP_LISTEN = "0A";
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  return text.split("\n").some((line) => {
    const [, local, , state] = line.trim().split(/\s+/);
    return state === TCP_LISTEN && local?.endsWith(suffix) === true;
  });
}

/**
 * Policy routing as the kernel decides it: ip rules by priority, the longest prefix in each table.
 * Pure; it names the rule behind a reply of RTM_GETROUTE, which has only the table.
 */

import { AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP } from "../../ffi/constants.ts";
import {
  FR_ACT_BLACKHOLE,
  FR_ACT_GOTO,
  FR_ACT_PROHIBIT,
  FR_ACT_UNREACHABLE,
  RT_TABLE_LOCAL,
  RTN_ANYCAST,
  RTN_BROADCAST,
  RTN_LOCAL,
  RTN_MULTICAST,
  RTN_THROW,
  RTN_UNICAST,
} from "../../ffi/netlink/constants.ts";
import type { Prefix, Route } from "../../ffi/netlink/route.ts";
import type { Rule } from "../../ffi/netlink/rule.ts";
import type { Address } from "../net/address.ts";
import { cidrContains } from "../net/cidr.ts";
import type { Packet } from "./packet.ts";

/** The rules and routes of one family. */
export interface PolicyTables {
  /** As dumped: in the order in which they are tried. */
  readonly rules: readonly Rule[];
  /** Of all tables. */
  readonly routes: readonly Route[];
}

/** A rule, and the route of its table; none if the rule itself refuses the packet. */
export interface Decision {
  readonly rule: Rule;
  readonly route: Route | undefined;
}

/** The rule that decides on a packet that arrives with this mark; undefined if none does. */
export function decide(tables: PolicyTables, packet: Packet, mark: number): Decision | undefined {
  let from = 0;
  for (const rule of tables.rules) {
    if ((rule.priority ?? 0) < from || rule.l3mdev || !selects(rule, packet, mark)) continue;
    if (rule.action === FR_ACT_GOTO) {
      from = rule.goto ?? 0;
      continue;
    }
    if (refusals.includes(rule.action ?? 0)) return { rule, route: undefined };
    if (rule.action !== undefined) continue;
    const route = bestRoute(tables.routes, rule.table, packet.destination, packet.source);
    if (route === undefined || route.type === RTN_THROW) continue;
    const length = route.destination?.length ?? 0;
    if (rule.suppressPrefixLength !== undefined && length <= rule.suppressPrefixLength) continue;
    return { rule, route };
  }
  return undefined;
}

const refusals = [FR_ACT_BLACKHOLE, FR_ACT_UNREACHABLE, FR_ACT_PROHIBIT];

/**
 * The route of a table for an address: the longest prefix, and of those the lowest metric. Routes
 * for some sources only (IPv6) are for `source`, if it is given.
 */
export function bestRoute(
  routes: readonly Route[],
  table: number,
  to: Address,
  source?: Address,
): Route | undefined {
  let best: Route | undefined;
  for (const route of routes) {
    if (route.table !== table || !covers(route.destination, to)) continue;
    if (route.source !== undefined && (source === undefined || !covers(route.source, source))) {
      continue;
    }
    const [length, bestLength] = [route.destination?.length ?? 0, best?.destination?.length ?? 0];
    const isBetter =
      best === undefined ||
      length > bestLength ||
      (length === bestLength && (route.priority ?? 0) < (best.priority ?? 0));
    if (isBetter) best = route;
  }
  return best;
}

/**
 * The type of an address (RTN_*), as inet_addr_type_table() of fib_frontend.c finds it in the
 * local table. Without such a table, as long as lo has never been up, everything is a broadcast.
 * With `device`, an index, only what is an address of that interface is local.
 */
export function addressType(routes: readonly Route[], address: Address, device?: number): number {
  const { bytes, family } = address;
  const [first = 0] = bytes;
  if (family === 6) {
    if (first === 0xff) return RTN_MULTICAST;
  } else {
    const isZeronet = bytes.every((byte) => byte === 0);
    if (isZeronet || bytes.every((byte) => byte === 0xff)) return RTN_BROADCAST;
    if (first >= 224 && first < 240) return RTN_MULTICAST;
    const hasTable = routes.some(({ table }) => table === RT_TABLE_LOCAL);
    if (!hasTable) return RTN_BROADCAST;
  }
  const route = bestRoute(routes, RT_TABLE_LOCAL, address);
  if (device !== undefined && route?.oif !== device) return RTN_UNICAST;
  const type = route?.type;
  const known = [RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST];
  return type !== undefined && known.includes(type) ? type : RTN_UNICAST;
}

/** Whether the mark of a rule is had by a packet with `mark`; true for rules without one. */
function hasMark({ mark, mask = 0xffff_ffff }: Rule, packetMark: number): boolean {
  return mark === undefined || ((packetMark ^ mark) & mask) === 0;
}

function selects(rule: Rule, packet: Packet, mark: number): boolean {
  const proto = packet.protocol === "tcp" ? IPPROTO_TCP : IPPROTO_UDP;
  const { sourcePorts, destinationPorts } = rule;
  const matches =
    rule.family === (packet.destination.family === 4 ? AF_INET : AF_INET6) &&
    hasMark(rule, mark) &&
    (rule.source === undefined || covers(rule.source, packet.source)) &&
    (rule.destination === undefined || covers(rule.destination, packet.destination)) &&
    (rule.iif === undefined || rule.iif === packet.iif) &&
    rule.oif === undefined &&
    (rule.uids === undefined || (rule.uids[0] === 0 && rule.uids[1] === 0)) &&
    (rule.ipProtocol === undefined || rule.ipProtocol === proto) &&
    (sourcePorts === undefined || within(sourcePorts, packet.sourcePort)) &&
    (destinationPorts === undefined || within(destinationPorts, packet.port));
  return matches !== (rule.invert === true);
}

function within([first, last]: readonly [number, number], port: number | undefined): boolean {
  return port !== undefined && port >= first && port <= last;
}

function covers(prefix: Prefix | undefined, address: Address): boolean {
  if (prefix === undefined) return true;
  const { family } = address;
  if (prefix.address.length !== address.bytes.length) return false;
  return cidrContains({ family, bytes: prefix.address, prefix: prefix.length }, address);
}

/** Routes and route look-ups by rtnetlink (rtnetlink(7), linux/rtnetlink.h). Pure. */

import { AF_INET, AF_INET6 } from "../constants.ts";
import {
  NLM_F_CREATE,
  NLM_F_DUMP,
  NLM_F_EXCL,
  RT_SCOPE_HOST,
  RT_SCOPE_LINK,
  RT_SCOPE_UNIVERSE,
  RT_TABLE_UNSPEC,
  RTA_DPORT,
  RTA_DST,
  RTA_GATEWAY,
  RTA_IIF,
  RTA_IP_PROTO,
  RTA_MARK,
  RTA_MULTIPATH,
  RTA_OIF,
  RTA_PREFSRC,
  RTA_PRIORITY,
  RTA_SPORT,
  RTA_SRC,
  RTA_TABLE,
  RTA_UID,
  RTM_DELROUTE,
  RTM_F_LOOKUP_TABLE,
  RTM_GETROUTE,
  RTM_NEWROUTE,
  RTN_BROADCAST,
  RTN_LOCAL,
  RTN_UNICAST,
  RTPROT_UNSPEC,
} from "./constants.ts";
import {
  Attributes,
  align4,
  defined,
  HOST_ORDER,
  type Message,
  message,
  structOf,
  WireError,
} from "./wire.ts";

/** `struct rtmsg` (linux/rtnetlink.h). */
const rtmsg = {
  size: 12,
  rtm_family: 0,
  rtm_dst_len: 1,
  rtm_src_len: 2,
  rtm_table: 4,
  rtm_protocol: 5,
  rtm_scope: 6,
  rtm_type: 7,
  rtm_flags: 8,
} as const;

/** An address and how many of its leading bits count. */
export interface Prefix {
  /** 4 or 16 bytes, network order. */
  readonly address: Uint8Array;
  readonly length: number;
}

/** A route, in a table or as the answer of a look-up. */
export interface Route {
  /** AF_INET or AF_INET6. */
  readonly family: number;
  /** RTN_*: RTN_UNICAST, RTN_LOCAL, … */
  readonly type: number;
  /** Any table, also above 255. */
  readonly table: number;
  /** RTPROT_*: who made it. 0 in `deleteRoute` matches any. */
  readonly protocol: number;
  /** Absent for the default route; a prefix of length 0 means the same. */
  readonly destination?: Prefix;
  /** The source a packet must have (IPv6 source-specific routing). */
  readonly source?: Prefix;
  readonly gateway?: Uint8Array;
  /** The outgoing interface's index. */
  readonly oif?: number;
  /** The outgoing interfaces of a route with several next hops, in dumps. */
  readonly hopInterfaces?: readonly number[];
  /** The incoming interface's index, in the answer of a look-up. */
  readonly iif?: number;
  readonly preferredSource?: Uint8Array;
  /** The metric. Absent is 0 for IPv4; the kernel makes it 1024 for IPv6. */
  readonly priority?: number;
  /** RT_SCOPE_*; absent for what ip(8) chooses, see `usualScope`. */
  readonly scope?: number;
  /** RTNH_F_* and RTM_F_*; absent for none. */
  readonly flags?: number;
}

/** The default scope of a route of this kind. IPv6 has only one. */
export function usualScope(route: Pick<Route, "family" | "type" | "gateway">): number {
  if (route.family === AF_INET6) return RT_SCOPE_UNIVERSE;
  if (route.type === RTN_LOCAL) return RT_SCOPE_HOST;
  if (route.type === RTN_BROADCAST) return RT_SCOPE_LINK;
  const isDirect = route.type === RTN_UNICAST && route.gateway === undefined;
  return isDirect ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
}

/** Adds a route: EEXIST when the table has one of the same destination and priority. */
export function newRoute(route: Route): Message {
  return encode("RTM_NEWROUTE", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route);
}

/** Removes the route that has all of these: ESRCH when there is none. */
export function deleteRoute(route: Route): Message {
  return encode("RTM_DELROUTE", RTM_DELROUTE, 0, route);
}

/**
 * Asks for the routes of one family, of all tables or of one, of every protocol or of one. A table
 * that never had a route is ENOENT. The filters work on sockets with NETLINK_GET_STRICT_CHK.
 */
export function dumpRoutes(
  family: number,
  table: number = RT_TABLE_UNSPEC,
  protocol: number = RTPROT_UNSPEC,
): Message {
  return message("RTM_GETROUTE", RTM_GETROUTE, NLM_F_DUMP, (to) => {
    const header = to.struct(rtmsg.size);
    header.setUint8(rtmsg.rtm_family, family);
    header.setUint8(rtmsg.rtm_protocol, protocol);
    if (table !== RT_TABLE_UNSPEC) to.u32(RTA_TABLE, table);
  });
}

function encode(operation: string, type: number, flags: number, route: Route): Message {
  return message(operation, type, flags, (to) => {
    const header = to.struct(rtmsg.size);
    header.setUint8(rtmsg.rtm_family, route.family);
    header.setUint8(rtmsg.rtm_dst_len, route.destination?.length ?? 0);
    header.setUint8(rtmsg.rtm_src_len, route.source?.length ?? 0);
    header.setUint8(rtmsg.rtm_table, route.table < 256 ? route.table : RT_TABLE_UNSPEC);
    header.setUint8(rtmsg.rtm_protocol, route.protocol);
    header.setUint8(rtmsg.rtm_scope, route.scope ?? usualScope(route));
    header.setUint8(rtmsg.rtm_type, route.type);
    header.setUint32(rtmsg.rtm_flags, route.flags ?? 0, HOST_ORDER);
    if (route.destination !== undefined) to.bytes(RTA_DST, route.destination.address);
    if (route.source !== undefined) to.bytes(RTA_SRC, route.source.address);
    if (route.table >= 256) to.u32(RTA_TABLE, route.table);
    if (route.gateway !== undefined) to.bytes(RTA_GATEWAY, route.gateway);
    if (route.preferredSource !== undefined) to.bytes(RTA_PREFSRC, route.preferredSource);
    if (route.priority !== undefined) to.u32(RTA_PRIORITY, route.priority);
    if (route.iif !== undefined) to.u32(RTA_IIF, route.iif);
    if (route.oif !== undefined) to.u32(RTA_OIF, route.oif);
  });
}

/**
 * Decodes the body of RTM_NEWROUTE. Of a route with several next hops only their interfaces are
 * told; its metrics are left out.
 * @throws WireError
 */
export function decodeRoute(body: Uint8Array): Route {
  const header = structOf(body, rtmsg.size);
  const attributes = new Attributes(body, rtmsg.size);
  const route = defined({
    family: header.getUint8(rtmsg.rtm_family),
    type: header.getUint8(rtmsg.rtm_type),
    table: attributes.u32(RTA_TABLE) ?? header.getUint8(rtmsg.rtm_table),
    protocol: header.getUint8(rtmsg.rtm_protocol),
    destination: decodePrefix(attributes, RTA_DST, header.getUint8(rtmsg.rtm_dst_len)),
    source: decodePrefix(attributes, RTA_SRC, header.getUint8(rtmsg.rtm_src_len)),
    gateway: attributes.address(RTA_GATEWAY),
    oif: attributes.u32(RTA_OIF),
    hopInterfaces: hopInterfaces(attributes.bytes(RTA_MULTIPATH)),
    iif: attributes.u32(RTA_IIF),
    preferredSource: attributes.address(RTA_PREFSRC),
    priority: attributes.u32(RTA_PRIORITY),
    flags: header.getUint32(rtmsg.rtm_flags, HOST_ORDER) || undefined,
  });
  const scope = header.getUint8(rtmsg.rtm_scope);
  return scope === usualScope(route) ? route : { ...route, scope };
}

/** `struct rtnexthop` (linux/rtnetlink.h). */
const rtnexthop = { size: 8, rtnh_len: 0, rtnh_ifindex: 4 } as const;

function hopInterfaces(bytes: Uint8Array | undefined): number[] | undefined {
  if (bytes === undefined) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const indices: number[] = [];
  for (let at = 0; at + rtnexthop.size <= bytes.length; ) {
    indices.push(view.getInt32(at + rtnexthop.rtnh_ifindex, HOST_ORDER));
    at += align4(Math.max(rtnexthop.size, view.getUint16(at + rtnexthop.rtnh_len, HOST_ORDER)));
  }
  return indices;
}

/**
 * The prefix whose address is the attribute `type`, undefined when it is absent.
 * @throws WireError when the length is more than the address has bits.
 */
export function decodePrefix(
  attributes: Attributes,
  type: number,
  length: number,
): Prefix | undefined {
  const address = attributes.address(type);
  if (address === undefined) return undefined;
  if (length > 8 * address.length) throw new WireError(`prefix length ${length}`);
  return { address, length };
}

/** A packet to find the route of. Input with `iif`, otherwise output. */
export interface RouteQuery {
  readonly destination: Uint8Array;
  readonly source?: Uint8Array;
  readonly iif?: number;
  readonly oif?: number;
  /** The packet's firewall mark, as ip rules see it. */
  readonly mark?: number;
  readonly uid?: number;
  /** IPPROTO_TCP or IPPROTO_UDP, for ip rules that look at ports. */
  readonly protocol?: number;
  readonly sourcePort?: number;
  readonly destinationPort?: number;
  /** More RTM_F_*, for instance RTM_F_FIB_MATCH. */
  readonly flags?: number;
}

/**
 * Asks which route the kernel takes (`ip route get`). The answer is one RTM_NEWROUTE; no route
 * is ENETUNREACH, a source that may not come in by `iif` EXDEV or EINVAL.
 */
export function getRoute(query: RouteQuery): Message {
  const isV4 = query.destination.length === 4;
  const bits = 8 * query.destination.length;
  return message("RTM_GETROUTE", RTM_GETROUTE, 0, (to) => {
    const header = to.struct(rtmsg.size);
    header.setUint8(rtmsg.rtm_family, isV4 ? AF_INET : AF_INET6);
    header.setUint8(rtmsg.rtm_dst_len, bits);
    header.setUint8(rtmsg.rtm_src_len, query.source === undefined ? 0 : bits);
    // IPv4 reports the table only with this flag; IPv6 always does, and refuses the flag.
    const lookup = isV4 ? RTM_F_LOOKUP_TABLE : 0;
    header.setUint32(rtmsg.rtm_flags, lookup | (query.flags ?? 0), HOST_ORDER);
    to.bytes(RTA_DST, query.destination);
    if (query.source !== undefined) to.bytes(RTA_SRC, query.source);
    if (query.iif !== undefined) to.u32(RTA_IIF, query.iif);
    if (query.mark !== undefined) to.u32(RTA_MARK, query.mark);
    if (query.uid !== undefined) to.u32(RTA_UID, query.uid);
    if (query.protocol !== undefined) to.u8(RTA_IP_PROTO, query.protocol);
    if (query.sourcePort !== undefined) to.be16(RTA_SPORT, query.sourcePort);
    if (query.destinationPort !== undefined) to.be16(RTA_DPORT, query.destinationPort);
    if (query.oif !== undefined) to.u32(RTA_OIF, query.oif);
  });
}

/**
 * Connection tracking by netlink (linux/netfilter/nfnetlink_conntrack.h,
 * net/netfilter/nf_conntrack_netlink.c): entries are listed, asked for, changed and deleted, and
 * events tell of new and of destroyed ones. Pure. All needs CAP_NET_ADMIN in the namespace.
 *
 * An entry knows a connection by two tuples: how packets of its client look on arrival, and how
 * replies look. With destination NAT the source of a reply is the server that was chosen.
 */

import * as c from "./conntrack-constants.ts";
import { NFPROTO_IPV4, NFPROTO_IPV6, NLA_F_NESTED, NLM_F_DUMP } from "./constants.ts";
import { AttributeCursor } from "./cursor.ts";
import { nfgenmsg, nfnetlinkMessage } from "./nfnetlink.ts";
import { type Message, type ReceivedMessage, required, WireError, type Writer } from "./wire.ts";

type Mutable<T> = { -readonly [Key in keyof T]: T[Key] };

/** Packets of one direction. */
export interface Tuple {
  /** 4 or 16 bytes. */
  readonly source: Uint8Array;
  readonly destination: Uint8Array;
  /** IPPROTO_*. */
  readonly protocol: number;
  /** Absent for protocols without ports, such as ICMP. */
  readonly sourcePort?: number;
  readonly destinationPort?: number;
}

/** What was carried in one direction: counts since the entry was made. */
export interface Amount {
  readonly packets: number;
  /** With the IP headers. */
  readonly bytes: number;
}

/** A connection as the kernel tracks it. */
export interface ConntrackEntry {
  /** NFPROTO_IPV4 or NFPROTO_IPV6. */
  readonly family: number;
  /** What the client sends, as it arrives: its destination is the original one. */
  readonly original: Tuple;
  /** What is sent back to it, as it arrives: its source is the upstream. */
  readonly reply: Tuple;
  /** IPS_*. */
  readonly status: number;
  /** Differs between entries of one tuple one after the other; no count. */
  readonly id: number;
  readonly zone: number;
  readonly mark: number;
  /** Seconds until it expires if no packet comes; absent in events of destroyed ones. */
  readonly timeoutS?: number;
  /** TCP_CONNTRACK_*; absent for other protocols. */
  readonly tcpState?: number;
  /** Absent while net.netfilter.nf_conntrack_acct was 0 when the entry was made. */
  readonly sent?: Amount;
  readonly received?: Amount;
  /** In ms since 1970; absent while nf_conntrack_timestamp was 0 when the entry was made. */
  readonly startedAt?: number;
  readonly stoppedAt?: number;
  /** `ct label`: 128 bits. */
  readonly labels?: Uint8Array;
}

/** How the kernel finds one entry: by what its client sends. */
export type EntryKey = Pick<ConntrackEntry, "original"> &
  Partial<Pick<ConntrackEntry, "zone" | "id">>;

/** Bits that are compared, and what they have to be. */
export interface Masked {
  readonly value: number;
  readonly mask: number;
}

/** Which entries are meant: all that is given has to fit. */
export interface EntryFilter {
  /** NFPROTO_IPV4 or NFPROTO_IPV6; absent for both. */
  readonly family?: number;
  readonly mark?: Masked;
  /** Bits of IPS_*. */
  readonly status?: Masked;
  /** Where replies come from. Needs `family`; an address of that family. */
  readonly server?: {
    readonly address: Uint8Array;
    readonly protocol?: number;
    readonly port?: number;
  };
}

/**
 * Asks for all entries that a filter fits. Old kernels reject the attributes of a filter (EINVAL)
 * or ignore them: `filterWanted: "mark"` leaves out all but the mark, which every kernel has, and
 * in each case `fits` has to have a look at what came.
 */
export function dumpEntries(filter: EntryFilter, filterWanted: "whole" | "mark"): Message {
  const { family = 0, mark, status, server } = filter;
  const type = c.IPCTNL_MSG_CT_GET;
  return conntrackMessage("IPCTNL_MSG_CT_GET", type, NLM_F_DUMP, family, (to) => {
    if (mark !== undefined) {
      to.be32(c.CTA_MARK, mark.value & mark.mask);
      to.be32(c.CTA_MARK_MASK, mark.mask);
    }
    if (filterWanted === "mark") return;
    if (status !== undefined) {
      to.be32(c.CTA_STATUS, status.value & status.mask);
      to.be32(c.CTA_STATUS_MASK, status.mask);
    }
    if (server !== undefined && family !== 0) writeServer(to, server);
  });
}

/** Whether an entry is one that `filter` means. */
export function fits(entry: ConntrackEntry, filter: EntryFilter): boolean {
  const { family, mark, status, server } = filter;
  if (family !== undefined && entry.family !== family) return false;
  if (mark !== undefined && ((entry.mark ^ mark.value) & mark.mask) !== 0) return false;
  if (status !== undefined && ((entry.status ^ status.value) & status.mask) !== 0) return false;
  if (server === undefined) return true;
  const { source, protocol, sourcePort } = entry.reply;
  if (server.protocol !== undefined && protocol !== server.protocol) return false;
  if (server.port !== undefined && sourcePort !== server.port) return false;
  return sameBytes(source, server.address);
}

/** Asks for one entry: ENOENT when there is none. `id` is not looked at. */
export function getEntry(key: EntryKey): Message {
  const { original } = key;
  const type = c.IPCTNL_MSG_CT_GET;
  return conntrackMessage("IPCTNL_MSG_CT_GET", type, 0, familyOf(original), (to) =>
    writeKey(to, key),
  );
}

/**
 * Deletes one entry: ENOENT when there is none, or with `id` another one. The next packet of its
 * client begins a new one, and is translated anew.
 */
export function deleteEntry(key: EntryKey): Message {
  const { original, id } = key;
  const type = c.IPCTNL_MSG_CT_DELETE;
  return conntrackMessage("IPCTNL_MSG_CT_DELETE", type, 0, familyOf(original), (to) => {
    writeKey(to, key);
    if (id !== undefined) to.be32(c.CTA_ID, id);
  });
}

/** Changes an entry: ENOENT when there is none. Of an offloaded one the time-out is refused. */
export function updateEntry(
  key: EntryKey,
  changes: { readonly timeoutS?: number; readonly mark?: number },
): Message {
  const { original } = key;
  const type = c.IPCTNL_MSG_CT_NEW;
  return conntrackMessage("IPCTNL_MSG_CT_NEW", type, 0, familyOf(original), (to) => {
    writeKey(to, key);
    if (changes.timeoutS !== undefined) to.be32(c.CTA_TIMEOUT, changes.timeoutS);
    if (changes.mark !== undefined) to.be32(c.CTA_MARK, changes.mark);
  });
}

/**
 * Decodes the body of IPCTNL_MSG_CT_NEW or, of an event, of IPCTNL_MSG_CT_DELETE. It is read once,
 * without an object for each attribute: a busy host has thousands of events a second.
 * @throws WireError
 */
export function decodeEntry(body: Uint8Array): ConntrackEntry {
  if (body.length < nfgenmsg.size) throw new WireError(`conntrack entry of ${body.length} bytes`);
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  const family = view.getUint8(nfgenmsg.nfgen_family);
  if (family !== NFPROTO_IPV4 && family !== NFPROTO_IPV6) {
    throw new WireError(`conntrack entry of family ${family}`);
  }
  let original: Tuple | undefined;
  let reply: Tuple | undefined;
  const entry: Mutable<Omit<ConntrackEntry, "original" | "reply">> = {
    ...{ family, status: 0, id: 0, zone: 0, mark: 0 },
  };
  const from = new AttributeCursor(body, view, nfgenmsg.size, body.length);
  while (from.next()) {
    switch (from.type) {
      case c.CTA_TUPLE_ORIG:
        original = decodeTuple(from.nested(), "CTA_TUPLE_ORIG");
        break;
      case c.CTA_TUPLE_REPLY:
        reply = decodeTuple(from.nested(), "CTA_TUPLE_REPLY");
        break;
      case c.CTA_STATUS:
        entry.status = from.be32();
        break;
      case c.CTA_ID:
        entry.id = from.be32();
        break;
      case c.CTA_ZONE:
        entry.zone = from.be16();
        break;
      case c.CTA_MARK:
        entry.mark = from.be32();
        break;
      case c.CTA_TIMEOUT:
        entry.timeoutS = from.be32();
        break;
      case c.CTA_PROTOINFO:
        readTcpState(from.nested(), entry);
        break;
      case c.CTA_COUNTERS_ORIG:
        entry.sent = decodeAmount(from.nested(), "CTA_COUNTERS_ORIG");
        break;
      case c.CTA_COUNTERS_REPLY:
        entry.received = decodeAmount(from.nested(), "CTA_COUNTERS_REPLY");
        break;
      case c.CTA_TIMESTAMP:
        readTimes(from.nested(), entry);
        break;
      case c.CTA_LABELS:
        entry.labels = from.bytes();
        break;
    }
  }
  return {
    ...entry,
    original: required(original, "CTA_TUPLE_ORIG"),
    reply: required(reply, "CTA_TUPLE_REPLY"),
  };
}

/** What a listener of NFNLGRP_CONNTRACK_* is told. */
export interface ConntrackEvent {
  readonly kind: "new" | "update" | "destroy";
  readonly entry: ConntrackEntry;
}

/**
 * Decodes a message of the groups NFNLGRP_CONNTRACK_*; undefined for one of another kind.
 * @throws WireError
 */
export function decodeConntrackEvent(message: ReceivedMessage): ConntrackEvent | undefined {
  const { type, flags, body } = message;
  if (type >> 8 !== c.NFNL_SUBSYS_CTNETLINK) return undefined;
  switch (type & 0xff) {
    case c.IPCTNL_MSG_CT_NEW:
      // NLM_F_CREATE | NLM_F_EXCL; none for an entry that was known.
      return { kind: flags === 0 ? "update" : "new", entry: decodeEntry(body) };
    case c.IPCTNL_MSG_CT_DELETE:
      return { kind: "destroy", entry: decodeEntry(body) };
    default:
      return undefined;
  }
}

/** A message of connection tracking's subsystem. */
export function conntrackMessage(
  operation: string,
  type: number,
  flags: number,
  family: number,
  write: (to: Writer) => void,
): Message {
  return nfnetlinkMessage(operation, c.NFNL_SUBSYS_CTNETLINK, type, flags, family, write);
}

function familyOf({ source }: Tuple): number {
  return source.length === 4 ? NFPROTO_IPV4 : NFPROTO_IPV6;
}

function writeKey(to: Writer, { original, zone = 0 }: EntryKey): void {
  to.nest(c.CTA_TUPLE_ORIG | NLA_F_NESTED, () => {
    const { source, destination, protocol, sourcePort, destinationPort } = original;
    to.nest(c.CTA_TUPLE_IP | NLA_F_NESTED, () => {
      to.bytes(source.length === 4 ? c.CTA_IP_V4_SRC : c.CTA_IP_V6_SRC, source);
      to.bytes(source.length === 4 ? c.CTA_IP_V4_DST : c.CTA_IP_V6_DST, destination);
    });
    to.nest(c.CTA_TUPLE_PROTO | NLA_F_NESTED, () => {
      to.u8(c.CTA_PROTO_NUM, protocol);
      if (sourcePort !== undefined) to.be16(c.CTA_PROTO_SRC_PORT, sourcePort);
      if (destinationPort !== undefined) to.be16(c.CTA_PROTO_DST_PORT, destinationPort);
    });
  });
  if (zone !== 0) to.be16(c.CTA_ZONE, zone);
}

/**
 * A tuple, and which of its fields count. Of IPv6 the address is left to `fits`: the kernel leaves
 * out just those that are equal (ctnetlink_filter_match_tuple(), seen on Linux 6.18).
 */
function writeServer(to: Writer, server: NonNullable<EntryFilter["server"]>): void {
  const { address, protocol, port } = server;
  const isV4 = address.length === 4;
  if (!isV4 && protocol === undefined) return;
  let flags = isV4 ? c.CTA_FILTER_F_CTA_IP_SRC : 0;
  to.nest(c.CTA_TUPLE_REPLY | NLA_F_NESTED, () => {
    if (isV4) to.nest(c.CTA_TUPLE_IP | NLA_F_NESTED, () => to.bytes(c.CTA_IP_V4_SRC, address));
    if (protocol === undefined) return;
    flags |= c.CTA_FILTER_F_CTA_PROTO_NUM;
    to.nest(c.CTA_TUPLE_PROTO | NLA_F_NESTED, () => {
      to.u8(c.CTA_PROTO_NUM, protocol);
      if (port === undefined) return;
      flags |= c.CTA_FILTER_F_CTA_PROTO_SRC_PORT;
      to.be16(c.CTA_PROTO_SRC_PORT, port);
    });
  });
  to.nest(c.CTA_FILTER | NLA_F_NESTED, () => {
    to.u32(c.CTA_FILTER_ORIG_FLAGS, 0);
    to.u32(c.CTA_FILTER_REPLY_FLAGS, flags);
  });
}

function decodeTuple(from: AttributeCursor, name: string): Tuple {
  const tuple: Mutable<Partial<Tuple>> = {};
  while (from.next()) {
    if (from.type === c.CTA_TUPLE_IP) readAddresses(from.nested(), tuple);
    else if (from.type === c.CTA_TUPLE_PROTO) readProtocol(from.nested(), tuple);
  }
  required(tuple.source, `${name}: source`);
  required(tuple.destination, `${name}: destination`);
  required(tuple.protocol, `${name}: CTA_PROTO_NUM`);
  return tuple as Tuple;
}

function readAddresses(from: AttributeCursor, tuple: Mutable<Partial<Tuple>>): void {
  while (from.next()) {
    switch (from.type) {
      case c.CTA_IP_V4_SRC:
      case c.CTA_IP_V6_SRC:
        tuple.source = from.address();
        break;
      case c.CTA_IP_V4_DST:
      case c.CTA_IP_V6_DST:
        tuple.destination = from.address();
        break;
    }
  }
}

function readProtocol(from: AttributeCursor, tuple: Mutable<Partial<Tuple>>): void {
  while (from.next()) {
    switch (from.type) {
      case c.CTA_PROTO_NUM:
        tuple.protocol = from.u8();
        break;
      case c.CTA_PROTO_SRC_PORT:
        tuple.sourcePort = from.be16();
        break;
      case c.CTA_PROTO_DST_PORT:
        tuple.destinationPort = from.be16();
        break;
    }
  }
}

function readTcpState(from: AttributeCursor, entry: { tcpState?: number }): void {
  while (from.next()) {
    if (from.type !== c.CTA_PROTOINFO_TCP) continue;
    const tcp = from.nested();
    while (tcp.next()) if (tcp.type === c.CTA_PROTOINFO_TCP_STATE) entry.tcpState = tcp.u8();
  }
}

function decodeAmount(from: AttributeCursor, name: string): Amount {
  const amount: Mutable<Partial<Amount>> = {};
  while (from.next()) {
    if (from.type === c.CTA_COUNTERS_PACKETS) amount.packets = Number(from.be64());
    else if (from.type === c.CTA_COUNTERS_BYTES) amount.bytes = Number(from.be64());
  }
  return {
    packets: required(amount.packets, `${name}: CTA_COUNTERS_PACKETS`),
    bytes: required(amount.bytes, `${name}: CTA_COUNTERS_BYTES`),
  };
}

function readTimes(from: AttributeCursor, entry: { startedAt?: number; stoppedAt?: number }): void {
  while (from.next()) {
    if (from.type === c.CTA_TIMESTAMP_START) entry.startedAt = milliseconds(from.be64());
    else if (from.type === c.CTA_TIMESTAMP_STOP) entry.stoppedAt = milliseconds(from.be64());
  }
}

function milliseconds(nanoseconds: bigint): number {
  return Number(nanoseconds / 1_000_000n);
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}

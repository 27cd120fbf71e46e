/**
 * Connections that connection tracking knows, as the relay reports its own: one event for the log,
 * the table and the admin API. Pure.
 *
 * The kernel remembers a closed connection for some time, and its end is known only then. So its
 * age is counted to its last packet, which was the time-out of its state ago. Of TCP, bytes are
 * those of whole packets, with their headers; of UDP those of payloads.
 */

import { IPPROTO_TCP, IPPROTO_UDP } from "../../../ffi/constants.ts";
import { ECONNREFUSED } from "../../../ffi/errno.ts";
import type { ConntrackEntry, Tuple } from "../../../ffi/netlink/conntrack.ts";
import * as c from "../../../ffi/netlink/conntrack-constants.ts";
import { IPS_SEEN_REPLY } from "../../../ffi/netlink/nftables/expr/ct.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { PathTimeouts } from "../../capture/kernel-path/intent.ts";
import { tcpSeconds } from "../../capture/kernel-path/objects.ts";
import type { TcpTimeout } from "../../capture/plan/flow-rule.ts";
import { formatSocketAddress } from "../../net/socket-address.ts";
import { type End, ended } from "../../workers/end-reason.ts";
import type { ConnectionEvent } from "../../workers/protocol.ts";
import type { Rate } from "../../workers/query.ts";
import type { FilteredRow } from "../../workers/row-filter.ts";

/** The service that connections are of. */
export interface FlowOwner {
  /** The number that its connections have in their mark. */
  readonly number: number;
  /** `client`, `self` or `address`: whose address upstreams see. */
  readonly source: string;
  readonly timeouts: PathTimeouts;
}

/** How conntrack(8) names TCP_CONNTRACK_*, in the words of the log. */
const tcpStates: Readonly<Record<number, string>> = {
  [c.TCP_CONNTRACK_NONE]: "connecting",
  [c.TCP_CONNTRACK_SYN_SENT]: "connecting",
  [c.TCP_CONNTRACK_SYN_RECV]: "connecting",
  [c.TCP_CONNTRACK_ESTABLISHED]: "relaying",
  [c.TCP_CONNTRACK_FIN_WAIT]: "half-closed",
  [c.TCP_CONNTRACK_CLOSE_WAIT]: "half-closed",
  [c.TCP_CONNTRACK_LAST_ACK]: "closed",
  [c.TCP_CONNTRACK_TIME_WAIT]: "closed",
  [c.TCP_CONNTRACK_CLOSE]: "closed",
  [c.TCP_CONNTRACK_SYN_SENT2]: "connecting",
};

/** The time-outs of a service by TCP_CONNTRACK_*; of other states the kernel's own count. */
const timeoutNames: Readonly<Record<number, TcpTimeout>> = {
  [c.TCP_CONNTRACK_SYN_SENT]: "syn_sent",
  [c.TCP_CONNTRACK_ESTABLISHED]: "established",
  [c.TCP_CONNTRACK_FIN_WAIT]: "fin_wait",
  [c.TCP_CONNTRACK_CLOSE_WAIT]: "close_wait",
  [c.TCP_CONNTRACK_LAST_ACK]: "last_ack",
  [c.TCP_CONNTRACK_TIME_WAIT]: "time_wait",
  [c.TCP_CONNTRACK_CLOSE]: "close",
};

/** The time-out of a TCP_CONNTRACK_*; undefined: the kernel's own counts. */
export function timeoutName(tcpState: number): TcpTimeout | undefined {
  return timeoutNames[tcpState];
}

/** Equal for connections to one upstream: as `endpointKey` has it. */
export function upstreamKey({ reply }: Pick<ConntrackEntry, "reply">): string {
  return `${reply.source.toHex()}:${reply.sourcePort ?? 0}`;
}

/** A connection as filters look at it; `now` in ms since 1970. */
export function filteredRow(entry: ConntrackEntry, owner: FlowOwner, now: number): FilteredRow {
  const { original, reply } = entry;
  return {
    client: socketAddress(original, "source"),
    original: socketAddress(original, "destination"),
    upstream: socketAddress(reply, "source"),
    phase: stateOf(entry),
    startedAt: now - ageMs(entry, now),
    lastActive: now - idleMsOf(entry, owner.timeouts, now),
  };
}

/** Bytes from the client, and to it. */
export function amountsOf({ original, sent, received }: ConntrackEntry): Rate {
  return { client: bytesOf(sent, original), upstream: bytesOf(received, original) };
}

/** What a row of the table shows of a connection that is open, at the time `now` (since 1970). */
export function openRow(entry: ConntrackEntry, owner: FlowOwner, now: number): ConnectionEvent {
  const idleMs = idleMsOf(entry, owner.timeouts, now);
  return { ...rowOf(entry, owner, "open", now), idleMs, ms: ageMs(entry, now) };
}

/** The event of a connection that has just begun. */
export function acceptedRow(entry: ConntrackEntry, owner: FlowOwner, now: number): ConnectionEvent {
  return rowOf(entry, owner, "accepted", entry.startedAt ?? now);
}

/**
 * The event of a connection that the kernel has forgotten, or that was deleted because of `by`.
 */
export function endedRow(
  entry: ConntrackEntry,
  owner: FlowOwner,
  now: number,
  by?: End,
): ConnectionEvent {
  const time = entry.stoppedAt ?? now;
  const end = by ?? endOf(entry);
  // A closed connection is remembered for some time; one that timed out ended by that.
  const isRemembered = end.reason === "done" || end.reason === "reset";
  const idleMs = isRemembered ? 1000 * (timeoutOf(entry, owner.timeouts) ?? 0) : 0;
  const ms = Math.max(0, ageMs(entry, time) - idleMs);
  return { ...rowOf(entry, owner, "forwarded", time), ms, idleMs, end };
}

/** Whether it is one that is open, and none that is closed and only remembered. */
export function isOpen({ tcpState }: ConntrackEntry): boolean {
  return tcpState === undefined || tcpStates[tcpState] !== "closed";
}

/** The name that the log, the table and the admin API have for a connection. */
function flowId({ id }: ConntrackEntry, { number }: FlowOwner): string {
  return `0.${id}.${number}`;
}

function rowOf(
  entry: ConntrackEntry,
  owner: FlowOwner,
  kind: ConnectionEvent["kind"],
  time: number,
): ConnectionEvent {
  const { original, reply, sent, received } = entry;
  const { client: clientBytes, upstream: upstreamBytes } = amountsOf(entry);
  const isUdp = original.protocol === IPPROTO_UDP;
  return {
    ...{ kind, worker: 0, protocol: isUdp ? "udp" : "tcp", id: flowId(entry, owner), time },
    state: stateOf(entry),
    client: endpoint(original, "source"),
    local: endpoint(original, "destination"),
    upstream: endpoint(reply, "source"),
    source: owner.source,
    ...{ clientBytes, upstreamBytes },
    clientDatagrams: isUdp ? (sent?.packets ?? 0) : 0,
    upstreamDatagrams: isUdp ? (received?.packets ?? 0) : 0,
    ...(isUdp ? {} : { packets: { client: sent?.packets ?? 0, upstream: received?.packets ?? 0 } }),
    ...{ ms: 0, idleMs: 0, end: undefined },
  };
}

/** Of an offloaded connection the kernel lists neither the state nor the time-out. */
function stateOf({ original, tcpState, status }: ConntrackEntry): string {
  if (tcpState !== undefined) return tcpStates[tcpState] ?? `state ${tcpState}`;
  if (original.protocol === IPPROTO_TCP) return "relaying";
  return (status & IPS_SEEN_REPLY) === 0 ? "unanswered" : "answered";
}

/** Bytes of one direction: of UDP without the headers, which all datagrams have alike. */
function bytesOf(amount: ConntrackEntry["sent"], { protocol, source }: Tuple): number {
  if (amount === undefined) return 0;
  const headers = source.length === 4 ? 20 + 8 : 40 + 8;
  if (protocol !== IPPROTO_UDP) return amount.bytes;
  return Math.max(0, amount.bytes - headers * amount.packets);
}

function endpoint(tuple: Tuple, side: "source" | "destination"): string {
  return formatSocketAddress(socketAddress(tuple, side));
}

function socketAddress(tuple: Tuple, side: "source" | "destination"): SocketAddress {
  const port = side === "source" ? tuple.sourcePort : tuple.destinationPort;
  return { address: tuple[side], port: port ?? 0, scopeId: 0 };
}

/**
 * Why the kernel has forgotten a connection, as near as its last state shows. Which side was the
 * first to end it, or has reset it, the kernel does not tell.
 */
function endOf({ original, tcpState, status, received }: ConntrackEntry): End {
  if (original.protocol !== IPPROTO_TCP) return ended("idle-timeout");
  if ((status & IPS_SEEN_REPLY) === 0) {
    // A reset as the first answer counts as none, and the kernel forgets the connection at once.
    const isRefused = tcpState === c.TCP_CONNTRACK_CLOSE || (received?.packets ?? 0) > 0;
    if (!isRefused) return ended("connect-timeout");
    return ended("connect-failed", "upstream", { call: "connect", errno: ECONNREFUSED });
  }
  switch (tcpState) {
    case c.TCP_CONNTRACK_TIME_WAIT:
    case c.TCP_CONNTRACK_LAST_ACK:
      return ended("done", "unknown");
    case c.TCP_CONNTRACK_CLOSE:
      return ended("reset", "unknown");
    case c.TCP_CONNTRACK_ESTABLISHED:
    case c.TCP_CONNTRACK_FIN_WAIT:
    case c.TCP_CONNTRACK_CLOSE_WAIT:
      return ended("idle-timeout");
    default:
      return ended("connect-timeout");
  }
}

function ageMs({ startedAt }: ConntrackEntry, until: number): number {
  return startedAt === undefined ? 0 : Math.max(0, until - startedAt);
}

/** How long it has carried nothing. Before a flow is offloaded, or after, this is not exact. */
function idleMsOf(entry: ConntrackEntry, timeouts: PathTimeouts, now: number): number {
  const whole = timeoutOf(entry, timeouts);
  if (whole === undefined || entry.timeoutS === undefined) return 0;
  const idleMs = 1000 * Math.max(0, whole - entry.timeoutS);
  // The kernel has whole seconds.
  return entry.startedAt === undefined ? idleMs : Math.min(idleMs, ageMs(entry, now));
}

function timeoutOf(
  { original, tcpState, status }: ConntrackEntry,
  timeouts: PathTimeouts,
): number | undefined {
  if (tcpState === undefined) {
    if (original.protocol === IPPROTO_TCP) return undefined;
    return (status & IPS_SEEN_REPLY) === 0 ? timeouts.udpUnreplied : timeouts.udpReplied;
  }
  const name = timeoutNames[tcpState];
  return name === undefined ? undefined : tcpSeconds(timeouts)[name];
}

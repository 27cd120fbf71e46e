/**
 * The sockets of a session. Errors of the kernel are returned, not thrown: a flood can cause them
 * as often as it likes.
 */

import {
  IP_RECVERR,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_RECVERR,
  SO_RCVBUF,
  SO_RCVBUFFORCE,
  SO_SNDBUF,
  SO_SNDBUFFORCE,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOL_SOCKET,
  SOL_UDP,
  UDP_GRO,
} from "../../ffi/constants.ts";
import { type CallFailure, EADDRINUSE } from "../../ffi/errno.ts";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd, Mark, Result } from "../../ffi/types.ts";
import { joinAttemptsMax, joinedSocketsMax } from "./limits.ts";
import { allowSharing, bindTo, connectTo, familyOf, setMark } from "./sockets.ts";
import { allowFragments, setTransparent } from "./transparent.ts";

/**
 * Which other sockets may share a socket's own end (SO_REUSEPORT, which the kernel grants to
 * sockets of one user alone; with SO_REUSEADDR any program could take their traffic). `nobody`;
 * `joined`: other sockets of ours, now and later; `first`: the same, but alone if nobody has that
 * end yet. Then bind(2) costs the same whatever else has the port; with SO_REUSEPORT, the kernel
 * walks all sockets of the port. `first` is for sockets that receive nothing: until another one
 * joins it, the kernel does not know that a connected one is among those that share an end.
 */
export type Sharing = "nobody" | "first" | "joined";

/** The options of a session's socket. */
export interface FlowSocket {
  /** Its own end; undefined leaves that to the kernel, port 0 the port alone. */
  readonly local: { readonly address: Uint8Array; readonly port: number } | undefined;
  readonly remote: SocketAddress;
  /** Or is bound alone, in the family of its remote end. */
  readonly isConnected: boolean;
  /** IP_TRANSPARENT: its own end may be an address that this host does not have. */
  readonly transparent: boolean;
  readonly sharing: Sharing;
  readonly mark?: Mark | undefined;
  /** Called between bind(2) and connect(2), while the socket may receive from anybody. */
  readonly onBound?: () => void;
}

/** A non-blocking UDP socket, or which call failed. */
export function openFlow(wanted: FlowSocket): Fd | CallFailure {
  const domain = familyOf(wanted.remote);
  const fd = sys.socket(domain, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return { call: "socket", errno: -fd };
  const failure = bindAndConnect(fd, domain, wanted);
  if (failure === undefined) return fd as Fd;
  sys.close(fd);
  return failure;
}

function bindAndConnect(fd: number, domain: number, wanted: FlowSocket): CallFailure | undefined {
  const { local, remote, mark } = wanted;
  allowFragments(fd, domain);
  if (mark !== undefined) {
    const marked = setMark(fd, mark);
    if (marked < 0) return { call: "setsockopt", errno: -marked };
  }
  if (local !== undefined) {
    if (wanted.transparent) {
      const transparent = setTransparent(fd, domain);
      if (transparent < 0) return { call: "setsockopt", errno: -transparent };
    }
    const bound = bindAs(wanted.sharing, fd, local, remote.scopeId);
    if (bound < 0) return { call: "bind", errno: -bound };
    wanted.onBound?.();
  }
  if (!wanted.isConnected) return undefined;
  const connected = connectTo(fd, remote);
  return connected < 0 ? { call: "connect", errno: -connected } : undefined;
}

function bindAs(
  sharing: Sharing,
  fd: number,
  { address, port }: NonNullable<FlowSocket["local"]>,
  scopeId: number,
): Result {
  if (sharing === "joined") allowSharing(fd);
  let result = bindTo(fd, address, port, scopeId);
  if (sharing !== "first") return result;
  allowSharing(fd);
  // Another Worker may just have bound it, and not yet allowed others to join.
  for (let i = 0; i < joinAttemptsMax && result === -EADDRINUSE; i++) {
    result = bindTo(fd, address, port, scopeId);
  }
  return result;
}

/** The discard port of this host: nobody sends from there. */
const NOBODY = { address: Uint8Array.of(127, 0, 0, 1), port: 9, scopeId: 0 };
const NOBODY_V6 = { ...NOBODY, address: Uint8Array.from({ length: 16 }, (_, i) => Number(i > 14)) };

/**
 * Opens a socket that sends answers from `local` and receives nothing: it is connected to an
 * address that nothing comes from, and each datagram that it sends names its own destination.
 * Returns the socket, or the call that failed.
 */
export function openReplySocket(local: SocketAddress, transparent: boolean): Fd | CallFailure {
  const wanted = {
    local,
    remote: local,
    isConnected: false,
    transparent,
    sharing: "first",
  } as const;
  const opened = openFlow(wanted);
  if (typeof opened !== "number") return opened;
  // Without a route, as where lo is down, it stays unconnected, and TPROXY does not find it.
  connectTo(opened, local.address.length === 4 ? NOBODY : NOBODY_V6);
  return opened;
}

/**
 * Makes a connected socket report unreachable hosts and networks (IP_RECVERR). The
 * kernel hides these errors otherwise, since they may pass; before a first answer they are useful.
 */
export function hearSoftErrors(fd: number, { address }: SocketAddress, wanted: boolean): void {
  const isV4 = address.length === 4;
  const option = isV4 ? IP_RECVERR : IPV6_RECVERR;
  sys.setsockopt(fd, isV4 ? IPPROTO_IP : IPPROTO_IPV6, option, wanted ? 1 : 0);
}

/** How many sockets of sessions have a port, on whatever address. */
export class PortUse {
  private readonly counts = new Map<number, number>();

  opened(port: number): void {
    this.counts.set(port, (this.counts.get(port) ?? 0) + 1);
  }

  closed(port: number): void {
    const left = (this.counts.get(port) ?? 0) - 1;
    if (left > 0) this.counts.set(port, left);
    else this.counts.delete(port);
  }

  /** Whether so many sockets have the port that no other one should be `joined`. */
  isCrowded(port: number): boolean {
    return (this.counts.get(port) ?? 0) >= joinedSocketsMax;
  }
}

/**
 * Prepares a socket for much traffic: buffers of up to `bytes`, and UDP_GRO, which joins datagrams
 * of one flow, where the kernel has it.
 */
export function prepareForMuch(fd: number, bytes: number, gro: boolean): void {
  if (sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, bytes) < 0) {
    sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, bytes);
  }
  allowBacklog(fd, bytes);
  if (gro) sys.setsockopt(fd, SOL_UDP, UDP_GRO, 1);
}

/** Sets the send buffer: up to `bytes` of datagrams may wait at an interface. */
export function allowBacklog(fd: number, bytes: number): void {
  if (sys.setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, bytes) < 0) {
    sys.setsockopt(fd, SOL_SOCKET, SO_SNDBUF, bytes);
  }
}

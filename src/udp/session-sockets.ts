/**
 * The sockets of a session. What the kernel refuses is answered, not thrown: a flood can
 * make it refuse as often as it likes.
 */

import {
  SO_RCVBUF,
  SO_RCVBUFFORCE,
  SO_REUSEADDR,
  SO_SNDBUF,
  SO_SNDBUFFORCE,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOL_SOCKET,
  SOL_UDP,
  UDP_GRO,
} from "../../ffi/constants.ts";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Mark, Result } from "../../ffi/types.ts";
import { bindTo, connectTo, familyOf, setMark } from "../engine/sockets.ts";
import { allowFragments, setTransparent } from "../engine/transparent.ts";

/** What a socket of a session shall be. */
export interface FlowSocket {
  /** Its own end; undefined leaves that to the kernel, port 0 the port alone. */
  readonly local: { readonly address: Uint8Array; readonly port: number } | undefined;
  readonly remote: SocketAddress;
  /** Or is bound alone, in the family of its remote end. */
  readonly isConnected: boolean;
  /** IP_TRANSPARENT: its own end may be an address that this host does not have. */
  readonly transparent: boolean;
  /** SO_REUSEADDR: others of ours have the same own end, and another remote one. */
  readonly shared: boolean;
  readonly mark?: Mark | undefined;
  /** Called once it has its own end, and may be sent to by anybody; then it is connected. */
  readonly onBound?: () => void;
}

/** The call that `openFlow` failed in last. */
export let failedCall = "";

/** A non-blocking UDP socket, or a negated errno; `failedCall` then names the call. */
export function openFlow(wanted: FlowSocket): Result {
  const domain = familyOf(wanted.remote);
  failedCall = "socket";
  const fd = sys.socket(domain, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return fd;
  const result = bindAndConnect(fd, domain, wanted);
  if (result >= 0) return fd;
  sys.close(fd);
  return result;
}

function bindAndConnect(fd: number, domain: number, wanted: FlowSocket): Result {
  const { local, remote, mark } = wanted;
  allowFragments(fd, domain);
  failedCall = "setsockopt";
  if (mark !== undefined) {
    const marked = setMark(fd, mark);
    if (marked < 0) return marked;
  }
  if (local !== undefined) {
    if (wanted.transparent) {
      const transparent = setTransparent(fd, domain);
      if (transparent < 0) return transparent;
    }
    if (wanted.shared) sys.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    failedCall = "bind";
    const bound = bindTo(fd, local.address, local.port, remote.scopeId);
    if (bound < 0) return bound;
    wanted.onBound?.();
  }
  if (!wanted.isConnected) return 0;
  failedCall = "connect";
  return connectTo(fd, remote);
}

/**
 * Makes a socket ready for much traffic: buffers of `bytes` as far as they may be had, and the
 * datagrams of one flow handed over together. An old kernel without UDP_GRO does without.
 */
export function prepareForMuch(fd: number, bytes: number, gro: boolean): void {
  if (sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, bytes) < 0) {
    sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, bytes);
  }
  allowBacklog(fd, bytes);
  if (gro) sys.setsockopt(fd, SOL_UDP, UDP_GRO, 1);
}

/** Lets `bytes` of a socket's datagrams wait at an interface, as those wait that are routed. */
export function allowBacklog(fd: number, bytes: number): void {
  if (sys.setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, bytes) < 0) {
    sys.setsockopt(fd, SOL_SOCKET, SO_SNDBUF, bytes);
  }
}

/**
 * Opens and binds sockets on the main thread, where a failure can be explained. A socket stays in
 * the network namespace that the thread is in when it is opened.
 */

import {
  AF_INET,
  AF_INET6,
  F_DUPFD_CLOEXEC,
  IP_BIND_ADDRESS_NO_PORT,
  IP_FREEBIND,
  IP_MTU_DISCOVER,
  IP_PMTUDISC_DONT,
  IP_RECVORIGDSTADDR,
  IP_TRANSPARENT,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  IPV6_FREEBIND,
  IPV6_RECVORIGDSTADDR,
  IPV6_TRANSPARENT,
  IPV6_V6ONLY,
  SO_DOMAIN,
  SO_KEEPALIVE,
  SO_MARK,
  SO_REUSEADDR,
  SO_REUSEPORT,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_DEFER_ACCEPT,
  TCP_KEEPCNT,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
  TCP_NODELAY,
  TCP_SAVE_SYN,
  TCP_USER_TIMEOUT,
} from "../../ffi/constants.ts";
import { ECONNREFUSED, EINPROGRESS, SyscallError } from "../../ffi/errno.ts";
import { sockaddr_storage } from "../../ffi/layout.ts";
import { allocate } from "../../ffi/memory.ts";
import { decodeSockaddr, encodeSockaddr, type SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd, Mark, Result } from "../../ffi/types.ts";
import { backlog, clientFirstSeconds, keepAliveProbes } from "./limits.ts";
import { hearHopLimits } from "./transparent.ts";

/** The options of a socket before it is bound. */
export interface SocketOptions {
  readonly protocol: "tcp" | "udp";
  /** IP_TRANSPARENT: may be bound to, and be reached at, addresses that this host does not own. */
  readonly transparent: boolean;
  /** The owner of the socket: the kernel lets sockets of one user share a port. */
  readonly owner?: number | undefined;
  /** IP_FREEBIND: may be bound to such addresses, and no more. */
  readonly freebind?: boolean;
  /** SO_BINDTODEVICE. */
  readonly device?: string | undefined;
  /** SO_MARK: the mark of its own packets. */
  readonly mark?: Mark | undefined;
  /** SO_REUSEPORT: one of several sockets that share the traffic of one address. */
  readonly reusePort?: boolean;
  /** The local port is chosen at connect, not at bind (IP_BIND_ADDRESS_NO_PORT). */
  readonly portAtConnect?: boolean;
  /** TCP_NODELAY. Accepted sockets inherit it from the listener, as the TCP options below. */
  readonly noDelay?: boolean;
  /** TCP_SAVE_SYN: the hop limit of the SYN of accepted connections can be read. */
  readonly savesSyn?: boolean;
  /** TCP_DEFER_ACCEPT: connections are accepted when their first bytes are there. */
  readonly clientFirst?: boolean;
  /** SO_KEEPALIVE: probe a peer after this long without a packet. */
  readonly keepAliveMs?: number | undefined;
  /** TCP_USER_TIMEOUT: end a connection after this long without an acknowledgement. */
  readonly userTimeoutMs?: number | undefined;
}

const name = allocate(sockaddr_storage.size);
const ownName = allocate(sockaddr_storage.size);
const [nameWords, ownWords] = [name.words(), ownName.words()];

/**
 * A non-blocking, close-on-exec socket bound to `local`, whose address bytes decide the family.
 * UDP sockets report the original destination of each datagram; TCP sockets may take an address
 * that has connections in TIME_WAIT.
 * @throws SyscallError naming the option or call that the kernel refused; nothing stays open.
 */
export function bindSocket(options: SocketOptions, local: SocketAddress): Fd {
  const fd = unboundSocket(options, local);
  try {
    bindAt(fd, local);
    return fd;
  } catch (error) {
    sys.close(fd);
    throw error;
  }
}

/** `bind(2)` of a socket of the address's family. @throws SyscallError */
export function bindAt(fd: Fd, { address, port, scopeId }: SocketAddress): void {
  need(bindTo(fd, address, port, scopeId), "bind");
}

/** The same socket as that of `bindSocket`, which is not bound yet. @throws SyscallError */
export function unboundSocket(options: SocketOptions, local: SocketAddress): Fd {
  const domain = familyOf(local);
  const fd = makeSocket(options.protocol, domain);
  // Without CAP_CHOWN this process owns it, and the others that share its port.
  if (options.owner !== undefined) sys.setOwner(fd, options.owner);
  try {
    configure(fd, domain, options);
    return fd;
  } catch (error) {
    sys.close(fd);
    throw error;
  }
}

/**
 * Gives a bound socket that another process has made the options of one of ours. What it has
 * already is left alone: that takes no privilege. @throws SyscallError
 */
export function adoptSocket(fd: Fd, options: SocketOptions): void {
  const domain = sys.getsockopt(fd, SOL_SOCKET, SO_DOMAIN);
  if (options.owner !== undefined) sys.setOwner(fd, options.owner);
  if (!options.transparent) {
    if (domain === AF_INET6) sys.setsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 0);
    sys.setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, 0);
  }
  configure(fd, domain, options, (level, option) => sys.getsockopt(fd, level, option));
  if (options.protocol !== "tcp") return;
  if (options.clientFirst !== true) sys.setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0);
  listenOn(fd);
}

/** Another descriptor of the same socket, close-on-exec. @throws SyscallError */
export function duplicate(fd: Fd): Fd {
  const copy = sys.fcntl(fd, F_DUPFD_CLOEXEC, 0);
  need(copy, "fcntl", "F_DUPFD_CLOEXEC");
  return copy as Fd;
}

/**
 * SO_REUSEPORT: from now on other sockets of the same user, which have it as well, may be bound to
 * the same address. On a socket that has been bound without, and so alone, it lets others join.
 */
export function allowSharing(fd: number): Result {
  return sys.setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, 1);
}

/** `listen(2)` on a bound TCP socket. @throws SyscallError, EADDRINUSE included. */
export function listenOn(fd: Fd): void {
  need(sys.listen(fd, backlog), "listen");
}

/**
 * Starts to connect a bound socket: a TCP one is writable once it is connected or has failed
 * (SO_ERROR).
 * @throws SyscallError for what is known at once, such as ENETUNREACH.
 */
export function startConnect(fd: Fd, remote: SocketAddress): void {
  const result = connectTo(fd, remote);
  if (result < 0 && result !== -EINPROGRESS) throw new SyscallError("connect", -result);
}

/** Where a socket is bound. */
export function localName(fd: Fd): SocketAddress {
  need(sys.getsockname(fd, name.address, name.size), "getsockname");
  const decoded = decodeSockaddr(name.view, 0);
  if (decoded === undefined) throw new Error("getsockname answered an unknown family");
  return decoded;
}

/** The family of a socket that has this address. */
export function familyOf({ address }: SocketAddress): number {
  return address.length === 4 ? AF_INET : AF_INET6;
}

function makeSocket(protocol: "tcp" | "udp", domain: number): Fd {
  const type = protocol === "tcp" ? SOCK_STREAM : SOCK_DGRAM;
  const fd = sys.socket(domain, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) throw new SyscallError("socket", -fd, domain === AF_INET ? "AF_INET" : "AF_INET6");
  return fd as Fd;
}

/** Sets SO_MARK (socket(7)), the mark of the socket's own packets. */
export function setMark(fd: number, mark: Mark): Result {
  return sys.setsockopt(fd, SOL_SOCKET, SO_MARK, mark | 0);
}

/** `bind(2)` of a socket of the address's family, 4 or 16 bytes; `port` in host order. */
export function bindTo(fd: number, address: Uint8Array, port: number, scopeId: number): Result {
  return sys.bind(fd, name.address, encodeSockaddr(name.view, 0, address, port, scopeId));
}

/** `connect(2)`; -EINPROGRESS from a stream that does not block, -ECONNREFUSED from itself. */
export function connectTo(fd: number, { address, port, scopeId }: SocketAddress): Result {
  const size = encodeSockaddr(name.view, 0, address, port, scopeId);
  const result = sys.connect(fd, name.address, size);
  if ((result < 0 && result !== -EINPROGRESS) || !isItsOwnPeer(fd)) return result;
  // Leaves no TIME_WAIT behind, which would keep a server from the port.
  sys.setLinger(fd, true, 0);
  return -ECONNREFUSED;
}

/**
 * Whether a socket that connects to `name` has that address itself. Where nobody serves a port of
 * this host that the kernel may choose for the socket, the kernel now and then chooses that port,
 * and connects the socket to itself (RFC 9293, 3.5): it would receive whatever it sends.
 */
function isItsOwnPeer(fd: number): boolean {
  if (sys.getsockname(fd, ownName.address, ownName.size) < 0) return false;
  // Family and port; then the address.
  if (ownWords[0] !== nameWords[0]) return false;
  const isV4 = ((nameWords[0] as number) & 0xffff) === AF_INET;
  const [from, to] = isV4 ? [1, 2] : [2, 6];
  for (let at = from; at < to; at++) if (ownWords[at] !== nameWords[at]) return false;
  return true;
}

/**
 * Sets SO_KEEPALIVE and TCP_USER_TIMEOUT of a TCP socket, in ms, if they are given. Returns 0 or a
 * negated errno.
 */
export function setKeepAlive(fd: number, keepAliveMs?: number, userTimeoutMs?: number): Result {
  let result = 0;
  const set = (level: number, option: number, value: number) => {
    if (result >= 0) result = sys.setsockopt(fd, level, option, value);
  };
  if (keepAliveMs !== undefined) {
    const seconds = Math.ceil(keepAliveMs / 1000);
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, seconds);
    set(IPPROTO_TCP, TCP_KEEPINTVL, Math.max(1, Math.round(seconds / keepAliveProbes)));
    set(IPPROTO_TCP, TCP_KEEPCNT, keepAliveProbes);
  }
  if (userTimeoutMs !== undefined) set(IPPROTO_TCP, TCP_USER_TIMEOUT, userTimeoutMs);
  return result;
}

function configure(
  fd: number,
  domain: number,
  options: SocketOptions,
  present: (level: number, option: number) => number | undefined = () => undefined,
): void {
  const set = (level: number, option: number, optionName: string, value = 1) => {
    if (present(level, option) === value) return;
    need(sys.setsockopt(fd, level, option, value), "setsockopt", optionName);
  };
  const isV6 = domain === AF_INET6;
  // An AF_INET6 socket bound to :: also serves IPv4, so it needs the options of both families.
  if (isV6) set(IPPROTO_IPV6, IPV6_V6ONLY, "IPV6_V6ONLY", 0);
  if (options.transparent) {
    if (isV6) set(IPPROTO_IPV6, IPV6_TRANSPARENT, "IPV6_TRANSPARENT");
    set(IPPROTO_IP, IP_TRANSPARENT, "IP_TRANSPARENT");
  }
  if (options.freebind === true) {
    if (isV6) set(IPPROTO_IPV6, IPV6_FREEBIND, "IPV6_FREEBIND");
    set(IPPROTO_IP, IP_FREEBIND, "IP_FREEBIND");
  }
  if (options.protocol === "udp") {
    if (isV6) set(IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, "IPV6_RECVORIGDSTADDR");
    set(IPPROTO_IP, IP_RECVORIGDSTADDR, "IP_RECVORIGDSTADDR");
    hearHopLimits(fd, domain);
    // Routers may fragment: an ICMP error would go to the source, which may be another host.
    set(IPPROTO_IP, IP_MTU_DISCOVER, "IP_MTU_DISCOVER", IP_PMTUDISC_DONT);
  } else set(SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR");
  if (options.reusePort === true) need(allowSharing(fd), "setsockopt", "SO_REUSEPORT");
  // A sandbox that rejects one of these only costs time or ports.
  if (options.portAtConnect === true) sys.setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
  if (options.protocol === "tcp") {
    if (options.noDelay === true) sys.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (options.savesSyn === true) sys.setsockopt(fd, IPPROTO_TCP, TCP_SAVE_SYN, 1);
    if (options.clientFirst === true) {
      set(IPPROTO_TCP, TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT", clientFirstSeconds);
    }
    const { keepAliveMs, userTimeoutMs } = options;
    need(setKeepAlive(fd, keepAliveMs, userTimeoutMs), "setsockopt", "keep-alive");
  }
  if (options.mark !== undefined) need(setMark(fd, options.mark), "setsockopt", "SO_MARK");
  if (options.device !== undefined) {
    need(sys.bindToDevice(fd, options.device), "setsockopt", "SO_BINDTODEVICE");
  }
}

function need(result: number, call: string, detail = ""): void {
  if (result < 0) throw new SyscallError(call, -result, detail);
}

/**
 * Sends datagrams from an address and port that no socket can be bound to, because a socket of
 * another program has that port on every address (`0.0.0.0:53`): bind(2) then returns EADDRINUSE
 * with any options. Also sends ICMP errors that pass an upstream's ICMP on to its client.
 *
 * A raw socket without IP_HDRINCL: IP_TRANSPARENT lets IP_PKTINFO name any source, and the kernel
 * writes the IP header, routes by mark and fragments. (With IP_HDRINCL a packet larger than the
 * interface's MTU is EMSGSIZE: raw(7).) The kernel would give such a socket a copy of every packet
 * of its protocol, so it is bound to an address at which nothing arrives. No ICMP error arrives
 * there either, so the socket does not learn that an IPv6 path is narrower than the interface.
 */

import {
  AF_INET,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  IPPROTO_UDP,
  SO_MARK,
  SO_RCVBUF,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_RAW,
  SOL_SOCKET,
} from "../../ffi/constants.ts";
import {
  type CallFailure,
  describeFailure,
  EACCES,
  EADDRINUSE,
  EMSGSIZE,
  EPERM,
} from "../../ffi/errno.ts";
import { udphdr } from "../../ffi/layout.ts";
import { allocate, type NativeBuffer } from "../../ffi/memory.ts";
import { type Envelope, makeEnvelope, SendBatch } from "../../ffi/send-batch.ts";
import { encodeSockaddr, type SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Mark, Result } from "../../ffi/types.ts";
import { encodeDatagram, encodeTimeExceeded, encodeUnreachable } from "../proto/raw-packet.ts";
import { datagramBytesMax, listenerBufferBytes } from "./limits.ts";
import { familyOf } from "./sockets.ts";
import { allowFragments, setTransparent } from "./transparent.ts";
import { allowBacklog } from "./udp-sockets.ts";

/** 192.0.0.8, the dummy address of RFC 7600, and 100::1 of the discard prefix of RFC 6666. */
const NOBODY = Uint8Array.of(192, 0, 0, 8);
const NOBODY_V6 = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);

/**
 * The warning that replies from `port` leave as raw packets, because no socket could be bound
 * there. Undefined for a failure that raw packets do not help with.
 */
export function rawWarning({ call, errno }: CallFailure, port: number): string | undefined {
  if (call !== "bind") return undefined;
  if (errno === EADDRINUSE) {
    return `port ${port} is held by another program here: answers leave as raw packets`;
  }
  return errno === EACCES
    ? "a privileged port needs CAP_NET_BIND_SERVICE here: answers from it leave as raw packets"
    : undefined;
}

/** Why a raw packet could not be sent: EPERM is the lack of a capability. */
export function rawRefusal(errno: number): string {
  return errno === EPERM
    ? "an answer was dropped: no socket gets its port, and a raw packet needs CAP_NET_RAW"
    : `an answer was dropped: ${describeFailure({ call: "raw sendmmsg", errno })}`;
}

/** Sends datagrams and ICMP errors from any address; one for each Worker that needs it. */
export class RawSender {
  private readonly mark: Mark | undefined;
  private readonly packet = allocate(udphdr.size + datagramBytesMax);
  private readonly sending = new SendBatch(1);
  private readonly name = allocate(32);
  /** By `family protocol`, opened when first needed. */
  private readonly sockets = new Map<number, number>();
  /** The address of the packet before, which is often the same. */
  private source: SocketAddress | undefined;
  private destination: SocketAddress | undefined;
  private envelope: Envelope | undefined;

  /** `mark` is the mark of the packets (SO_MARK). Sockets are opened later, when needed. */
  constructor(mark?: Mark) {
    this.mark = mark;
  }

  /**
   * Sends the `length` bytes at `offset` of `payload` as a datagram from `source` to `destination`,
   * of the same family. Returns `length` or a negated errno: EPERM without CAP_NET_RAW, EAGAIN
   * when the socket's buffer is full, EMSGSIZE for what no datagram can carry.
   */
  send(
    source: SocketAddress,
    destination: SocketAddress,
    payload: NativeBuffer,
    offset: number,
    length: number,
  ): Result {
    const { view } = this.packet;
    if (length > datagramBytesMax) return -EMSGSIZE;
    const size = encodeDatagram(view, source, destination, payload.view, offset, length);
    const result = this.transmit(IPPROTO_UDP, source, destination, size);
    return result < 0 ? result : length;
  }

  /**
   * Sends `client` an ICMP error in the name of `destination`: its datagrams do not arrive. The
   * error gives the client's socket `errno` (`encodeUnreachable`). Returns its size, 0 when no ICMP
   * error says that, or a negated errno.
   */
  sendUnreachable(client: SocketAddress, destination: SocketAddress, errno: number): Result {
    const { view } = this.packet;
    const size = encodeUnreachable(view, client, destination, errno);
    if (size === 0) return 0;
    const protocol = client.address.length === 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
    return this.transmit(protocol, destination, client, size);
  }

  /**
   * Sends `client` the ICMP error of a router with the address `own`: a datagram to `destination`
   * has used up its hop limit. Returns its size or a negated errno.
   */
  sendTimeExceeded(client: SocketAddress, destination: SocketAddress, own: SocketAddress): Result {
    const size = encodeTimeExceeded(this.packet.view, client, destination);
    const protocol = client.address.length === 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
    return this.transmit(protocol, own, client, size);
  }

  /** Closes what was opened. */
  close(): void {
    for (const fd of this.sockets.values()) sys.close(fd);
    this.sockets.clear();
  }

  private transmit(
    protocol: number,
    source: SocketAddress,
    destination: SocketAddress,
    size: number,
  ): Result {
    const domain = familyOf(destination);
    const fd = this.sockets.get(protocol * 16 + domain) ?? this.open(domain, protocol);
    if (fd < 0) return fd;
    if (this.source !== source || this.destination !== destination) {
      this.source = source;
      this.destination = destination;
      // The port of a raw IPv6 destination is the protocol or 0 (ipv6(7)).
      this.envelope = makeEnvelope(domain, { ...destination, port: 0 }, source.address);
    }
    const { sending } = this;
    sending.begin(this.envelope, false);
    sending.add(this.packet.address, size, 0);
    sending.send(fd);
    return sending.sent === 1 ? size : -sending.errno;
  }

  /** A socket, or a negated errno. */
  private open(domain: number, protocol: number): number {
    const fd = sys.socket(domain, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
    if (fd < 0) return fd;
    const refused = this.configure(fd, domain);
    if (refused < 0) {
      sys.close(fd);
      return refused;
    }
    this.sockets.set(protocol * 16 + domain, fd);
    return fd;
  }

  private configure(fd: number, domain: number): Result {
    const isV4 = domain === AF_INET;
    const transparent = setTransparent(fd, domain);
    if (transparent < 0) return transparent;
    allowFragments(fd, domain);
    // Multicast reaches a raw IPv6 socket wherever it is bound; it is never read.
    sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, 0);
    allowBacklog(fd, listenerBufferBytes);
    if (this.mark !== undefined) {
      const marked = sys.setsockopt(fd, SOL_SOCKET, SO_MARK, this.mark | 0);
      if (marked < 0) return marked;
    }
    const length = encodeSockaddr(this.name.view, 0, isV4 ? NOBODY : NOBODY_V6, 0);
    return sys.bind(fd, this.name.address, length);
  }
}

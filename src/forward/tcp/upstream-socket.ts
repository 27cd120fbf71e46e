/**
 * The sockets towards upstreams, and what their errors mean. Errors of the kernel are returned, not
 * thrown: a peer can cause them as often as it likes.
 */

import {
  EPOLLET,
  EPOLLIN,
  EPOLLOUT,
  EPOLLPRI,
  EPOLLRDHUP,
  IP_BIND_ADDRESS_NO_PORT,
  IPPROTO_IP,
  IPPROTO_TCP,
  SO_REUSEADDR,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_FASTOPEN_CONNECT,
  TCP_NODELAY,
  TCP_QUICKACK,
} from "../../../ffi/constants.ts";
import { type CallFailure, EINPROGRESS } from "../../../ffi/errno.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd, Result } from "../../../ffi/types.ts";
import { portReusesTried } from "../../engine/limits.ts";
import { PortWindows } from "../../engine/port-windows.ts";
import { bindTo, connectTo, familyOf, setKeepAlive, setMark } from "../../engine/sockets.ts";
import { setHopLimit, setTransparent } from "../../engine/transparent.ts";
import { isUnspecified } from "../../net/ip.ts";
import type { ForwardTask } from "../../workers/protocol.ts";
import type { Dial } from "../dial.ts";
import { keptPortRefusal } from "../kept-port.ts";

/** The events that both sockets of a connection are registered for, edge-triggered. */
export const CONNECTION_EVENTS = (EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET) >>> 0;

/** The options of all these sockets. */
export type UpstreamOptions = {
  readonly dial: Pick<ForwardTask["dial"], "mark">;
  readonly timeouts: Pick<ForwardTask["timeouts"], "keepAliveMs" | "userMs">;
};

/** The owner gets warnings, and sees each new socket before it connects. */
interface UpstreamSocketsOwner {
  warn(text: string): void;
  /** Bounds the receive buffer of a new socket, if memory is short. */
  boundMemory(fd: number): void;
}

const TYPE = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;

/** Opens sockets towards upstreams. */
export class UpstreamSockets {
  private readonly options: UpstreamOptions;
  private readonly owner: UpstreamSocketsOwner;
  private readonly ports = new PortWindows();

  constructor(options: UpstreamOptions, owner: UpstreamSocketsOwner) {
    this.options = options;
    this.owner = owner;
  }

  /**
   * Opens a socket that connects to the upstream; otherwise returns the call that failed. With
   * `--source client:port` the client's port may be unavailable: the client uses it towards this
   * upstream already, a listener here has it, or it is below 1024 and we lack the capability. Then
   * the kernel chooses another port, with a warning. The hop limit is one less than `hops`, if
   * known.
   */
  open(choice: Dial, hops = 0): Fd | CallFailure {
    const opened = this.make(choice, hops);
    if (typeof opened === "number") return opened;
    const { source } = choice;
    const why = keptPortRefusal(opened);
    if (why === undefined) return opened;
    if (source === undefined || source.port === 0) return this.reusePort(choice, hops, opened);
    this.owner.warn(`the client's port ${why} here: connecting from another one`);
    return this.open({ ...choice, source: { ...source, port: 0 } }, hops);
  }

  /**
   * Tries ports that may be in TIME_WAIT: `failure` says that none is free. A socket that is bound
   * to such a port may connect again to the same upstream if both ends have TCP timestamps (RFC
   * 6191), whatever net.ipv4.tcp_tw_reuse is.
   */
  private reusePort(choice: Dial, hops: number, failure: CallFailure): Fd | CallFailure {
    const { source, upstream } = choice;
    const address = source?.address ?? new Uint8Array(upstream.address.length);
    for (let tries = 0; tries < portReusesTried; tries++) {
      const opened = this.make(
        { ...choice, source: { address, port: this.ports.anyPort() } },
        hops,
      );
      if (keptPortRefusal(opened) === undefined) return opened;
    }
    return failure;
  }

  private make(choice: Dial, hops: number): Fd | CallFailure {
    const domain = familyOf(choice.upstream);
    const fd = sys.socket(domain, TYPE, 0);
    if (fd < 0) return { call: "socket", errno: -fd };
    // Set before the handshake, which offers the window.
    this.owner.boundMemory(fd);
    if (hops > 1) setHopLimit(fd, domain, hops - 1);
    const failure = this.prepare(fd, domain, choice);
    if (failure === undefined) return fd as Fd;
    sys.close(fd);
    return failure;
  }

  private prepare(fd: number, domain: number, dial: Dial): CallFailure | undefined {
    const { source, upstream } = dial;
    const configured = this.configure(fd);
    if (configured < 0) return { call: "setsockopt", errno: -configured };
    // A kernel that rejects it connects as usual.
    if (dial.fastOpen === true) sys.setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1);
    const failure = source && this.bind(fd, domain, source);
    if (failure !== undefined) return failure;
    const connected =
      source === undefined || source.port === 0
        ? this.ports.connect(fd, () => connectTo(fd, upstream))
        : connectTo(fd, upstream);
    if (connected >= 0 || connected === -EINPROGRESS) return undefined;
    return { call: "connect", errno: -connected };
  }

  private configure(fd: number): Result {
    const { mark } = this.options.dial;
    const { keepAliveMs, userMs } = this.options.timeouts;
    // Nagle's algorithm would delay a message until the one before is acknowledged, up to 40 ms.
    sys.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    // Saves a packet where the client speaks first: its bytes acknowledge the SYN-ACK.
    sys.setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, 0);
    // Lets a later connection have its port while this one is in TIME_WAIT (`reusePort`).
    sys.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    // A sandbox that rejects a call above only costs time. The calls below were asked for.
    let result = 0;
    if (mark !== undefined) result = setMark(fd, mark);
    if (result >= 0) result = setKeepAlive(fd, keepAliveMs, userMs);
    return result;
  }

  /** Binds it to an address that may be a client's. */
  private bind(
    fd: number,
    domain: number,
    source: NonNullable<Dial["source"]>,
  ): CallFailure | undefined {
    // Our own address needs no privilege.
    let result = isUnspecified(source.address) ? 0 : setTransparent(fd, domain);
    if (result < 0) return { call: "setsockopt", errno: -result };
    // A port that connect(2) chooses must be free towards this upstream only; where the kernel
    // rejects that option, bind(2) chooses the port.
    if (source.port === 0) sys.setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    result = bindTo(fd, source.address, source.port, 0);
    return result < 0 ? { call: "bind", errno: -result } : undefined;
  }
}

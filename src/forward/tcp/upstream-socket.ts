/**
 * The sockets towards upstreams, and what their errors mean. What the kernel refuses is answered,
 * not thrown: a peer can make it refuse as often as it likes.
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
  TCP_NODELAY,
  TCP_QUICKACK,
} from "../../../ffi/constants.ts";
import {
  type CallFailure,
  EADDRNOTAVAIL,
  EINPROGRESS,
  ENOBUFS,
  ENOMEM,
  EPERM,
} from "../../../ffi/errno.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd, Result } from "../../../ffi/types.ts";
import { PortWindows } from "../../engine/port-windows.ts";
import { bindTo, connectTo, familyOf, setKeepAlive, setMark } from "../../engine/sockets.ts";
import { setHopLimit, setTransparent } from "../../engine/transparent.ts";
import type { ForwardTask } from "../../workers/protocol.ts";
import type { Dial } from "../dial.ts";
import { keptPortRefusal } from "../kept-port.ts";

/** The events that both sockets of a connection are registered for, edge-triggered. */
export const CONNECTION_EVENTS = (EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET) >>> 0;

/** What all of them have in common. */
export type UpstreamOptions = {
  readonly dial: Pick<ForwardTask["dial"], "mark">;
  readonly timeouts: Pick<ForwardTask["timeouts"], "keepAliveMs" | "userMs">;
};

/** Who is told of what is done otherwise than asked for, and of new sockets. */
interface UpstreamSocketsOwner {
  warn(text: string): void;
  /** Bounds what a new socket may receive ahead of its reader, if there is a reason to. */
  boundMemory(fd: number): void;
}

const TYPE = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;

/** Makes the sockets towards upstreams, all alike. */
export class UpstreamSockets {
  private readonly options: UpstreamOptions;
  private readonly owner: UpstreamSocketsOwner;
  private readonly ports = new PortWindows();

  constructor(options: UpstreamOptions, owner: UpstreamSocketsOwner) {
    this.options = options;
    this.owner = owner;
  }

  /**
   * A socket that is on its way to the upstream, or which call failed. Where a
   * client's port is to be kept, it may be in use towards that upstream, for the client can have it
   * towards several destinations, or by a listener here, or it is below 1024 and we lack the
   * capability for that: then another one is taken. It sends with one less than `hops`, if known.
   */
  open(choice: Dial, hops = 0): Fd | CallFailure {
    const opened = this.make(choice, hops);
    const { source } = choice;
    const why = keptPortRefusal(opened);
    if (why === undefined || source === undefined || source.port === 0) return opened;
    this.owner.warn(`the client's port ${why} here: connecting from another one`);
    return this.make({ ...choice, source: { ...source, port: 0 } }, hops);
  }

  private make(choice: Dial, hops: number): Fd | CallFailure {
    const domain = familyOf(choice.upstream);
    const fd = sys.socket(domain, TYPE, 0);
    if (fd < 0) return { call: "socket", errno: -fd };
    // Before the handshake, in which a window is offered.
    this.owner.boundMemory(fd);
    if (hops > 1) setHopLimit(fd, domain, hops - 1);
    const failure = this.prepare(fd, domain, choice);
    if (failure === undefined) return fd as Fd;
    sys.close(fd);
    return failure;
  }

  private prepare(fd: number, domain: number, { source, upstream }: Dial): CallFailure | undefined {
    const configured = this.configure(fd);
    if (configured < 0) return { call: "setsockopt", errno: -configured };
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
    // Nagle's algorithm would hold back a message until the one before is acknowledged: 40 ms.
    sys.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    // One packet less, where the client speaks first: its bytes acknowledge the SYN-ACK.
    sys.setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, 0);
    // What is refused above, in a sandbox, costs time. What is below has been asked for.
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
    let result = setTransparent(fd, domain);
    if (result < 0) return { call: "setsockopt", errno: -result };
    // A port that is chosen at connect(2) has to be free towards that upstream alone; where that is
    // refused, bind(2) chooses one. One that is given may have connections, towards others or in
    // TIME_WAIT.
    if (source.port === 0) sys.setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    else result = sys.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (result < 0) return { call: "setsockopt", errno: -result };
    result = bindTo(fd, source.address, source.port, 0);
    return result < 0 ? { call: "bind", errno: -result } : undefined;
  }
}

/** Errors of connect(2) whose cause is this host: no free port, no memory, its firewall. */
const ownFaults: readonly number[] = [EADDRNOTAVAIL, EPERM, ENOBUFS, ENOMEM];

/** Whether a failure is the upstream's: it has refused, or does not answer. */
export function isUpstreamsFault({ call, errno }: CallFailure): boolean {
  return call === "connect" && !ownFaults.includes(errno);
}

/**
 * The kernel behind whole connections: descriptors with the lowest free number, a bound on them,
 * edges that wait for the next turn of the loop, and upstreams that accept at once or late, refuse,
 * or say nothing.
 */

import { EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP } from "../../ffi/constants.ts";
import {
  type CallFailure,
  EADDRNOTAVAIL,
  EAGAIN,
  ECONNREFUSED,
  ECONNRESET,
  EMFILE,
  ENETUNREACH,
  ENOMEM,
} from "../../ffi/errno.ts";
import type { NativeBuffer } from "../../ffi/memory.ts";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import type { Fd } from "../../ffi/types.ts";
import type { Handler } from "../../src/engine/loop.ts";
import type { Dial } from "../../src/forward/dial.ts";
import type { ConnectionKernel } from "../../src/forward/tcp/connection-kernel.ts";
import { type Random, type SimulatedRelayKernel, Socket } from "./sockets.ts";

/** An address in 10.0.0.0/24. */
export function host(last: number, port: number): SocketAddress {
  return { address: Uint8Array.of(10, 0, 0, last), port, scopeId: 0 };
}

/** What an upstream does with a SYN. */
export type Behaviour = "accepts" | "accepts late" | "refuses" | "is silent" | "is unreachable";

/** A client's connection to the proxy. */
export class ClientSocket extends Socket {
  /** The PROXY protocol header that it sends before its stream, and how much of it is left. */
  headerLeft: Uint8Array = new Uint8Array(0);
  willReset = false;

  /** Sends a part of its header. */
  writeHeader(count: number): void {
    if (this.isReset || this.peerEnded) return;
    this.toRead.push(...this.headerLeft.subarray(0, count));
    this.headerLeft = this.headerLeft.subarray(count);
    this.arrive();
  }
}

/** A connection of the proxy to an upstream. */
export class UpstreamSocket extends Socket {
  readonly dial: Dial;
  readonly openedAt: number;
  readonly hopLimit: number;
  state: "connecting" | "connected" | "refused" = "connecting";
  /** When it is connected or refused, if it ever is. */
  private decidesAt: number;
  private willConnect: boolean;
  /** The proxy has asked why it was refused. */
  isToldRefusal = false;
  /** The PROXY protocol header that it was sent. */
  header: Uint8Array | undefined;
  willReset = false;

  constructor(dial: Dial, hopLimit: number, now: number, decidesAt: number, willConnect: boolean) {
    super();
    this.dial = dial;
    this.hopLimit = hopLimit;
    this.openedAt = now;
    this.decidesAt = decidesAt;
    this.willConnect = willConnect;
  }

  /** It is refused now, unless it is connected. */
  refuse(now: number): void {
    if (this.state !== "connecting") return;
    this.decidesAt = now;
    this.willConnect = false;
    this.progress(now);
  }

  /** Time has passed. */
  progress(now: number): void {
    if (this.state !== "connecting" || this.decidesAt > now) return;
    this.state = this.willConnect ? "connected" : "refused";
    this.edges |= EPOLLOUT;
    if (!this.willConnect) this.edges |= EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR;
  }
}

/** How the last attempt at an upstream went that has ended. */
export interface Attempt {
  readonly failure: CallFailure | undefined;
  readonly socket: UpstreamSocket | undefined;
}

interface Watched {
  readonly handler: Handler;
  readonly socket: Socket;
}

export class SimulatedConnectionKernel implements ConnectionKernel {
  now = 0;
  /** How many sockets may be open. */
  descriptorsMax = 100;
  lastAttempt: Attempt = { failure: undefined, socket: undefined };
  /** What an upstream with this port does. */
  readonly behaviours = new Map<number, Behaviour>();
  private readonly relayKernel: SimulatedRelayKernel;
  private readonly random: Random;
  private readonly watched = new Map<number, Watched>();
  /** Called before each call. */
  private readonly called: () => void;

  constructor(relayKernel: SimulatedRelayKernel, random: Random, called: () => void) {
    this.called = called;
    this.relayKernel = relayKernel;
    this.random = random;
  }

  get sockets(): ReadonlyMap<number, Socket> {
    return this.relayKernel.sockets;
  }

  get hasDescriptor(): boolean {
    return this.sockets.size < this.descriptorsMax;
  }

  /** A new socket gets the lowest number that is free. */
  add(socket: Socket): Fd {
    let fd = 3;
    while (this.sockets.has(fd)) fd++;
    this.relayKernel.sockets.set(fd, socket);
    return fd as Fd;
  }

  /** The descriptor of a socket in another process. */
  duplicate(fd: number): Fd {
    let other = 3;
    while (this.sockets.has(other)) other++;
    this.relayKernel.duplicate(fd, other);
    return other as Fd;
  }

  watch(fd: Fd, handler: Handler): number {
    this.called();
    const socket = this.relayKernel.socket(fd);
    if (this.watched.has(fd)) throw new Error(`descriptor ${fd} is watched twice`);
    if (this.random(500) === 0) return -ENOMEM;
    this.watched.set(fd, { handler, socket });
    const isConnected = !(socket instanceof UpstreamSocket) || socket.state === "connected";
    if (isConnected && !socket.waitsToWrite) socket.edges |= EPOLLOUT;
    if (socket.toRead.length > 0 || socket.peerEnded) socket.arrive();
    if (socket.isReset) socket.edges |= EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | EPOLLERR;
    return 0;
  }

  open(dial: Dial, hopLimit: number): Fd | CallFailure {
    this.called();
    const failure = this.refusal(dial);
    if (failure !== undefined) {
      this.lastAttempt = { failure, socket: undefined };
      return failure;
    }
    const behaviour = this.behaviours.get(dial.upstream.port) ?? "accepts";
    const isLate = behaviour === "accepts late" || this.random(3) === 0;
    const delay =
      behaviour === "is silent" ? Number.POSITIVE_INFINITY : this.random(isLate ? 1500 : 3);
    const willConnect = behaviour !== "refuses";
    const { now } = this;
    const socket = new UpstreamSocket(dial, hopLimit, now, now + delay, willConnect);
    socket.progress(now);
    return this.add(socket);
  }

  own(): void {
    this.called();
  }

  lend(fd: number): void {
    this.called();
    const isPipe = !this.sockets.has(fd);
    if (!isPipe && !this.watched.delete(fd)) throw new Error(`descriptor ${fd} is not watched`);
  }

  error(fd: Fd): number {
    this.called();
    return this.relayKernel.error(fd) || this.connectError(fd);
  }

  hasBytes(): boolean {
    throw new Error("no task here has fastOpen");
  }

  isConnecting(): boolean {
    return false;
  }

  peek(fd: Fd, buffer: NativeBuffer): number {
    this.called();
    const socket = this.relayKernel.socket(fd);
    if (socket.isReset) return -ECONNRESET;
    if (socket.toRead.length === 0) return socket.peerEnded ? 0 : -EAGAIN;
    const bytes = socket.toRead.slice(0, buffer.size);
    buffer.bytes.set(bytes);
    return bytes.length;
  }

  discard(fd: Fd, length: number, _buffer: NativeBuffer): void {
    this.called();
    // Not `discard` of the relay: these bytes are none of the stream.
    this.relayKernel.socket(fd).toRead.splice(0, length);
  }

  send(fd: Fd, buffer: NativeBuffer, length: number): number {
    this.called();
    const socket = this.relayKernel.socket(fd);
    if (!(socket instanceof UpstreamSocket)) throw new Error("a header for a client");
    if (socket.state !== "connected") throw new Error(`a header for what is ${socket.state}`);
    if (socket.header !== undefined || socket.relayed > 0) throw new Error("a header too late");
    if (socket.isReset) return -ECONNRESET;
    if (this.random(100) === 0) return length - 1;
    socket.header = buffer.bytes.slice(0, length);
    return length;
  }

  acknowledge(fd: Fd): void {
    this.called();
    const socket = this.relayKernel.socket(fd);
    if (socket.relayed > 0) throw new Error("what was sent has acknowledged it");
  }

  resetOnClose(fd: Fd): void {
    this.called();
    const socket = this.relayKernel.socket(fd) as ClientSocket | UpstreamSocket;
    socket.willReset = true;
  }

  close(fd: Fd): void {
    this.called();
    const socket = this.relayKernel.socket(fd);
    if (socket instanceof UpstreamSocket) this.lastAttempt = { failure: undefined, socket };
    this.watched.delete(fd);
    this.relayKernel.close(fd);
  }

  /** Has the sockets to upstreams that are due connected or refused. */
  progress(): void {
    for (const socket of this.sockets.values()) {
      if (socket instanceof UpstreamSocket) socket.progress(this.now);
    }
  }

  /** What one epoll_wait returns, and calls the handlers: none of what is closed meanwhile. */
  dispatch(): void {
    const ready = [...this.watched]
      .filter(([, { socket }]) => socket.edges !== 0)
      .map(([fd, watched]) => {
        const { edges } = watched.socket;
        watched.socket.edges = 0;
        return { fd, watched, edges };
      });
    if (this.random(2) === 0) ready.reverse();
    for (const { fd, watched, edges } of ready) {
      if (this.watched.get(fd) !== watched) continue;
      const { socket } = watched;
      if (edges & (EPOLLIN | EPOLLERR)) socket.toldEmpty = false;
      if (edges & (EPOLLOUT | EPOLLERR)) socket.toldFull = false;
      watched.handler.onReady(edges);
    }
  }

  private refusal({ upstream }: Dial): CallFailure | undefined {
    if (!this.hasDescriptor) return { call: "socket", errno: EMFILE };
    const behaviour = this.behaviours.get(upstream.port);
    if (behaviour === "is unreachable") return { call: "connect", errno: ENETUNREACH };
    if (this.random(60) === 0) return { call: "connect", errno: EADDRNOTAVAIL };
    return undefined;
  }

  private connectError(fd: Fd): number {
    const socket = this.relayKernel.socket(fd);
    if (!(socket instanceof UpstreamSocket) || socket.state !== "refused") return 0;
    if (socket.isToldRefusal) return 0;
    socket.isToldRefusal = true;
    return ECONNREFUSED;
  }
}

/**
 * A listener of `forward --udp`: takes what is queued in batches, finds each datagram's session and
 * hands over those of one session together, in the order in which they came.
 */

import { EPOLLIN, SO_ERROR, SO_MEMINFO, SOL_SOCKET } from "../../../ffi/constants.ts";
import { EAGAIN } from "../../../ffi/errno.ts";
import { sockaddr_in6 } from "../../../ffi/layout.ts";
import { allocate } from "../../../ffi/memory.ts";
import type { ReceiveBatch } from "../../../ffi/receive-batch.ts";
import { encodeSockaddr } from "../../../ffi/sockaddr.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd } from "../../../ffi/types.ts";
import { readKey } from "../../engine/flow-key.ts";
import {
  batchesPerTurn,
  drainedBatchesMax,
  listenerBufferBytes,
  newcomersByFill,
} from "../../engine/limits.ts";
import type { EventLoop, Handler } from "../../engine/loop.ts";
import { prepareForMuch } from "../../engine/udp-sockets.ts";
import type { ServedSocket } from "../../workers/protocol.ts";
import type { Session, SessionIngress } from "./session.ts";

/** What SO_MEMINFO begins with: the bytes that are queued for reading, and how many may be. */
const memory = allocate(2 * 4);
const memoryWords = memory.words();

/** What a listener needs of the service that it belongs to. */
export interface IngressOwner {
  readonly loop: EventLoop;
  /** Shared by all listeners: what is in it is used up before another one reads. */
  readonly arrivals: ReceiveBatch;
  /** For what a new socket of a session holds. */
  readonly strays: ReceiveBatch;
  /** The ends of the datagram, written before `sessionOf`. */
  readonly key: Uint32Array;
  /** UDP_GRO is of use: datagrams are not looked into, and get no header each. */
  readonly joins: boolean;
  /** The session of message `index`, begun if there is none; undefined: it goes nowhere. */
  sessionOf(ingress: UdpListener, index: number): Session | undefined;
  /** Whether `key` is that of the session. */
  isKeyOf(session: Session): boolean;
  /** Sends on the messages of `batch` from `head` on, each followed by what `after` says. */
  forwardChain(session: Session, batch: ReceiveBatch, head: number, after: Int32Array): void;
  /** What the socket to a session's client tells in the place of a datagram. */
  clientFailed(session: Session, errno: number): void;
  /** A datagram of which the kernel did not say where it was sent to. */
  unaddressed(): void;
}

export class UdpListener implements Handler, SessionIngress {
  readonly fd: Fd;
  readonly port: number;
  readonly domain: number;
  /** How often the queue has been seen empty. */
  emptied = 0;
  /** How many sessions the datagrams of the batch in hand may still begin. */
  private newcomers = Number.POSITIVE_INFINITY;
  private readonly owner: IngressOwner;
  /** What is being sent on. */
  private batch: ReceiveBatch;
  /** By message: the next one of the same session, -1 at its end. */
  private readonly after: Int32Array;
  /** The sessions of the batch. */
  private readonly touched: Session[] = [];
  /** Where the strays of a session's own socket were sent to, a socket address. */
  private readonly reached = new Uint32Array(sockaddr_in6.size / 4);

  constructor(owner: IngressOwner, socket: ServedSocket) {
    this.owner = owner;
    this.batch = owner.arrivals;
    this.fd = socket.fd as Fd;
    this.port = socket.port;
    this.domain = socket.domain;
    this.after = new Int32Array(owner.arrivals.capacity);
    prepareForMuch(this.fd, listenerBufferBytes, owner.joins);
    owner.loop.add(this.fd, EPOLLIN, this);
  }

  onReady(): void {
    for (let turn = 0; turn < batchesPerTurn; turn++) if (!this.take()) return;
  }

  /** Takes all that was queued before now. */
  drain(): void {
    for (let turn = 0; turn < drainedBatchesMax; turn++) if (!this.take()) return;
  }

  /**
   * Between bind and connect a session's own socket takes the datagrams of all who send to that
   * destination, and keeps what is queued then: so its queue is read once as that of a listener.
   * If others are in it, the listener has got nothing for that destination in that time, and what
   * it has is newer. Otherwise, with TPROXY, it has got all in that time, and what it has is older.
   * True if not all is read.
   */
  takeStrays(session: Session, fd: Fd): boolean {
    const { strays } = this.owner;
    const { address, port, scopeId } = session.start.reached;
    encodeSockaddr(new DataView(this.reached.buffer), 0, address, port, scopeId);
    for (let turn = 0; turn < drainedBatchesMax && !session.isEnded; turn++) {
      const count = strays.receive(fd);
      const isOlder = turn === 0 && this.emptied === session.emptiedBefore;
      if (isOlder && !this.hasOthers(session, count)) this.drain();
      if (count === -EAGAIN) return false;
      if (count < 0) this.owner.clientFailed(session, -count);
      else this.handOver(strays, count, this.reached);
      if (count >= 0 && count < strays.capacity) return false;
    }
    return true;
  }

  /**
   * Whether one more session may be begun. When more datagrams come than can be carried, those that
   * would begin sessions are the first to go: so what has a session does not lose its datagrams in
   * a queue that is full of others'.
   */
  admits(): boolean {
    return this.newcomers-- > 0;
  }

  close(): void {
    this.owner.loop.close(this.fd);
  }

  /** Sends on what the batch holds for one session. */
  flush(session: Session): void {
    if (session.head < 0) return;
    const { head } = session;
    session.head = -1;
    this.owner.forwardChain(session, this.batch, head, this.after);
  }

  /** Takes one batch; false when the queue is empty. */
  private take(): boolean {
    const { arrivals } = this.owner;
    const count = arrivals.receive(this.fd);
    if (count < 0) {
      // A queued error is taken so that it is not told again; the loop calls for what is behind it.
      if (count !== -EAGAIN) sys.getsockopt(this.fd, SOL_SOCKET, SO_ERROR);
      this.emptied++;
      return false;
    }
    const isFull = count === arrivals.capacity;
    this.newcomers = isFull ? this.newcomersNow() : Number.POSITIVE_INFINITY;
    this.handOver(arrivals, count, undefined);
    if (isFull) return true;
    this.emptied++;
    return false;
  }

  private newcomersNow(): number {
    const { address, size } = memory;
    const result = sys.getsockoptBytes(this.fd, SOL_SOCKET, SO_MEMINFO, address, size);
    const [queued = 0, room = 0] = memoryWords;
    if (result < 0 || room === 0) return Number.POSITIVE_INFINITY;
    for (const [fill, newcomers] of newcomersByFill) if (queued > fill * room) return newcomers;
    return Number.POSITIVE_INFINITY;
  }

  /** Whether one of the first `count` strays is of another client than the session's. */
  private hasOthers(session: Session, count: number): boolean {
    const { strays, key } = this.owner;
    for (let i = 0; i < count; i++) {
      const isRead = readKey(strays.names, strays.nameAt(i), this.reached, 0, key);
      if (isRead && !this.owner.isKeyOf(session)) return true;
    }
    return false;
  }

  /** Sends on the `count` messages of a batch, which were all for `reached` if that is known. */
  private handOver(batch: ReceiveBatch, count: number, reached: Uint32Array | undefined): void {
    this.batch = batch;
    for (let i = 0; i < count; i++) this.sort(i, reached);
    const { touched } = this;
    for (let i = 0; i < touched.length; i++) this.flush(touched[i] as Session);
    touched.length = 0;
  }

  /** Puts message `index` behind the others of its session. */
  private sort(index: number, reached: Uint32Array | undefined): void {
    const { owner, after, batch } = this;
    const { key } = owner;
    const { names, controls } = batch;
    const at = reached === undefined ? batch.destinationAt(index) : 0;
    if (at < 0 || !readKey(names, batch.nameAt(index), reached ?? controls, at, key)) {
      owner.unaddressed();
      return;
    }
    const session = owner.sessionOf(this, index);
    if (session === undefined) return;
    after[index] = -1;
    if (session.head < 0) {
      session.head = index;
      session.holder = this;
      this.touched.push(session);
    } else after[session.tail] = index;
    session.tail = index;
  }
}

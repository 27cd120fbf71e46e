/**
 * A listener of `forward --udp`: takes what is queued in batches, finds each datagram's session and
 * hands over those of one session together, in the order in which they came.
 */

import { EPOLLIN, SO_ERROR, SOL_SOCKET } from "../../ffi/constants.ts";
import { EAGAIN } from "../../ffi/errno.ts";
import type { ReceiveBatch } from "../../ffi/receive-batch.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import { batchesPerTurn, drainedBatchesMax, listenerBufferBytes } from "../engine/limits.ts";
import type { EventLoop, Handler } from "../engine/loop.ts";
import type { ServedSocket } from "../engine/protocol.ts";
import type { Session, SessionIngress } from "./session.ts";
import { readKey } from "./session-key.ts";
import { prepareForMuch } from "./session-sockets.ts";

/** What a listener needs of the service that it belongs to. */
export interface IngressOwner {
  readonly loop: EventLoop;
  /** Shared by all listeners: what is in it is used up before another one reads. */
  readonly arrivals: ReceiveBatch;
  /** The ends of the datagram, written before `sessionOf`. */
  readonly key: Uint32Array;
  /** UDP_GRO is of use: datagrams are not looked into, and get no header each. */
  readonly joins: boolean;
  /** The session of message `index`, begun if there is none; undefined: it goes nowhere. */
  sessionOf(ingress: Ingress, index: number): Session | undefined;
  /** Sends on the messages from `head` on, each followed by the one that `after` says. */
  forwardChain(session: Session, head: number, after: Int32Array): void;
  /** A datagram of which the kernel did not say where it was sent to. */
  unaddressed(): void;
}

export class Ingress implements Handler, SessionIngress {
  readonly fd: Fd;
  readonly port: number;
  readonly domain: number;
  /** How often the queue has been seen empty. */
  emptied = 0;
  private readonly owner: IngressOwner;
  /** By message: the next one of the same session, -1 at its end. */
  private readonly after: Int32Array;
  /** The sessions of the batch. */
  private readonly touched: Session[] = [];

  constructor(owner: IngressOwner, socket: ServedSocket) {
    this.owner = owner;
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

  close(): void {
    this.owner.loop.close(this.fd);
  }

  /** Sends on what the batch holds for one session. */
  flush(session: Session): void {
    if (session.head < 0) return;
    const { head } = session;
    session.head = -1;
    this.owner.forwardChain(session, head, this.after);
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
    for (let i = 0; i < count; i++) this.sort(i);
    const { touched } = this;
    for (let i = 0; i < touched.length; i++) this.flush(touched[i] as Session);
    touched.length = 0;
    if (count === arrivals.capacity) return true;
    this.emptied++;
    return false;
  }

  /** Puts message `index` behind the others of its session. */
  private sort(index: number): void {
    const { owner, after } = this;
    const { arrivals, key } = owner;
    const at = arrivals.destinationAt(index);
    const { names, controls } = arrivals;
    if (at < 0 || !readKey(names, arrivals.nameAt(index), controls, at, key)) {
      owner.unaddressed();
      return;
    }
    const session = owner.sessionOf(this, index);
    if (session === undefined) return;
    after[index] = -1;
    if (session.head < 0) {
      session.head = index;
      this.touched.push(session);
    } else after[session.tail] = index;
    session.tail = index;
  }
}

/**
 * One accepted connection of `listen`: reads, answers, closes.
 *
 * - reply: the first data, or the end of the peer's stream, gets the reply. Then our sending side
 *   is shut down and the peer is read to its end before the close: closing with unread bytes
 *   would send a reset, which can destroy the reply before the peer has read it.
 * - echo: every byte goes back. What the peer does not take stays in the kernel's receive queue
 *   (it is peeked at, sent, and only then consumed), so a stalled peer costs no memory of ours.
 * - discard: everything is read and nothing is sent.
 *
 * Level-triggered: a connection is watched for what it waits for and nothing else.
 */

import {
  EPOLLIN,
  EPOLLOUT,
  MSG_NOSIGNAL,
  MSG_PEEK,
  MSG_TRUNC,
  SHUT_WR,
} from "../../ffi/constants.ts";
import { EAGAIN, EINTR } from "../../ffi/errno.ts";
import type { NativeBuffer } from "../../ffi/memory.ts";
import * as sys from "../../ffi/sys.ts";
import type { Address, Fd } from "../../ffi/types.ts";
import { lingerBytes, lingerMs, readsPerTurn } from "../engine/limits.ts";
import type { EventLoop, Handler } from "../engine/loop.ts";
import { Timer } from "../engine/timers.ts";
import type { Applicant } from "../fairness/admission.ts";
import type { Flow } from "../fairness/stall-watch.ts";
import { Counter, type SharedState } from "../workers/counters.ts";
import { type End, ended, socketFailed } from "../workers/end-reason.ts";
import type { Responding } from "../workers/protocol.ts";

/** What a responder needs of the service that it belongs to. */
export interface ResponderOwner {
  readonly loop: EventLoop;
  readonly counters: SharedState;
  readonly answer: Responding;
  readonly idleTimeoutMs: number;
  /** Shared by all connections: valid until the next read. */
  readonly receiveBuffer: NativeBuffer;
  /** The reply, once for all connections; of size 0 if there is none. */
  readonly reply: { readonly address: Address; readonly size: number };
  /** `count` bytes from `connection` are in the receive buffer. */
  data(connection: Responder, count: number): void;
  closed(connection: Responder, end: End): void;
}

export class Responder implements Handler, Applicant, Flow {
  number = -1;
  readonly id: number;
  readonly client: string;
  readonly local: string;
  received = 0;
  sent = 0;
  private readonly service: ResponderOwner;
  readonly fd: Fd;
  /** As a flow: what is sent to the peer comes from the same socket, or from nowhere. */
  readonly from = this;
  readonly to = this;
  private readonly timer = new Timer(() => this.onTimer());
  lastActive: number;
  private interest = EPOLLIN;
  /** The peer has ended its stream. */
  private ended = false;
  /** reply: bytes not yet taken by the peer; -1 before the first data. */
  private replyLeft = -1;
  /** reply: given in full, our side is shut down, and only the peer's end is awaited. */
  private lingering = false;
  private lingered = 0;

  constructor(service: ResponderOwner, fd: Fd, id: number, client: string, local: string) {
    this.service = service;
    this.fd = fd;
    this.id = id;
    this.client = client;
    this.local = local;
    this.lastActive = service.loop.now;
    service.loop.timers.arm(this.timer, this.lastActive + service.idleTimeoutMs);
  }

  onReady(mask: number): void {
    this.lastActive = this.service.loop.now;
    if (this.replyLeft > 0) {
      if (!this.sendReply()) return;
      // Bytes that arrive behind the question are read after the reply.
      if (this.replyLeft > 0 && !(mask & EPOLLIN)) return;
    }
    // EPOLLERR and EPOLLHUP come unasked; reading tells what they mean.
    if (this.service.answer.kind === "echo") this.echo();
    else this.receive();
  }

  /** Closes what has been idle for this part of its time-out. */
  endIfIdle(part: number): void {
    const { loop, idleTimeoutMs } = this.service;
    if (!this.lingering && this.lastActive + part * idleTimeoutMs <= loop.now) {
      this.close(ended("idle-shortened"));
    }
  }

  get bytes(): number {
    return this.sent;
  }

  /** Closes and reports. The object is not used again. */
  close(end: End): void {
    this.service.loop.timers.disarm(this.timer);
    this.service.loop.close(this.fd);
    this.service.closed(this, end);
  }

  private receive(): void {
    const { receiveBuffer: buffer } = this.service;
    for (let turn = 0; turn < readsPerTurn; turn++) {
      if (this.ended) return;
      const count = sys.recv(this.fd, buffer.address, buffer.size, 0);
      if (count === -EAGAIN || count === -EINTR) return;
      if (count < 0) return this.close(socketFailed("client", -count));
      if (count === 0) return this.onEnd();
      this.took(count);
      if (this.lingering) {
        this.lingered += count;
        if (this.lingered > lingerBytes) return this.close(ended("done"));
      } else if (!this.answerOnce()) return;
      if (count < buffer.size) return;
    }
  }

  /** `count` bytes at the start of the receive buffer are ours. */
  private took(count: number): void {
    this.received += count;
    this.service.counters.count(Counter.clientBytes, count);
    this.service.data(this, count);
  }

  private onEnd(): void {
    this.ended = true;
    if (this.lingering || this.service.answer.kind === "discard") {
      return this.close(ended("done", this.lingering ? "proxy" : "client"));
    }
    if (this.answerOnce() && this.replyLeft > 0) this.watch(EPOLLOUT);
  }

  /** Begins the reply if there is one and it has not begun; false when the connection is gone. */
  private answerOnce(): boolean {
    if (this.service.answer.kind === "discard" || this.replyLeft >= 0) return true;
    this.replyLeft = this.service.reply.size;
    return this.sendReply();
  }

  /** Sends what is left of the reply; false when the connection is gone. */
  private sendReply(): boolean {
    const { reply } = this.service;
    while (this.replyLeft > 0) {
      const taken = this.send(reply.address + reply.size - this.replyLeft, this.replyLeft);
      if (taken === -EAGAIN) {
        this.watch(this.ended ? EPOLLOUT : EPOLLIN | EPOLLOUT);
        return true;
      }
      if (taken < 0) return false;
      this.replyLeft -= taken;
    }
    if (this.ended) {
      this.close(ended("done", "client"));
      return false;
    }
    this.lingering = true;
    sys.shutdown(this.fd, SHUT_WR);
    this.service.loop.timers.arm(this.timer, this.service.loop.now + lingerMs);
    this.watch(EPOLLIN);
    return true;
  }

  private echo(): void {
    const { receiveBuffer: buffer } = this.service;
    for (let turn = 0; turn < readsPerTurn; turn++) {
      const count = sys.recv(this.fd, buffer.address, buffer.size, MSG_PEEK);
      if (count === -EAGAIN || count === -EINTR) return this.watch(EPOLLIN);
      if (count < 0) return this.close(socketFailed("client", -count));
      if (count === 0) return this.close(ended("done", "client"));
      const taken = this.send(buffer.address, count);
      // The peer takes no more: look again when it does, and leave the rest in the queue.
      if (taken === -EAGAIN) return this.watch(EPOLLOUT);
      if (taken < 0) return;
      sys.recv(this.fd, buffer.address, taken, MSG_TRUNC);
      this.took(taken);
      if (taken < count) return this.watch(EPOLLOUT);
    }
    this.watch(EPOLLIN);
  }

  /** Bytes taken, -EAGAIN, or another negated errno after which the connection is closed. */
  private send(address: Address, length: number): number {
    const taken = sys.send(this.fd, address, length, MSG_NOSIGNAL);
    if (taken >= 0) {
      this.sent += taken;
      this.service.counters.count(Counter.upstreamBytes, taken);
      return taken;
    }
    if (taken === -EAGAIN || taken === -EINTR) return -EAGAIN;
    this.close(socketFailed("client", -taken));
    return taken;
  }

  private watch(interest: number): void {
    if (interest === this.interest) return;
    this.interest = interest;
    this.service.loop.modify(this.fd, interest);
  }

  /** Activity only notes the time; the timer looks at it when it fires, and arms itself again. */
  private onTimer(): void {
    if (this.lingering) return this.close(ended("done"));
    const { loop, idleTimeoutMs } = this.service;
    const deadline = this.lastActive + idleTimeoutMs;
    if (deadline > loop.now) loop.timers.arm(this.timer, deadline);
    else this.close(ended("idle-timeout"));
  }
}

/**
 * One accepted connection of `listen`: reads, answers, closes.
 *
 * - reply: the first data, or the end of the client's stream, gets the reply. Then we shut down
 *   our sending side, and read to the end of the client's stream before the close: to close with
 *   unread bytes would send a reset, which can destroy the reply before the client has read it.
 * - echo: every byte goes back. Bytes that the client does not take stay in the kernel's receive
 *   queue (peeked at, sent, and only then consumed), so a stalled client costs no memory of ours.
 * - discard: we read everything and send nothing.
 *
 * Level-triggered: a connection has only the epoll events that it waits for.
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
import { Counter, type CounterBlock } from "../workers/counters.ts";
import { type End, ended, socketFailed } from "../workers/end-reason.ts";
import type { Responding } from "../workers/protocol.ts";

/** The service of a responder, as far as the responder uses it. */
export interface ResponderOwner {
  readonly loop: EventLoop;
  readonly counters: CounterBlock;
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
  /** As a flow: the bytes to the client come from the same socket, or from memory. */
  readonly from = this;
  readonly to = this;
  private readonly timer = new Timer(() => this.onTimer());
  lastActive: number;
  private interest = EPOLLIN;
  /** The client has ended its stream. */
  private ended = false;
  /** reply: bytes not yet taken by the client; -1 before the first data. */
  private replyLeft = -1;
  /** reply: sent in full, our side is shut down, and the client's end of stream is awaited. */
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
    // EPOLLERR and EPOLLHUP come unasked; recv(2) returns their error.
    if (this.service.answer.kind === "echo") this.echo();
    else this.receive();
  }

  /** Closes the connection if it has been idle for this part of its time-out. */
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

  /** Counts and logs the first `count` bytes of the receive buffer. */
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

  /** Begins the reply if there is one and it has not begun; returns false after a close. */
  private answerOnce(): boolean {
    if (this.service.answer.kind === "discard" || this.replyLeft >= 0) return true;
    this.replyLeft = this.service.reply.size;
    return this.sendReply();
  }

  /** Sends the rest of the reply; returns false after a close. */
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
      // The client takes no more for now: the rest stays in the queue.
      if (taken === -EAGAIN) return this.watch(EPOLLOUT);
      if (taken < 0) return;
      sys.recv(this.fd, buffer.address, taken, MSG_TRUNC);
      this.took(taken);
      if (taken < count) return this.watch(EPOLLOUT);
    }
    this.watch(EPOLLIN);
  }

  /** Returns the bytes taken, -EAGAIN, or another negated errno after a close. */
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

  /** Activity only notes the time; when the timer fires, it compares, and arms itself again. */
  private onTimer(): void {
    if (this.lingering) return this.close(ended("done"));
    const { loop, idleTimeoutMs } = this.service;
    const deadline = this.lastActive + idleTimeoutMs;
    if (deadline > loop.now) loop.timers.arm(this.timer, deadline);
    else this.close(ended("idle-timeout"));
  }
}

/**
 * Lines of standard input as datagrams to one address, and the replies: `bind --udp --to`. The
 * socket is bound to its source and connected, so that the kernel reports ICMP errors (udp(7)).
 */

import { EPOLLIN, EPOLLOUT, MSG_NOSIGNAL } from "../../ffi/constants.ts";
import { EAGAIN, ECONNREFUSED, EINTR, EMSGSIZE } from "../../ffi/errno.ts";
import { allocate } from "../../ffi/memory.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import { datagramBytesMax, datagramsPerTurn } from "../engine/limits.ts";
import type { Handler } from "../engine/loop.ts";
import { StandardInput } from "../engine/stdio.ts";
import { Timer } from "../engine/timers.ts";
import { Counter } from "../workers/counters.ts";
import type { DatagramTask } from "../workers/protocol.ts";
import type { Service, ServiceContext } from "../workers/service-context.ts";

const NEWLINE = 0x0a;

export class StdioDatagrams implements Service, Handler {
  private readonly context: ServiceContext;
  private readonly task: DatagramTask;
  private readonly fd: Fd;
  private readonly input: StandardInput;
  private readonly timer: Timer;
  private readonly received = allocate(datagramBytesMax);
  /** Input not yet sent: whole lines, then the beginning of one. */
  private readonly pending = allocate(2 * datagramBytesMax);
  private length = 0;
  private ended = false;
  private interest = EPOLLIN;
  private refused = false;
  /** A line is longer than any datagram: the rest of it is skipped. */
  private skipping = false;

  constructor(context: ServiceContext, task: DatagramTask) {
    this.context = context;
    this.task = task;
    this.fd = task.fd as Fd;
    this.timer = new Timer(() => this.finish());
    this.input = new StandardInput(context.loop, () => this.readInput());
    context.loop.add(this.fd, EPOLLIN, this);
    if (task.payload === undefined) {
      this.input.want();
      return;
    }
    this.ended = true;
    this.pending.bytes.set(task.payload);
    this.length = task.payload.length;
    if (this.send(0, this.length)) this.length = 0;
    this.awaitReplies();
  }

  onReady(mask: number): void {
    if (mask & EPOLLOUT) this.sendLines();
    if (mask & ~EPOLLOUT) this.receive();
  }

  stop(): void {
    this.finish();
  }

  private receive(): void {
    for (let turn = 0; turn < datagramsPerTurn; turn++) {
      const count = sys.recv(this.fd, this.received.address, this.received.size, 0);
      if (count === -EAGAIN || count === -EINTR) return;
      this.awaitReplies();
      if (count < 0) {
        this.fault(-count);
        return;
      }
      this.context.shared.count(Counter.datagrams, 1);
      this.context.shared.count(Counter.upstreamBytes, count);
      this.context.report({ kind: "received", bytes: this.received.bytes.slice(0, count) });
    }
  }

  private readInput(): void {
    const count = this.input.read(this.pending, this.length);
    if (count === -EINTR || count === -EAGAIN) return;
    if (count > 0) this.length += count;
    else {
      this.ended = true;
      this.input.rest();
    }
    this.sendLines();
  }

  /** Sends every whole line, and at the end of the input also one without its newline. */
  private sendLines(): void {
    const { bytes } = this.pending;
    let start = 0;
    while (start < this.length) {
      let end = bytes.indexOf(NEWLINE, start);
      const whole = end >= 0 && end < this.length;
      if (!whole) {
        if (!this.ended) break;
        end = this.length;
      }
      if (!this.skipping && !this.send(start, end - start)) break;
      if (whole) this.skipping = false;
      start = whole ? end + 1 : end;
    }
    bytes.copyWithin(0, start, this.length);
    this.length -= start;
    this.dropOverlong();
    if (this.ended && this.length === 0) this.awaitReplies();
  }

  private dropOverlong(): void {
    if (this.length <= datagramBytesMax || this.pending.bytes.indexOf(NEWLINE) >= 0) return;
    if (!this.skipping) this.fault(EMSGSIZE);
    this.skipping = true;
    this.length = 0;
  }

  /** False: the socket takes none now, and the rest waits for EPOLLOUT. */
  private send(from: number, length: number): boolean {
    const result = sys.send(this.fd, this.pending.address + from, length, MSG_NOSIGNAL);
    if (result === -EAGAIN) {
      this.input.rest();
      this.watch(EPOLLIN | EPOLLOUT);
      return false;
    }
    this.watch(EPOLLIN);
    if (!this.ended) this.input.want();
    if (result < 0) {
      // An error queued by an earlier datagram is told here, and this one was not sent.
      const again = result === -ECONNREFUSED || result === -EINTR;
      this.fault(-result);
      if (again) sys.send(this.fd, this.pending.address + from, length, MSG_NOSIGNAL);
    } else this.context.shared.count(Counter.clientBytes, result);
    return true;
  }

  private fault(errno: number): void {
    this.context.shared.count(Counter.failed, 1);
    if (errno === ECONNREFUSED) this.refused = true;
    this.context.report({ kind: "fault", errno });
  }

  /** Once the input has ended, each reply buys the next one the same time. */
  private awaitReplies(): void {
    if (!this.ended) return;
    this.context.loop.timers.arm(this.timer, this.context.loop.now + this.task.timeoutMs);
  }

  private watch(interest: number): void {
    if (interest === this.interest) return;
    this.interest = interest;
    this.context.loop.modify(this.fd, interest);
  }

  private finish(): void {
    this.input.rest();
    this.context.loop.timers.disarm(this.timer);
    this.context.loop.close(this.fd);
    this.context.finish(this.refused ? ECONNREFUSED : 0, this.refused ? "send" : "");
  }
}

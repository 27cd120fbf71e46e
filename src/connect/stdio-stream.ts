/**
 * Standard input and output over one TCP connection, as `nc` does: `bind --tcp --to`.
 *
 * Two directions with a buffer each. A direction reads only into an empty buffer, so a slow reader
 * slows its own sender. The end of one side's input is passed on as a half-close, and the
 * other direction goes on; both ended, the task is done.
 */

import {
  EPOLLIN,
  EPOLLOUT,
  MSG_NOSIGNAL,
  SHUT_WR,
  SO_ERROR,
  SOL_SOCKET,
} from "../../ffi/constants.ts";
import { EAGAIN, EINTR, ETIMEDOUT } from "../../ffi/errno.ts";
import { allocate, type NativeBuffer } from "../../ffi/memory.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import { receiveBytes } from "../engine/limits.ts";
import type { Handler } from "../engine/loop.ts";
import { StandardInput, StandardOutput } from "../engine/stdio.ts";
import { Timer } from "../engine/timers.ts";
import { Counter } from "../workers/counters.ts";
import type { PipeTask } from "../workers/protocol.ts";
import type { Service, ServiceContext } from "../workers/service-context.ts";

/** One direction: what has been read and not yet written. */
interface StreamDirection {
  readonly buffer: NativeBuffer;
  from: number;
  to: number;
  /** No more will be read. */
  ended: boolean;
  /** The end has been passed on. */
  closed: boolean;
}

export class StdioStream implements Service, Handler {
  private readonly context: ServiceContext;
  private readonly task: PipeTask;
  private readonly fd: Fd;
  private readonly input: StandardInput;
  private readonly output: StandardOutput;
  private readonly timer = new Timer(() =>
    this.fail(ETIMEDOUT, this.connected ? "idle" : "connect"),
  );
  private readonly outward = direction();
  private readonly inward = direction();
  private connected = false;
  private finished = false;
  private interest = EPOLLOUT;

  constructor(context: ServiceContext, task: PipeTask) {
    this.context = context;
    this.task = task;
    this.fd = task.fd as Fd;
    this.input = new StandardInput(context.loop, () => this.readInput());
    this.output = new StandardOutput(context.loop, () => this.writeOutput());
    context.loop.add(this.fd, EPOLLOUT, this);
    context.loop.timers.arm(this.timer, context.loop.now + task.connectTimeoutMs);
  }

  onReady(mask: number): void {
    if (!this.connected && !this.connect()) return;
    if (mask & EPOLLOUT) this.writeSocket();
    if (mask & ~EPOLLOUT && !this.finished) this.readSocket();
  }

  stop(): void {
    this.finish(0, "");
  }

  private connect(): boolean {
    const error = sys.getsockopt(this.fd, SOL_SOCKET, SO_ERROR);
    if (error !== 0) {
      this.fail(Math.abs(error), "connect");
      return false;
    }
    this.connected = true;
    this.context.loop.timers.disarm(this.timer);
    this.context.report({ kind: "connected" });
    this.input.want();
    this.active();
    this.watch();
    return true;
  }

  private readInput(): void {
    const { outward } = this;
    const count = this.input.read(outward.buffer, 0);
    if (count === -EINTR || count === -EAGAIN) return;
    this.active();
    outward.from = 0;
    outward.to = Math.max(count, 0);
    if (count <= 0) outward.ended = true;
    this.input.rest();
    this.writeSocket();
  }

  private writeSocket(): void {
    const { outward } = this;
    while (outward.from < outward.to) {
      const address = outward.buffer.address + outward.from;
      const taken = sys.send(this.fd, address, outward.to - outward.from, MSG_NOSIGNAL);
      if (taken === -EAGAIN) return this.watch();
      if (taken === -EINTR) continue;
      if (taken < 0) return this.fail(-taken, "send");
      outward.from += taken;
      this.context.shared.count(Counter.clientBytes, taken);
      this.active();
    }
    if (outward.ended && !outward.closed) {
      outward.closed = true;
      sys.shutdown(this.fd, SHUT_WR);
    } else if (!outward.ended) this.input.want();
    this.watch();
    this.finishWhenDone();
  }

  private readSocket(): void {
    const { inward } = this;
    if (inward.ended || inward.from < inward.to) return;
    const count = sys.recv(this.fd, inward.buffer.address, inward.buffer.size, 0);
    if (count === -EAGAIN || count === -EINTR) return;
    if (count < 0) return this.fail(-count, "recv");
    this.active();
    this.context.shared.count(Counter.upstreamBytes, count);
    if (count === 0) {
      inward.ended = true;
      this.watch();
      return this.finishWhenDone();
    }
    if (this.task.report) {
      this.context.report({ kind: "received", bytes: inward.buffer.bytes.slice(0, count) });
      return;
    }
    inward.from = 0;
    inward.to = count;
    this.watch();
    this.output.want();
  }

  private writeOutput(): void {
    const { inward } = this;
    const taken = this.output.write(inward.buffer.address + inward.from, inward.to - inward.from);
    if (taken < 0 && taken !== -EINTR && taken !== -EAGAIN) return this.fail(-taken, "write");
    if (taken > 0) inward.from += taken;
    if (inward.from < inward.to) return this.output.want();
    this.watch();
    this.finishWhenDone();
  }

  private finishWhenDone(): void {
    const flushed = this.inward.from === this.inward.to;
    if (this.inward.ended && flushed && this.outward.closed) this.finish(0, "");
  }

  private fail(errno: number, call: string): void {
    this.finish(errno, call);
  }

  private finish(errno: number, call: string): void {
    if (this.finished) return;
    this.finished = true;
    this.input.rest();
    this.output.rest();
    this.context.loop.timers.disarm(this.timer);
    this.context.loop.close(this.fd);
    this.context.finish(errno, call);
  }

  /** Watches the socket for just what can go on; EPOLLERR and EPOLLHUP would come unasked. */
  private watch(): void {
    if (this.finished) return;
    const { inward, outward } = this;
    const wantsRead = !inward.ended && inward.from === inward.to;
    const interest = (wantsRead ? EPOLLIN : 0) | (outward.from < outward.to ? EPOLLOUT : 0);
    if (interest === this.interest) return;
    const { loop } = this.context;
    if (interest === 0) loop.remove(this.fd);
    else if (this.interest === 0) loop.add(this.fd, interest, this);
    else loop.modify(this.fd, interest);
    this.interest = interest;
  }

  private active(): void {
    if (this.task.idleTimeoutMs === 0 || this.finished) return;
    this.context.loop.timers.arm(this.timer, this.context.loop.now + this.task.idleTimeoutMs);
  }
}

function direction(): StreamDirection {
  return { buffer: allocate(receiveBytes), from: 0, to: 0, ended: false, closed: false };
}

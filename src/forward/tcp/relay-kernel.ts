/** The kernel behind a relay: the calls of `ffi/sys.ts`, one shared buffer, a pool of pipes. */

import {
  F_GETPIPE_SZ,
  F_SETPIPE_SZ,
  IPPROTO_TCP,
  MSG_MORE,
  MSG_NOSIGNAL,
  MSG_PEEK,
  MSG_TRUNC,
  O_NONBLOCK,
  SHUT_WR,
  SO_ERROR,
  SOL_SOCKET,
  SPLICE_F_MORE,
  SPLICE_F_MOVE,
  SPLICE_F_NONBLOCK,
  TCP_NODELAY,
} from "../../../ffi/constants.ts";
import {
  EAGAIN,
  EINPROGRESS,
  EINTR,
  EINVAL,
  ENOSYS,
  EOPNOTSUPP,
  EPERM,
} from "../../../ffi/errno.ts";
import { allocate } from "../../../ffi/memory.ts";
import { refused } from "../../../ffi/refused-calls.ts";
import * as sys from "../../../ffi/sys.ts";
import { pipeBytes, receiveBytes, wideEarnedBytes } from "../../engine/limits.ts";
import type { EventLoop } from "../../engine/loop.ts";
import { Spares } from "../../engine/spares.ts";
import type { TurnBudget } from "../../engine/turn-budget.ts";
import type { Pipe } from "./direction.ts";
import type { RelayKernel } from "./relay.ts";
import type { StreamBuffers } from "./stream-buffers.ts";

const SPLICE_FLAGS = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;

interface SizedPipe extends Pipe {
  readonly bytes: number;
  /** Bytes that precede those in the pipe, where bytes are copied out of it. */
  rest: Uint8Array | undefined;
}

/** Errors by which a sandbox rejects a call. */
const spliceRefusals: ReadonlySet<number> = new Set([EPERM, ENOSYS, EINVAL, EOPNOTSUPP]);

/** Watches the pool of pipes. */
export interface PipeWatcher {
  /** The number of pipes has changed by `change`. */
  pipesChanged(change: number): void;
  /** No pipe was available: bytes are copied until one is free. */
  pipeRefused(): void;
  /** splice(2) is not allowed here: bytes are always copied. */
  spliceRefused(errno: number): void;
}

const copyBuffers = new Spares(() => allocate(receiveBytes));

export class SystemKernel implements RelayKernel {
  readonly bufferBytes = receiveBytes;
  readonly earnedBytes = wideEarnedBytes;
  private readonly buffer = copyBuffers.take();
  private readonly idle: SizedPipe[] = [];
  private readonly pipesMax: number;
  private pipes = 0;
  /** splice(2) may be used. */
  private splices = refused.splice === 0;
  /** No pipe is available: all are in use, or no descriptors or pages are left (pipe(7)). */
  private refused = false;

  private readonly watcher: PipeWatcher;
  private readonly budget: TurnBudget;
  private readonly buffers: StreamBuffers;

  /** `pipesMax`: pipes that this thread may have at once, two descriptors each. */
  constructor(
    pipesMax: number,
    watcher: PipeWatcher,
    { budget }: Pick<EventLoop, "budget">,
    buffers: StreamBuffers,
  ) {
    this.buffers = buffers;
    this.pipesMax = pipesMax;
    this.watcher = watcher;
    this.budget = budget;
  }

  get bytesPerTurn(): number {
    return this.budget.streamBytes;
  }

  carried(bytes: number): void {
    this.budget.carried(bytes);
  }

  recv(fd: number, offset: number): number {
    for (;;) {
      const count = sys.recv(fd, this.buffer.address + offset, receiveBytes - offset, 0);
      if (count !== -EINTR) return count;
    }
  }

  peek(fd: number): number {
    for (;;) {
      const count = sys.recv(fd, this.buffer.address, receiveBytes, MSG_PEEK);
      if (count !== -EINTR) return count;
    }
  }

  discard(fd: number, length: number): number {
    return sys.recv(fd, this.buffer.address, length, MSG_TRUNC);
  }

  send(fd: number, offset: number, length: number, more: boolean): number {
    const flags = more ? MSG_NOSIGNAL | MSG_MORE : MSG_NOSIGNAL;
    for (;;) {
      const taken = sys.send(fd, this.buffer.address + offset, length, flags);
      if (taken >= 0) return taken;
      // The SYN went without the bytes, which may follow (`Dial.fastOpen`).
      if (taken === -EINPROGRESS) return -EAGAIN;
      if (taken !== -EINTR) return taken;
    }
  }

  fill(pipe: Pipe, offset: number, length: number): number {
    for (;;) {
      const taken = sys.write(pipe.writeEnd, this.buffer.address + offset, length);
      if (taken !== -EINTR) return taken;
    }
  }

  spliceIn(fd: number, pipe: Pipe): number {
    while (this.splices) {
      const count = sys.splice(fd, pipe.writeEnd, this.bytesPerTurn, SPLICE_FLAGS);
      if (count !== -EINTR && !this.isRefusal(-count)) return count;
    }
    const count = this.recv(fd, 0);
    if (count <= 0) return count;
    const kept = this.fill(pipe, 0, count);
    return kept < 0 ? kept : count;
  }

  spliceOut(pipe: Pipe, fd: number, length: number, more: boolean): number {
    const flags = more ? SPLICE_FLAGS | SPLICE_F_MORE : SPLICE_FLAGS;
    while (this.splices) {
      const taken = sys.splice(pipe.readEnd, fd, length, flags);
      if (taken !== -EINTR && !this.isRefusal(-taken)) return taken;
    }
    return this.copyOut(pipe as SizedPipe, fd, length, more);
  }

  /**
   * Whether a sandbox (seccomp, gVisor) rejects splice(2) itself. From then on bytes are copied
   * into and out of pipes.
   */
  private isRefusal(errno: number): boolean {
    if (!spliceRefusals.has(errno)) return false;
    this.splices = false;
    this.watcher.spliceRefused(errno);
    return true;
  }

  /** Bytes that were read from the pipe and that the receiver did not take are kept beside it. */
  private copyOut(pipe: SizedPipe, fd: number, length: number, more: boolean): number {
    let rest = pipe.rest;
    if (rest === undefined) {
      const count = this.take(pipe, Math.min(length, receiveBytes));
      if (count < 0) return count;
      rest = this.buffer.bytes.slice(0, count);
    } else this.buffer.bytes.set(rest);
    const taken = this.send(fd, 0, rest.length, more || rest.length < length);
    const done = Math.max(0, taken);
    pipe.rest = done < rest.length ? rest.subarray(done) : undefined;
    return taken;
  }

  private take(pipe: Pipe, length: number): number {
    for (;;) {
      const count = sys.read(pipe.readEnd, this.buffer.address, length);
      if (count !== -EINTR) return count;
    }
  }

  /** Setting TCP_NODELAY again sends what MSG_MORE has held back (tcp(7), TCP_CORK). */
  push(fd: number): void {
    sys.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  }

  error(fd: number): number {
    return Math.max(0, sys.getsockopt(fd, SOL_SOCKET, SO_ERROR));
  }

  shutdown(fd: number): void {
    sys.shutdown(fd, SHUT_WR);
  }

  begin(from: number, to: number): void {
    this.buffers.begin(from, to);
  }

  widen(from: number, to: number): boolean {
    return this.buffers.widen(from, to);
  }

  narrow(): void {
    this.buffers.narrow();
  }

  /** Makes the pipe here, so that `takePipe` cannot fail once bytes have been read. */
  hasPipe(): boolean {
    if (this.idle.length > 0) return true;
    if (this.refused) return false;
    const pipe = this.pipes < this.pipesMax ? this.makePipe() : undefined;
    if (pipe === undefined) {
      this.refused = true;
      this.watcher.pipeRefused();
      return false;
    }
    this.idle.push(pipe);
    return true;
  }

  takePipe(): Pipe | undefined {
    return this.hasPipe() ? this.idle.pop() : undefined;
  }

  givePipe(pipe: Pipe): void {
    this.idle.push(pipe as SizedPipe);
    this.refused = false;
  }

  dropPipe(pipe: Pipe): void {
    sys.close(pipe.readEnd);
    sys.close(pipe.writeEnd);
    this.pipes--;
    this.watcher.pipesChanged(-1);
    this.refused = false;
  }

  holdsAll(pipe: Pipe): boolean {
    return (pipe as SizedPipe).rest === undefined;
  }

  adoptPipe(readEnd: number, writeEnd: number): Pipe {
    this.pipes++;
    this.watcher.pipesChanged(1);
    const bytes = sys.fcntl(writeEnd, F_GETPIPE_SZ, 0);
    return { readEnd, writeEnd, bytes, rest: undefined } as SizedPipe;
  }

  /** A connection has ended: descriptors for another pipe may be free again. */
  hopeForPipes(): void {
    if (this.pipes < this.pipesMax) this.refused = false;
  }

  /**
   * Closes the idle pipes: connections need their descriptors more. No pipe is opened before a
   * connection has ended.
   */
  closeIdle(): void {
    for (const pipe of this.idle.splice(0)) this.dropPipe(pipe);
    this.refused = true;
  }

  /** Closes the pool. */
  close(): void {
    this.closeIdle();
    copyBuffers.give(this.buffer);
  }

  private makePipe(): SizedPipe | undefined {
    const ends = sys.pipe(O_NONBLOCK);
    if (typeof ends === "number") return undefined;
    const [readEnd, writeEnd] = ends;
    const raised = sys.fcntl(writeEnd, F_SETPIPE_SZ, pipeBytes);
    const bytes = raised > 0 ? raised : sys.fcntl(writeEnd, F_GETPIPE_SZ, 0);
    if (bytes >= receiveBytes) {
      this.pipes++;
      this.watcher.pipesChanged(1);
      return { readEnd, writeEnd, bytes, rest: undefined };
    }
    // A user over the soft limit of pipe pages gets pipes too small for a whole read.
    sys.close(readEnd);
    sys.close(writeEnd);
    return undefined;
  }
}

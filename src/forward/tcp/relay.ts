/**
 * Relays one TCP connection to another: two directions over the same two sockets.
 *
 * # Theory of operation
 *
 * Both sockets are registered once, edge-triggered. An edge sets a side's `readable` or `writable`,
 * and `run` moves bytes until each direction lacks one of them. A read that leaves room has emptied
 * the queue (epoll(7)), so no call is made that could only return EAGAIN. A queue that looks empty
 * may hide two things, which have edges of their own: the end of the stream (EPOLLRDHUP), and the
 * bytes behind an urgent byte (EPOLLPRI), before which each read stops.
 *
 * A direction starts by copying: `recv` into the buffer that the whole Worker shares, and `send`
 * at once, two system calls a message. A read that fills the buffer, or a send that takes only a
 * part, makes the direction splice, past user space. It has a pipe only while that holds bytes: an
 * idle connection owns its two sockets and nothing more. When the reads are small again it copies.
 * Without a free pipe the direction reads with MSG_PEEK, sends, and then removes from the queue the
 * bytes that were sent, so it stores nothing.
 *
 * The end of a stream is passed on as a half-close after all bytes before it. When both directions
 * have ended, both sockets are closed without a half-close. Bytes that more bytes or the end will
 * follow are sent with MSG_MORE, so that packets are as large as possible; if nothing follows after
 * all, the relay pushes the bytes that the kernel holds back. An error of one side ends both, and
 * the other side gets RST: it has not received everything, and must not see a clean end.
 */

import {
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLOUT,
  EPOLLPRI,
  EPOLLRDHUP,
} from "../../../ffi/constants.ts";
import { EAGAIN } from "../../../ffi/errno.ts";
import { wideAgainTimes } from "../../engine/limits.ts";
import { Direction, holdsBytes, type Pipe, type Side, side } from "./direction.ts";

/**
 * The calls of a relay. They return a number of bytes, 0 at the end, or a negated errno, as those
 * of `ffi/sys.ts`, but never -EINTR: they retry.
 */
export interface RelayKernel {
  /** Reads into the shared buffer at `offset`; fewer bytes than fit: the queue is empty. */
  recv(fd: number, offset: number): number;
  /** Reads into the shared buffer and leaves the bytes in the socket's queue. */
  peek(fd: number): number;
  /** Removes `length` bytes from the socket's queue. */
  discard(fd: number, length: number): number;
  /** Sends from the shared buffer at `offset`; `more`: more bytes or the end follow at once. */
  send(fd: number, offset: number, length: number, more: boolean): number;
  /** Writes bytes of the shared buffer into an empty pipe. */
  fill(pipe: Pipe, offset: number, length: number): number;
  /** Moves bytes from a socket into an empty pipe. */
  spliceIn(fd: number, pipe: Pipe): number;
  /** Moves `length` bytes from a pipe to a socket; `more`: as for `send`. */
  spliceOut(pipe: Pipe, fd: number, length: number, more: boolean): number;
  /** Sends the bytes that the kernel holds back because of `more`. */
  push(fd: number): void;
  /** Returns and clears the pending error of a socket (SO_ERROR), positive; 0 for none. */
  error(fd: number): number;
  /** Ends our side of a socket's stream. */
  shutdown(fd: number): void;
  /** Whether `takePipe` would return a pipe. */
  hasPipe(): boolean;
  /** An empty pipe that holds at least `bufferBytes`, or undefined. */
  takePipe(): Pipe | undefined;
  /** Returns an empty pipe to the pool. */
  givePipe(pipe: Pipe): void;
  /** Closes a pipe that may not be empty. */
  dropPipe(pipe: Pipe): void;
  /** Whether none of the bytes that a direction holds is outside its pipe. */
  holdsAll(pipe: Pipe): boolean;
  /** A pipe of another process, which this one goes on with and owns. */
  adoptPipe(readEnd: number, writeEnd: number): Pipe;
  /** A stream has begun: one socket receives much, or the other does not take all. */
  begin(from: number, to: number): void;
  /** Asks for larger buffers for a stream. If it gets them, `narrow` is called at its end. */
  widen(from: number, to: number): boolean;
  narrow(): void;
  /** How many bytes the shared buffer holds. */
  readonly bufferBytes: number;
  /** A stream asks to be widened once it has carried this many bytes. */
  readonly earnedBytes: number;
  /** The most bytes of one direction that one turn moves. */
  readonly bytesPerTurn: number;
  /** One direction has moved so many bytes in this turn, at least a buffer. */
  carried(bytes: number): void;
}

/** The result of a turn. */
export type RelayState = "open" | "more" | "done" | "failed";

/** The budget of one direction for one turn. */
const readsPerTurn = 16;
const smallReadsMax = 4;

export class Relay {
  private readonly kernel: RelayKernel;
  private readonly client: Side;
  private readonly upstream: Side;
  private readonly outward: Direction;
  private readonly inward: Direction;
  /** The errno that ended it, positive; 0 if none did. */
  errno = 0;
  /** Whose stream ended first. */
  firstEnd: "client" | "upstream" | undefined;
  /** Whose socket failed. */
  failedSide: "client" | "upstream" | undefined;

  /** `mayWiden`: its streams may get larger buffers once they have carried much. */
  constructor(kernel: RelayKernel, clientFd: number, upstreamFd: number, mayWiden: boolean) {
    this.kernel = kernel;
    const widenAt = mayWiden ? kernel.earnedBytes : Number.POSITIVE_INFINITY;
    this.client = side(clientFd);
    this.upstream = side(upstreamFd);
    this.outward = new Direction(this.client, this.upstream, widenAt);
    this.inward = new Direction(this.upstream, this.client, widenAt);
  }

  /** Bytes that have reached the upstream, and the client. */
  get sent(): number {
    return this.outward.bytes;
  }
  get received(): number {
    return this.inward.bytes;
  }

  /** Both directions. */
  flows(): readonly Direction[] {
    return [this.outward, this.inward];
  }

  /** Whether one side has ended its stream and the other has not. */
  get isHalfClosed(): boolean {
    return this.outward.ended !== this.inward.ended;
  }

  /** Whether either direction carries more than messages now. */
  get isStream(): boolean {
    return this.outward.splicing || this.inward.splicing;
  }

  /** Whether either direction has received bytes that it has not delivered. */
  get holdsBytes(): boolean {
    return holdsBytes(this.outward) || holdsBytes(this.inward);
  }

  /** Notes the EPOLL* bits of a side. */
  ready(side: "client" | "upstream", mask: number): void {
    const socket = side === "client" ? this.client : this.upstream;
    if (mask & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) socket.readable = true;
    if (mask & (EPOLLOUT | EPOLLHUP | EPOLLERR)) socket.writable = true;
    if (mask & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) socket.ending = true;
    if (mask & EPOLLPRI) socket.urgent = true;
    if (mask & EPOLLERR) socket.broken = true;
  }

  /**
   * Moves the bytes that can be moved. "open": wait for an edge; "more": call again in the next
   * turn of the loop; "done": both directions have ended; "failed": see `errno`. After "done" and
   * "failed" the caller closes both sockets, after "failed" with RST, and calls `release`.
   */
  run(): RelayState {
    const { outward, inward } = this;
    const isMoreOutward = this.pump(outward);
    if (this.errno !== 0) return "failed";
    const isMoreInward = this.pump(inward);
    if (this.errno !== 0 || this.isBroken(outward) || this.isBroken(inward)) return "failed";
    if (outward.ended || inward.ended) {
      this.passEnd(outward, inward);
      this.passEnd(inward, outward);
      if (outward.closed && inward.closed) return "done";
    }
    return isMoreOutward || isMoreInward ? "more" : "open";
  }

  /** Releases the pipes, empty or not. */
  release(): void {
    this.releaseOne(this.outward);
    this.releaseOne(this.inward);
  }

  private releaseOne(direction: Direction): void {
    if (direction.wide) this.kernel.narrow();
    direction.wide = false;
    if (direction.pipe === undefined) return;
    if (direction.held === 0) this.kernel.givePipe(direction.pipe);
    else this.kernel.dropPipe(direction.pipe);
    direction.pipe = undefined;
  }

  /** Notes a reset of a side that is not read: its stream has ended, or its receiver stalls. */
  private isBroken({ from, to, ended }: Direction): boolean {
    if (!from.broken || (!ended && to.writable)) return false;
    from.broken = false;
    const error = this.kernel.error(from.fd);
    if (error !== 0) this.fail(from, -error);
    return error !== 0;
  }

  /** Moves bytes in one direction; returns true if only the budget of the turn stopped it. */
  private pump(direction: Direction): boolean {
    const { bytes } = direction;
    const isMore = this.move(direction);
    const moved = direction.bytes - bytes;
    if (moved >= this.kernel.bufferBytes) this.kernel.carried(moved);
    if (direction.bytes >= direction.widenAt) this.widen(direction);
    if (direction.corked && !isMore && direction.held === 0) {
      direction.corked = false;
      // The half-close below pushes them too.
      if (!direction.ended && this.errno === 0) this.kernel.push(direction.to.fd);
    }
    return isMore;
  }

  /** Asks for larger buffers; asks again later if there was no room. */
  private widen(direction: Direction): void {
    const { kernel } = this;
    const { from, to, bytes, begun, ended } = direction;
    direction.wide = begun && !ended && this.errno === 0 && kernel.widen(from.fd, to.fd);
    const again = bytes + wideAgainTimes * kernel.earnedBytes;
    direction.widenAt = direction.wide ? Number.POSITIVE_INFINITY : again;
  }

  private begin(direction: Direction): void {
    if (direction.begun) return;
    direction.begun = true;
    this.kernel.begin(direction.from.fd, direction.to.fd);
  }

  private move(direction: Direction): boolean {
    const { from, to, bytes } = direction;
    const { bytesPerTurn } = this.kernel;
    for (let turn = 0; turn < readsPerTurn && direction.bytes - bytes < bytesPerTurn; turn++) {
      if (direction.held > 0 && !this.drain(direction)) return false;
      if (direction.ended || !from.readable || !to.writable) return false;
      const moved = direction.splicing ? this.splice(direction) : this.copy(direction);
      if (!moved) return false;
    }
    return from.readable;
  }

  /** Passes the end of a stream on, unless both streams have ended: close(2) does it then. */
  private passEnd(direction: Direction, other: Direction): void {
    if (direction.closed || !direction.ended || direction.held > 0) return;
    direction.closed = true;
    const isOtherDone = other.ended && other.held === 0;
    if (!isOtherDone) this.kernel.shutdown(direction.to.fd);
  }

  /** Copies one message through the shared buffer; returns false if the direction has to wait. */
  private copy(direction: Direction): boolean {
    const { kernel } = this;
    if (!kernel.hasPipe()) return this.copyPeeked(direction);
    const { from, to } = direction;
    let count = kernel.recv(from.fd, 0);
    if (!this.wasRead(direction, count)) return false;
    let behind = 0;
    if (count < kernel.bufferBytes) {
      if (from.ending) behind = this.readEnd(direction, count);
      else this.noteEmpty(from);
    }
    if (behind > 0) count += behind;
    const taken = kernel.send(to.fd, 0, count, direction.ended);
    direction.corked = false;
    if (taken === count) {
      direction.bytes += taken;
      direction.splicing = count === kernel.bufferBytes;
      if (direction.splicing) this.begin(direction);
      return behind < 0 ? this.fail(from, behind) : true;
    }
    if (taken < 0 && taken !== -EAGAIN) return this.fail(to, taken);
    direction.bytes += Math.max(taken, 0);
    this.keep(direction, Math.max(taken, 0), count);
    return behind < 0 && this.fail(from, behind);
  }

  /**
   * Looks for the end of the stream behind the `count` bytes that were read, so that it leaves with
   * them. Returns how many more bytes there were, or the error that came instead.
   */
  private readEnd(direction: Direction, count: number): number {
    const more = this.kernel.recv(direction.from.fd, count);
    if (more === 0) this.noteEnd(direction);
    if (more !== -EAGAIN) return more;
    direction.from.readable = false;
    return 0;
  }

  /** The same without a pipe: bytes stay in the queue until the receiver takes them. */
  private copyPeeked(direction: Direction): boolean {
    const { kernel } = this;
    const { from, to } = direction;
    direction.splicing = false;
    const count = kernel.peek(from.fd);
    if (!this.wasRead(direction, count)) return false;
    const taken = kernel.send(to.fd, 0, count, false);
    if (taken < count || count === kernel.bufferBytes) this.begin(direction);
    direction.corked = false;
    if (taken < 0 && taken !== -EAGAIN) return this.fail(to, taken);
    if (taken > 0) {
      kernel.discard(from.fd, taken);
      direction.bytes += taken;
    }
    if (taken < count) to.writable = false;
    else if (count < kernel.bufferBytes && !from.ending) this.noteEmpty(from);
    return taken === count;
  }

  /** Puts the bytes of the shared buffer that the receiver did not take into a pipe. */
  private keep(direction: Direction, from: number, to: number): void {
    const { kernel } = this;
    const pipe = kernel.takePipe();
    if (pipe === undefined) throw new Error("bytes were read with no pipe to keep them");
    const kept = kernel.fill(pipe, from, to - from);
    if (kept !== to - from) throw new Error(`a pipe kept ${kept} of ${to - from} bytes`);
    direction.pipe = pipe;
    direction.held = kept;
    direction.splicing = true;
    direction.to.writable = false;
    this.begin(direction);
  }

  private splice(direction: Direction): boolean {
    const { kernel } = this;
    const { from } = direction;
    const pipe = kernel.takePipe();
    if (pipe === undefined) return this.copyPeeked(direction);
    const count = kernel.spliceIn(from.fd, pipe);
    if (count <= 0) {
      kernel.givePipe(pipe);
      // Before an urgent byte splice(2) also returns EAGAIN, or 0 if the stream has ended. Only
      // recv(2) gets past it and finds what is behind it.
      const isCertain = count === -EAGAIN ? !from.urgent : count < 0;
      if (isCertain) return this.wasRead(direction, count);
      direction.splicing = false;
      return true;
    }
    direction.pipe = pipe;
    direction.held = count;
    direction.smallReads = count < kernel.bufferBytes / 4 ? direction.smallReads + 1 : 0;
    if (direction.smallReads >= smallReadsMax) {
      direction.splicing = false;
      direction.smallReads = 0;
    }
    return this.drain(direction);
  }

  /** Empties the pipe and returns it; false while the receiver takes no more. */
  private drain(direction: Direction): boolean {
    const { kernel } = this;
    const { to } = direction;
    const pipe = direction.pipe as Pipe;
    while (direction.held > 0) {
      if (!to.writable) return false;
      direction.corked = direction.from.readable;
      const taken = kernel.spliceOut(pipe, to.fd, direction.held, direction.corked);
      if (taken === -EAGAIN) {
        to.writable = false;
        return false;
      }
      if (taken < 0) return this.fail(to, taken);
      direction.held -= taken;
      direction.bytes += taken;
    }
    kernel.givePipe(pipe);
    direction.pipe = undefined;
    return true;
  }

  /** Whether a read returned bytes; notes an end, an error or an empty queue. */
  private wasRead(direction: Direction, count: number): boolean {
    if (count > 0) return true;
    if (count === 0) this.noteEnd(direction);
    else if (count === -EAGAIN) direction.from.readable = false;
    else this.fail(direction.from, count);
    return false;
  }

  /** A read has left room: the queue is empty, and new bytes cause an edge. */
  private noteEmpty(from: Side): void {
    if (!from.urgent) from.readable = false;
  }

  private noteEnd(direction: Direction): void {
    direction.ended = true;
    this.firstEnd ??= direction === this.outward ? "client" : "upstream";
  }

  private fail(side: Side, result: number): false {
    this.errno = -result;
    this.failedSide = side === this.client ? "client" : "upstream";
    return false;
  }
}

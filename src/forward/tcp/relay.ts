/**
 * One TCP connection carried to another: two directions over the same two sockets.
 *
 * # Theory of operation
 *
 * Both sockets are registered once, edge-triggered. An edge sets a side's `readable` or `writable`,
 * and `run` moves bytes until each direction lacks one of them. A read that leaves room has emptied
 * the queue (epoll(7)), so no call is made that could only answer EAGAIN. Two things are behind a
 * queue that looks empty, and both have edges of their own: an end of the stream (EPOLLRDHUP), and
 * what follows an urgent byte (EPOLLPRI), before which each read stops.
 *
 * A direction starts by copying: `recv` into the buffer that the whole Worker shares, and `send`
 * at once, two system calls a message. A read that fills the buffer, or a send that takes only a
 * part, makes the direction splice, past user space, through a pipe that it has only while there is
 * something in it: an idle connection owns its two sockets and nothing more. When the reads are
 * small again it copies. Without a free pipe the direction looks at the bytes (MSG_PEEK), sends,
 * and then takes out of the queue just what was sent, so nothing is stored.
 *
 * The end of a side's stream is passed on as a half-close once everything before it is; when both
 * directions have ended, both sockets are closed with no half-close before. What is known to be
 * followed by more, or by the end, is sent with MSG_MORE, so that no packet is smaller than it has
 * to be; if nothing follows after all, what the kernel has kept for it is pushed. An error of
 * either side ends both, and the other side gets a reset: what it has not received is lost, and it
 * must not mistake that for an end.
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
 * The calls a relay makes: bytes or 0 at the end, or a negated errno, as `ffi/sys.ts` has them,
 * but never -EINTR: that is tried again.
 */
export interface RelayKernel {
  /** Reads into the shared buffer from `offset` on; less than it has room for is all there was. */
  recv(fd: number, offset: number): number;
  /** Reads into the shared buffer and leaves the bytes in the socket's queue. */
  peek(fd: number): number;
  /** Takes `length` bytes out of the socket's queue. */
  discard(fd: number, length: number): number;
  /** Sends from the shared buffer, from `offset` on; `more`: something follows at once. */
  send(fd: number, offset: number, length: number, more: boolean): number;
  /** Puts bytes of the shared buffer into a pipe that is empty. */
  fill(pipe: Pipe, offset: number, length: number): number;
  /** Moves bytes from a socket into a pipe that is empty. */
  spliceIn(fd: number, pipe: Pipe): number;
  /** Moves `length` bytes from a pipe to a socket; `more`: something follows at once. */
  spliceOut(pipe: Pipe, fd: number, length: number, more: boolean): number;
  /** Sends what the kernel keeps because of `more`. */
  push(fd: number): void;
  /** The error that a socket has pending (SO_ERROR), positive; 0 for none. Takes it. */
  error(fd: number): number;
  /** Ends our side of a socket's stream. */
  shutdown(fd: number): void;
  /** Whether `takePipe` has one to give. */
  hasPipe(): boolean;
  /** An empty pipe that holds at least `bufferBytes`, or undefined. */
  takePipe(): Pipe | undefined;
  /** Gives an empty pipe back. */
  givePipe(pipe: Pipe): void;
  /** Closes a pipe that may not be empty. */
  dropPipe(pipe: Pipe): void;
  /** A stream has begun: much is read from one socket, or the other one does not take all. */
  begin(from: number, to: number): void;
  /** Asks that more may be queued of a stream; if so, `narrow` is called at its end. */
  widen(from: number, to: number): boolean;
  narrow(): void;
  /** How many bytes the shared buffer holds. */
  readonly bufferBytes: number;
  /** A stream that has carried so many bytes asks to be widened. */
  readonly earnedBytes: number;
  /** How many bytes of one direction are moved before others have their turn. */
  readonly bytesPerTurn: number;
}

/** What became of a relay after a turn. */
export type RelayState = "open" | "more" | "done" | "failed";

/** Of one direction, before others have their turn. */
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

  /** `mayWiden`: more may be queued of its streams once they have carried much. */
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

  /** Whether bytes of either direction have come and not yet been taken. */
  get holdsBytes(): boolean {
    return holdsBytes(this.outward) || holdsBytes(this.inward);
  }

  /** What epoll says of a side: its EPOLL* bits. */
  ready(side: "client" | "upstream", mask: number): void {
    const socket = side === "client" ? this.client : this.upstream;
    if (mask & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) socket.readable = true;
    if (mask & (EPOLLOUT | EPOLLHUP | EPOLLERR)) socket.writable = true;
    if (mask & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) socket.ending = true;
    if (mask & EPOLLPRI) socket.urgent = true;
    if (mask & EPOLLERR) socket.broken = true;
  }

  /**
   * Moves what can be moved. "open": wait for an edge; "more": there is more to do, after others
   * had their turn; "done": both directions have ended; "failed": see `errno`. After the last two
   * the caller closes both sockets, after "failed" with a reset, and calls `release`.
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

  /** Returns the pipes, whatever is in them. */
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

  /** A side that is not read, ended or behind a receiver that stalls, tells of its reset so. */
  private isBroken({ from, to, ended }: Direction): boolean {
    if (!from.broken || (!ended && to.writable)) return false;
    from.broken = false;
    const error = this.kernel.error(from.fd);
    if (error !== 0) this.fail(from, -error);
    return error !== 0;
  }

  /** Moves bytes in one direction; true when it stopped only to let others have their turn. */
  private pump(direction: Direction): boolean {
    const isMore = this.move(direction);
    if (direction.bytes >= direction.widenAt) this.widen(direction);
    if (direction.corked && !isMore && direction.held === 0) {
      direction.corked = false;
      // An end is passed on instead, which pushes too.
      if (!direction.ended && this.errno === 0) this.kernel.push(direction.to.fd);
    }
    return isMore;
  }

  /** Asks once, and if there was no room again later. */
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

  /** Passes on the end of a stream, unless the other has ended too: then the close says it. */
  private passEnd(direction: Direction, other: Direction): void {
    if (direction.closed || !direction.ended || direction.held > 0) return;
    direction.closed = true;
    const isOtherDone = other.ended && other.held === 0;
    if (!isOtherDone) this.kernel.shutdown(direction.to.fd);
  }

  /** One message through the shared buffer; false when the direction has to wait. */
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
   * Looks for the end behind the `count` bytes that were read, so that it goes with them. Answers
   * how many more bytes there were, or the error that is in its place.
   */
  private readEnd(direction: Direction, count: number): number {
    const more = this.kernel.recv(direction.from.fd, count);
    if (more === 0) this.noteEnd(direction);
    if (more !== -EAGAIN) return more;
    direction.from.readable = false;
    return 0;
  }

  /** The same where nothing could be kept: bytes stay in the queue until they are taken. */
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

  /** What the receiver did not take of the shared buffer goes into a pipe until it does. */
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
      // In front of an urgent byte splice answers so, too, or with an end if the stream has one:
      // only recv gets past it, and tells whether there is anything behind it.
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

  /** Empties the pipe and gives it back; false while the receiver takes no more. */
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

  /** Whether a read brought bytes; notes its end, its error, or that there is nothing now. */
  private wasRead(direction: Direction, count: number): boolean {
    if (count > 0) return true;
    if (count === 0) this.noteEnd(direction);
    else if (count === -EAGAIN) direction.from.readable = false;
    else this.fail(direction.from, count);
    return false;
  }

  /** A read has left room: there is nothing more, and what comes makes an edge. */
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

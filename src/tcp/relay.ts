/**
 * One TCP connection carried to another: two directions over the same two sockets.
 *
 * # Theory of operation
 *
 * Both sockets are registered once, edge-triggered. An edge sets a side's `readable` or `writable`;
 * they are cleared by EAGAIN alone, and `run` moves bytes until each direction lacks one of them.
 *
 * A direction starts by copying: `recv` into the buffer that the whole Worker shares, and `send`
 * at once, two system calls a message. A read that fills the buffer, or a send that takes only a
 * part, gives the direction a pipe, and from then on bytes are spliced past user space. When the
 * pipe is empty and the reads are small again it goes back to the pool: an idle connection owns
 * its two sockets and nothing more. Without a free pipe the direction looks at the bytes
 * (MSG_PEEK), sends, and then takes out of the queue just what was sent, so nothing is stored.
 *
 * The end of a side's stream is passed on as a half-close once everything before it is; when both
 * directions have ended, both sockets are closed with no half-close before. An error of either
 * side ends both, and the other side gets a reset: what it has not received is lost, and it must
 * not mistake that for an end.
 *
 * All that touches the kernel goes through `RelayKernel`, so the same code runs over a simulated
 * one (`test/simulation/relay.test.ts`).
 */

import { EAGAIN } from "../../ffi/errno.ts";

/**
 * The calls a relay makes: bytes or 0 at the end, or a negated errno, as `ffi/sys.ts` has them,
 * but never -EINTR: that is tried again.
 */
export interface RelayKernel {
  /** Reads into the shared buffer. */
  recv(fd: number): number;
  /** Reads into the shared buffer and leaves the bytes in the socket's queue. */
  peek(fd: number): number;
  /** Takes `length` bytes out of the socket's queue. */
  discard(fd: number, length: number): number;
  /** Sends from the shared buffer, from `offset` on. */
  send(fd: number, offset: number, length: number): number;
  /** Puts bytes of the shared buffer into a pipe that is empty. */
  fill(pipe: Pipe, offset: number, length: number): number;
  /** Moves bytes from a socket into a pipe that is empty. */
  spliceIn(fd: number, pipe: Pipe): number;
  /** Moves `length` bytes from a pipe to a socket. */
  spliceOut(pipe: Pipe, fd: number, length: number): number;
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
  /** How many bytes the shared buffer holds. */
  readonly bufferBytes: number;
}

export interface Pipe {
  readonly readEnd: number;
  readonly writeEnd: number;
}

/** One socket of a relay. Its readiness is what the kernel last said. */
interface Side {
  readonly fd: number;
  readable: boolean;
  writable: boolean;
  /** EPOLLERR or EPOLLHUP was seen. */
  broken: boolean;
}

/** One direction of a relay. */
class Direction {
  readonly from: Side;
  readonly to: Side;
  pipe: Pipe | undefined;
  /** Bytes in the pipe. */
  held = 0;
  /** The source has ended its stream. */
  ended = false;
  /** Its end has been passed on. */
  closed = false;
  bytes = 0;
  /** Spliced reads in a row that were small: enough of them end the splicing. */
  smallReads = 0;

  constructor(from: Side, to: Side) {
    this.from = from;
    this.to = to;
  }
}

/** What became of a relay after a turn. */
export type RelayState = "open" | "more" | "done" | "failed";

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

  constructor(kernel: RelayKernel, clientFd: number, upstreamFd: number) {
    this.kernel = kernel;
    this.client = side(clientFd);
    this.upstream = side(upstreamFd);
    this.outward = new Direction(this.client, this.upstream);
    this.inward = new Direction(this.upstream, this.client);
  }

  /** Bytes that have reached the upstream, and the client. */
  get sent(): number {
    return this.outward.bytes;
  }
  get received(): number {
    return this.inward.bytes;
  }

  /** Whether one side has ended its stream and the other has not. */
  get isHalfClosed(): boolean {
    return this.outward.ended !== this.inward.ended;
  }

  /** Whether bytes of either direction have been read and not yet been taken. */
  get holdsBytes(): boolean {
    return this.outward.held > 0 || this.inward.held > 0;
  }

  /** What epoll says of a side: EPOLLIN or EPOLLRDHUP, EPOLLOUT, EPOLLERR or EPOLLHUP. */
  ready(side: "client" | "upstream", readable: boolean, writable: boolean, broken: boolean): void {
    const socket = side === "client" ? this.client : this.upstream;
    if (readable || broken) socket.readable = true;
    if (writable || broken) socket.writable = true;
    if (broken) socket.broken = true;
  }

  /**
   * Moves what can be moved. "open": wait for an edge; "more": there is more to do, after others
   * had their turn; "done": both directions have ended; "failed": see `errno`. After the last two
   * the caller closes both sockets, after "failed" with a reset, and calls `release`.
   */
  run(): RelayState {
    const outward = this.pump(this.outward);
    if (this.errno !== 0) return "failed";
    const inward = this.pump(this.inward);
    if (this.errno !== 0 || this.isBroken()) return "failed";
    this.passEnds();
    if (this.outward.closed && this.inward.closed) return "done";
    return outward || inward ? "more" : "open";
  }

  /** Returns the pipes, whatever is in them. */
  release(): void {
    for (const direction of [this.outward, this.inward]) {
      if (direction.pipe === undefined) continue;
      if (direction.held === 0) this.kernel.givePipe(direction.pipe);
      else this.kernel.dropPipe(direction.pipe);
      direction.pipe = undefined;
    }
  }

  /** A side that is not read, ended or behind a receiver that stalls, tells of its reset so. */
  private isBroken(): boolean {
    for (const direction of [this.outward, this.inward]) {
      const { from } = direction;
      if (!from.broken || (!direction.ended && direction.to.writable)) continue;
      from.broken = false;
      const error = this.kernel.error(from.fd);
      if (error !== 0) this.fail(from, -error);
    }
    return this.errno !== 0;
  }

  /** Moves bytes in one direction; true when it stopped only to let others have their turn. */
  private pump(direction: Direction): boolean {
    for (let turn = 0; turn < readsPerTurn; turn++) {
      if (direction.held > 0 && !this.drain(direction)) return false;
      if (direction.ended || !direction.from.readable || !direction.to.writable) return false;
      const moved = direction.pipe === undefined ? this.copy(direction) : this.splice(direction);
      if (!moved) return false;
    }
    return true;
  }

  /** Passes on the ends of streams, unless both have ended: then the close says it. */
  private passEnds(): void {
    const { outward, inward } = this;
    const isOutwardDone = outward.ended && outward.held === 0;
    const isInwardDone = inward.ended && inward.held === 0;
    for (const [direction, isDone, isOtherDone] of [
      [outward, isOutwardDone, isInwardDone],
      [inward, isInwardDone, isOutwardDone],
    ] as const) {
      if (!isDone || direction.closed) continue;
      direction.closed = true;
      if (!isOtherDone) this.kernel.shutdown(direction.to.fd);
    }
  }

  /** One message through the shared buffer; false when the direction has to wait. */
  private copy(direction: Direction): boolean {
    const { kernel } = this;
    if (!kernel.hasPipe()) return this.copyPeeked(direction);
    const count = kernel.recv(direction.from.fd);
    if (!this.wasRead(direction, count)) return false;
    const taken = kernel.send(direction.to.fd, 0, count);
    if (taken === count) {
      direction.bytes += taken;
      if (count === kernel.bufferBytes) direction.pipe = kernel.takePipe();
      return true;
    }
    if (taken < 0 && taken !== -EAGAIN) return this.fail(direction.to, taken);
    direction.bytes += Math.max(taken, 0);
    return this.keep(direction, Math.max(taken, 0), count);
  }

  /** The same where nothing could be kept: bytes stay in the queue until they are taken. */
  private copyPeeked(direction: Direction): boolean {
    const count = this.kernel.peek(direction.from.fd);
    if (!this.wasRead(direction, count)) return false;
    const taken = this.kernel.send(direction.to.fd, 0, count);
    if (taken < 0 && taken !== -EAGAIN) return this.fail(direction.to, taken);
    if (taken > 0) {
      this.kernel.discard(direction.from.fd, taken);
      direction.bytes += taken;
    }
    if (taken < count) direction.to.writable = false;
    return taken === count;
  }

  /** What the receiver did not take of the shared buffer goes into a pipe until it does. */
  private keep(direction: Direction, from: number, to: number): boolean {
    const { kernel } = this;
    direction.pipe = kernel.takePipe();
    if (direction.pipe === undefined) throw new Error("bytes were read with no pipe to keep them");
    const kept = kernel.fill(direction.pipe, from, to - from);
    if (kept !== to - from) throw new Error(`a pipe kept ${kept} of ${to - from} bytes`);
    direction.held = kept;
    direction.to.writable = false;
    return false;
  }

  private splice(direction: Direction): boolean {
    const { kernel } = this;
    const pipe = direction.pipe as Pipe;
    const count = kernel.spliceIn(direction.from.fd, pipe);
    if (count === -EAGAIN) {
      // Also what splice answers in front of an urgent byte, which only recv gets past: copying
      // tells whether there is nothing.
      this.returnPipe(direction);
      return true;
    }
    if (!this.wasRead(direction, count)) {
      this.returnPipe(direction);
      return false;
    }
    direction.held = count;
    direction.smallReads = count < kernel.bufferBytes / 4 ? direction.smallReads + 1 : 0;
    if (!this.drain(direction)) return false;
    if (direction.smallReads >= smallReadsMax) this.returnPipe(direction);
    return true;
  }

  /** Empties the pipe; false while the receiver takes no more. */
  private drain(direction: Direction): boolean {
    while (direction.held > 0) {
      if (!direction.to.writable) return false;
      const taken = this.kernel.spliceOut(direction.pipe as Pipe, direction.to.fd, direction.held);
      if (taken === -EAGAIN) {
        direction.to.writable = false;
        return false;
      }
      if (taken < 0) return this.fail(direction.to, taken);
      direction.held -= taken;
      direction.bytes += taken;
    }
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

  private noteEnd(direction: Direction): void {
    direction.ended = true;
    this.firstEnd ??= direction === this.outward ? "client" : "upstream";
  }

  private returnPipe(direction: Direction): void {
    this.kernel.givePipe(direction.pipe as Pipe);
    direction.pipe = undefined;
    direction.smallReads = 0;
  }

  private fail(side: Side, result: number): false {
    this.errno = -result;
    this.failedSide = side === this.client ? "client" : "upstream";
    return false;
  }
}

function side(fd: number): Side {
  // A connected socket takes bytes until it says otherwise; whether it has any, its edge tells.
  return { fd, readable: false, writable: true, broken: false };
}

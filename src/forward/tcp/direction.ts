/** The state of a relay: its two sockets, and each direction between them (`relay.ts`). */

export interface Pipe {
  readonly readEnd: number;
  readonly writeEnd: number;
}

/** One socket of a relay, with the readiness that the kernel last reported. */
export interface Side {
  readonly fd: number;
  readable: boolean;
  writable: boolean;
  /** EPOLLRDHUP or an error: the stream ends after the queued bytes. */
  ending: boolean;
  /** EPOLLPRI: a read may stop before the queue is empty. */
  urgent: boolean;
  /** EPOLLERR: an error is pending, unless a call has returned it. */
  broken: boolean;
}

/** One direction of a relay. */
export class Direction {
  readonly from: Side;
  readonly to: Side;
  /** Bytes go through a pipe by splice(2), past user space. */
  splicing = false;
  pipe: Pipe | undefined;
  /** Bytes in the pipe. */
  held = 0;
  /** The last bytes were sent with MSG_MORE. */
  corked = false;
  /** The source has ended its stream. */
  ended = false;
  /** The half-close was sent to the receiver. */
  closed = false;
  bytes = 0;
  /** It has carried more than messages. */
  begun = false;
  /** Its receive buffer may grow as far as the kernel allows. */
  wide = false;
  /** It asks to be widened once it has carried this many bytes. */
  widenAt: number;
  /** Small spliced reads in a row; after enough of them the direction copies again. */
  smallReads = 0;

  constructor(from: Side, to: Side, widenAt: number) {
    this.from = from;
    this.to = to;
    this.widenAt = widenAt;
  }
}

/** Bytes in a pipe, or in the queue of a side whose receiver takes nothing. */
export function holdsBytes({ from, to, held, ended }: Direction): boolean {
  return held > 0 || (!ended && from.readable && !to.writable);
}

/** The state of a socket that has just been connected. */
export function side(fd: number): Side {
  // A connected socket is writable until a send returns EAGAIN; its edge reports what it has.
  return { fd, readable: false, writable: true, ending: false, urgent: false, broken: false };
}

/** The state of a relay: its two sockets, and each direction between them (`relay.ts`). */

export interface Pipe {
  readonly readEnd: number;
  readonly writeEnd: number;
}

/** One socket of a relay. Its readiness is what the kernel last said. */
export interface Side {
  readonly fd: number;
  readable: boolean;
  writable: boolean;
  /** EPOLLRDHUP, or an error: there is an end behind what is queued. */
  ending: boolean;
  /** EPOLLPRI: a read may stop before the queue is empty. */
  urgent: boolean;
  /** EPOLLERR: an error is pending, unless a call has told it. */
  broken: boolean;
}

/** One direction of a relay. */
export class Direction {
  readonly from: Side;
  readonly to: Side;
  /** Much is coming: past user space. */
  splicing = false;
  pipe: Pipe | undefined;
  /** Bytes in the pipe. */
  held = 0;
  /** The last bytes were sent with the promise of more. */
  corked = false;
  /** The source has ended its stream. */
  ended = false;
  /** Its end has been passed on. */
  closed = false;
  bytes = 0;
  /** It has been a stream. */
  begun = false;
  /** More may be queued of it. */
  wide = false;
  /** From this number of bytes on that is asked for. */
  widenAt: number;
  /** Spliced reads in a row that were small: enough of them end the splicing. */
  smallReads = 0;

  constructor(from: Side, to: Side, widenAt: number) {
    this.from = from;
    this.to = to;
    this.widenAt = widenAt;
  }
}

/** In a pipe, or in the queue of a side that is not read while the other takes nothing. */
export function holdsBytes({ from, to, held, ended }: Direction): boolean {
  return held > 0 || (!ended && from.readable && !to.writable);
}

/** A socket of a relay that has just been connected. */
export function side(fd: number): Side {
  // A connected socket takes bytes until it says otherwise; whether it has any, its edge tells.
  return { fd, readable: false, writable: true, ending: false, urgent: false, broken: false };
}

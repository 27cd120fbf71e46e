/**
 * How much the kernel may queue of the streams of one Worker. What fills TCP's memory behind slow
 * readers are the receive buffers of the other side: the kernel lets one grow to megabytes as soon
 * as a stream is fast, and cannot take back what it has offered. So each stream begins with a small
 * one, and a stream that has carried much gets one that grows, as long as few have that: what all
 * of them may take together is a part of the memory, whatever the number of clients.
 *
 * A stream is one direction of a relay that carries more than messages. Others cost no call.
 */

import {
  IPPROTO_TCP,
  SO_BUF_LOCK,
  SO_RCVBUF,
  SOL_SOCKET,
  TCP_NOTSENT_LOWAT,
} from "../../../ffi/constants.ts";
import * as sys from "../../../ffi/sys.ts";
import {
  earnedReceiveBytes,
  growingReceiveBytes,
  scarceReceiveBytes,
  streamReceiveBytes,
  unsentBytesMax,
  unsentBytesMin,
} from "../../engine/limits.ts";
import type { TcpMemory } from "../../engine/tcp-memory.ts";

/** The time, in ms. */
interface Clock {
  readonly now: number;
}

export class StreamBuffers {
  /** Of a client with more connections, the new ones have no streams that are widened. */
  readonly wideOfClient: number;
  private readonly memory: TcpMemory;
  private readonly clock: Clock;
  private readonly wideMax: number;
  private wide = 0;

  constructor(memory: TcpMemory, clock: Clock) {
    this.memory = memory;
    this.clock = clock;
    this.wideMax = memory.wideStreams;
    this.wideOfClient = memory.wideOfClient;
  }

  /** A socket that is not yet connected, or new: while memory is short it receives little. */
  bound(fd: number): void {
    if (this.memory.isShort(this.clock.now)) setReceiveBytes(fd, scarceReceiveBytes);
  }

  /** A stream begins, which is read from one socket and sent to another. */
  begin(from: number, to: number): void {
    const isShort = this.memory.isShort(this.clock.now);
    this.memory.promise(2 * streamReceiveBytes + unsentBytesMax);
    const unsentBytes = isShort ? unsentBytesMin : unsentBytesMax;
    sys.setsockopt(to, IPPROTO_TCP, TCP_NOTSENT_LOWAT, unsentBytes);
    const isScarce = sys.getsockopt(from, SOL_SOCKET, SO_RCVBUF) <= 2 * scarceReceiveBytes;
    if (!isScarce) setReceiveBytes(from, streamReceiveBytes);
  }

  /**
   * A stream has carried much: more of it may be queued, if there is memory. Returns whether its
   * buffers may now grow as far as the kernel lets them; `narrow` ends that.
   */
  widen(from: number, to: number): boolean {
    const { memory, clock } = this;
    if (memory.isShort(clock.now)) return false;
    if (this.wide >= this.wideMax) {
      setReceiveBytes(from, earnedReceiveBytes);
      return false;
    }
    this.wide++;
    memory.promise(memory.largestStream);
    // A buffer that has been filled all the time begins to grow only after a step (tcp_input.c).
    setReceiveBytes(from, growingReceiveBytes);
    // Before Linux 5.15 it stays at this size.
    sys.setsockopt(from, SOL_SOCKET, SO_BUF_LOCK, 0);
    // Fewer and larger sends: some 15 % of a stream's CPU.
    sys.setsockopt(to, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 0);
    return true;
  }

  /** A stream that was widened has ended. */
  narrow(): void {
    this.wide--;
  }
}

function setReceiveBytes(fd: number, bytes: number): void {
  sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, bytes);
}

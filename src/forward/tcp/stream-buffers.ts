/**
 * How many bytes the kernel may queue for the streams of one Worker. Behind slow readers, TCP's
 * memory fills with the receive buffers of the other side: the kernel grows one to megabytes as
 * soon as a stream is fast, and cannot shrink a window that it has offered. So each stream begins
 * with a small buffer. A stream that has carried much gets a buffer that grows, while few others
 * have one: all of them together take at most a part of the memory, whatever the number of clients.
 *
 * A stream is one direction of a relay that carries more than messages. Messages cost no call.
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
  /** New connections of a client that has more than this get no wide streams. */
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

  /** Bounds the receive buffer of a new socket while memory is short. Call it before connect(2). */
  bound(fd: number): void {
    if (this.memory.isShort(this.clock.now)) setReceiveBytes(fd, scarceReceiveBytes);
  }

  /** A stream begins: it is read from one socket and sent to the other. */
  begin(from: number, to: number): void {
    const isShort = this.memory.isShort(this.clock.now);
    this.memory.promise(2 * streamReceiveBytes + unsentBytesMax);
    const unsentBytes = isShort ? unsentBytesMin : unsentBytesMax;
    sys.setsockopt(to, IPPROTO_TCP, TCP_NOTSENT_LOWAT, unsentBytes);
    const isScarce = sys.getsockopt(from, SOL_SOCKET, SO_RCVBUF) <= 2 * scarceReceiveBytes;
    if (!isScarce) setReceiveBytes(from, streamReceiveBytes);
  }

  /**
   * Lets the buffers of a stream that has carried much grow as far as the kernel allows, if there
   * is memory. Returns whether it did; `narrow` ends that.
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
    // The kernel grows a buffer that was always full only after one explicit step (tcp_input.c).
    setReceiveBytes(from, growingReceiveBytes);
    // Before Linux 5.15 the buffer stays at this size.
    sys.setsockopt(from, SOL_SOCKET, SO_BUF_LOCK, 0);
    // Fewer and larger sends save some 15 % of a stream's CPU.
    sys.setsockopt(to, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 0);
    return true;
  }

  /** A wide stream has ended. */
  narrow(): void {
    this.wide--;
  }
}

function setReceiveBytes(fd: number, bytes: number): void {
  sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, bytes);
}

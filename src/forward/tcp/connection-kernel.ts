/**
 * The system calls of a connection, except those of its relay (`relay-kernel.ts`). The executable
 * passes the real kernel to connections, and `test/simulation` a simulated one.
 */

import {
  IPPROTO_TCP,
  MSG_NOSIGNAL,
  MSG_PEEK,
  MSG_TRUNC,
  SO_ERROR,
  SOL_SOCKET,
  TCP_INFO,
  TCP_QUICKACK,
  TCP_SYN_SENT,
} from "../../../ffi/constants.ts";
import type { CallFailure } from "../../../ffi/errno.ts";
import { allocate, type NativeBuffer } from "../../../ffi/memory.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd, Result } from "../../../ffi/types.ts";
import type { EventLoop, Handler } from "../../engine/loop.ts";
import type { Dial } from "../dial.ts";
import { CONNECTION_EVENTS, type UpstreamSockets } from "./upstream-socket.ts";

/** Results are as in `ffi/sys.ts`: 0, a number of bytes, or a negated errno. */
export interface ConnectionKernel {
  /** Calls `handler` for each edge of a socket until that is closed. */
  watch(fd: Fd, handler: Handler): Result;
  /** Calls its handler no more. It stays open, also if this thread dies: another process has it. */
  lend(fd: number): void;
  /** Takes it back, or takes over that of another process. `watch` follows. */
  own(fd: number): void;
  /** Opens a socket that connects to an upstream; otherwise returns the call that failed. */
  open(dial: Dial, hopLimit: number): Fd | CallFailure;
  /** Returns and clears the pending error of a socket (SO_ERROR), positive; 0 for none. */
  error(fd: Fd): number;
  /** Whether a socket has received bytes. */
  hasBytes(fd: Fd): boolean;
  /** Whether a writable socket still waits for bytes that go with its SYN (`Dial.fastOpen`). */
  isConnecting(fd: Fd): boolean;
  /** Copies what a socket has received into a buffer and leaves it in the socket's queue. */
  peek(fd: Fd, buffer: NativeBuffer): Result;
  /** Takes `length` bytes out of a socket's queue. */
  discard(fd: Fd, length: number, buffer: NativeBuffer): void;
  /** Sends the first `length` bytes of a buffer. */
  send(fd: Fd, buffer: NativeBuffer, length: number): Result;
  /** Acknowledges at once what a socket has received, including the SYN-ACK (TCP_QUICKACK). */
  acknowledge(fd: Fd): void;
  /** Makes close(2) of this socket send RST (SO_LINGER 0). */
  resetOnClose(fd: Fd): void;
  close(fd: Fd): void;
}

export class SystemConnectionKernel implements ConnectionKernel {
  private readonly loop: EventLoop;
  private readonly upstreamSockets: UpstreamSockets;
  private readonly state = allocate(1);

  constructor(loop: EventLoop, upstreamSockets: UpstreamSockets) {
    this.loop = loop;
    this.upstreamSockets = upstreamSockets;
  }

  watch(fd: Fd, handler: Handler): Result {
    return this.loop.add(fd, CONNECTION_EVENTS, handler);
  }

  lend(fd: number): void {
    this.loop.remove(fd as Fd);
    sys.lendFd(fd, true);
  }

  own(fd: number): void {
    sys.lendFd(fd, false);
  }

  open(dial: Dial, hopLimit: number): Fd | CallFailure {
    return this.upstreamSockets.open(dial, hopLimit);
  }

  error(fd: Fd): number {
    return Math.abs(sys.getsockopt(fd, SOL_SOCKET, SO_ERROR));
  }

  hasBytes(fd: Fd): boolean {
    return sys.recv(fd, this.state.address, 1, MSG_PEEK) > 0;
  }

  isConnecting(fd: Fd): boolean {
    const { address, bytes } = this.state;
    const result = sys.getsockoptBytes(fd, IPPROTO_TCP, TCP_INFO, address, 1);
    // The first byte of struct tcp_info is tcpi_state.
    return result >= 0 && bytes[0] === TCP_SYN_SENT;
  }

  peek(fd: Fd, { address, size }: NativeBuffer): Result {
    return sys.recv(fd, address, size, MSG_PEEK);
  }

  discard(fd: Fd, length: number, { address }: NativeBuffer): void {
    sys.recv(fd, address, length, MSG_TRUNC);
  }

  send(fd: Fd, { address }: NativeBuffer, length: number): Result {
    return sys.send(fd, address, length, MSG_NOSIGNAL);
  }

  acknowledge(fd: Fd): void {
    sys.setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, 1);
  }

  resetOnClose(fd: Fd): void {
    sys.setLinger(fd, true, 0);
  }

  close(fd: Fd): void {
    this.loop.close(fd);
  }
}

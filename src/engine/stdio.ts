/**
 * Standard input and output on the loop. Their open file descriptions are shared with the program
 * that started us, so O_NONBLOCK is never set on them: they are read and written only when the
 * kernel says that it will not block. What epoll cannot watch (files, /dev/null) never blocks.
 */

import { EPOLLIN, EPOLLOUT } from "../../ffi/constants.ts";
import { EBADF, EPERM, EPIPE } from "../../ffi/errno.ts";
import type { NativeBuffer } from "../../ffi/memory.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import type { EventLoop, Handler } from "./loop.ts";

const STDIN = 0 as Fd;
const STDOUT = 1 as Fd;

/** A write of this size to a pipe that is ready does not block (PIPE_BUF, pipe(7)). */
const PIPE_BUF = 4096;

/** Standard input: calls `onInput` when a read will not block, while it is wanted. */
export class StandardInput implements Handler {
  private readonly loop: EventLoop;
  private readonly onInput: () => void;
  private wanted = false;
  private deferred = false;
  private watchable = true;

  constructor(loop: EventLoop, onInput: () => void) {
    this.loop = loop;
    this.onInput = onInput;
  }

  onReady(): void {
    if (this.wanted) this.onInput();
  }

  /** Asks for `onInput`, again and again until `rest`. */
  want(): void {
    if (this.watchable && !this.wanted) {
      this.watchable = this.loop.add(STDIN, EPOLLIN, this) >= 0;
    }
    this.wanted = true;
    if (!this.watchable) this.defer();
  }

  rest(): void {
    if (!this.wanted) return;
    this.wanted = false;
    if (this.watchable) this.loop.remove(STDIN);
  }

  /** Reads into `buffer` from `offset`: bytes, 0 at the end. A closed standard input has ended. */
  read(buffer: NativeBuffer, offset: number): number {
    const count = sys.read(STDIN, buffer.address + offset, buffer.size - offset);
    if (this.wanted && !this.watchable) this.defer();
    return count === -EBADF ? 0 : count;
  }

  /** Input that epoll cannot watch is read once a turn, so that the other side gets its turns. */
  private defer(): void {
    if (this.deferred) return;
    this.deferred = true;
    this.loop.defer(() => {
      this.deferred = false;
      if (this.wanted) this.onInput();
    });
  }
}

/** Standard output: `write` takes what will not block; `onSpace` is called when it takes more. */
export class StandardOutput implements Handler {
  private readonly loop: EventLoop;
  private readonly onSpace: () => void;
  private waiting = false;
  private watchable: boolean | undefined;

  constructor(loop: EventLoop, onSpace: () => void) {
    this.loop = loop;
    this.onSpace = onSpace;
  }

  onReady(): void {
    this.rest();
    this.onSpace();
  }

  /** Calls `onSpace` once, when a write will not block. */
  want(): void {
    if (this.waiting) return;
    const result = this.loop.add(STDOUT, EPOLLOUT, this);
    this.watchable = result !== -EPERM;
    if (this.watchable) this.waiting = true;
    else this.onSpace();
  }

  rest(): void {
    if (this.waiting) this.loop.remove(STDOUT);
    this.waiting = false;
  }

  /** Writes up to `length` bytes at `address`: bytes taken, or -EPIPE when nobody reads. */
  write(address: number, length: number): number {
    const result = sys.write(STDOUT, address, this.watchable ? Math.min(length, PIPE_BUF) : length);
    return result === -EBADF ? -EPIPE : result;
  }
}

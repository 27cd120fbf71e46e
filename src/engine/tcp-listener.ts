/** A listening socket: accepts in turns, and pauses at its bounds. */

import {
  EPOLLIN,
  F_SETFD,
  F_SETFL,
  FD_CLOEXEC,
  O_NONBLOCK,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
} from "../../ffi/constants.ts";
import {
  EAGAIN,
  ECONNABORTED,
  EINTR,
  EMFILE,
  ENFILE,
  ENOBUFS,
  ENOMEM,
  EPERM,
  errnoName,
  errnoText,
} from "../../ffi/errno.ts";
import type { NativeBuffer } from "../../ffi/memory.ts";
import { refused } from "../../ffi/refused-calls.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import { acceptPauseMs, acceptsPerTurn, backlog } from "./limits.ts";
import type { EventLoop, Handler } from "./loop.ts";
import { Timer } from "./timers.ts";

/** The events that a listener passes to its owner. */
export interface ListenerOwner {
  readonly loop: EventLoop;
  /** Where the address of an accepted peer is written. */
  readonly peerName: NativeBuffer;
  /** A new connection, non-blocking and close-on-exec, its peer in `peerName`. */
  accepted(fd: Fd): void;
  /** accept4(2) failed with `errno`; `resting`: the listener pauses accepting for a while. */
  acceptFailed(errno: number, resting: boolean): void;
}

export class Listener implements Handler {
  readonly fd: Fd;
  private readonly owner: ListenerOwner;
  private readonly timer = new Timer(() => this.resume());
  private watching = false;
  private isPaused = false;
  private isSuspended = false;

  constructor(owner: ListenerOwner, fd: Fd) {
    this.owner = owner;
    this.fd = fd;
    this.apply();
  }

  onReady(): void {
    const { budget } = this.owner.loop;
    const from = performance.now();
    const end = from + budget.acceptMs;
    let now = from;
    for (let turn = 0; turn < acceptsPerTurn && this.acceptOne(); turn++) {
      now = performance.now();
      if (now >= end) break;
    }
    budget.accepted(now - from);
  }

  /** Pauses accepting until `resume`: new connections wait in the backlog. */
  pause(): void {
    this.owner.loop.timers.disarm(this.timer);
    this.isPaused = true;
    this.apply();
  }

  /** Accepts again, unless it is suspended. */
  resume(): void {
    this.owner.loop.timers.disarm(this.timer);
    this.isPaused = false;
    this.apply();
  }

  /** Rests, whether or not it is paused, until this is called with false. */
  suspend(isSuspended: boolean): void {
    this.isSuspended = isSuspended;
    this.apply();
  }

  private apply(): void {
    const { loop } = this.owner;
    const watching = !this.isPaused && !this.isSuspended;
    if (watching === this.watching) return;
    this.watching = watching;
    if (watching) loop.add(this.fd, EPOLLIN, this);
    else loop.remove(this.fd);
  }

  /** Accepts the queued connections, then closes: close(2) alone would reset them. */
  closeEmptied(): void {
    this.acceptQueued();
    this.close();
  }

  /** Accepts the queued connections. */
  acceptQueued(): void {
    for (let count = 0; count < backlog && this.acceptOne(); count++);
  }

  close(): void {
    this.watching = false;
    this.owner.loop.timers.disarm(this.timer);
    this.owner.loop.close(this.fd);
  }

  /** Accepts one connection; false if nothing more is to be accepted now. */
  private acceptOne(): boolean {
    if (!this.watching) return false;
    const fd = this.accept();
    if (fd === -EAGAIN) return false;
    // The peer has gone already, or a firewall rejects it: go on with the next one.
    if (fd === -ECONNABORTED || fd === -EINTR || fd === -EPERM) return true;
    if (fd < 0) this.onAcceptError(-fd);
    else this.owner.accepted(fd as Fd);
    return fd >= 0;
  }

  private accept(): number {
    const { address, size } = this.owner.peerName;
    if (refused.accept4 === 0) {
      return sys.accept4(this.fd, address, size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    }
    const fd = sys.accept(this.fd, address, size);
    if (fd < 0) return fd;
    sys.fcntl(fd, F_SETFD, FD_CLOEXEC);
    sys.fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
  }

  private onAcceptError(errno: number): void {
    // Any other error is a network error of one connection, which accept(2) passes on.
    const resting = isShortage(errno);
    if (resting) {
      this.pause();
      this.owner.loop.timers.arm(this.timer, this.owner.loop.now + acceptPauseMs);
    }
    this.owner.acceptFailed(errno, resting);
  }
}

/** The line about a failed accept4(2); `resting`: the listener pauses. */
export function acceptWarning(errno: number, resting: boolean): string {
  const consequence = resting ? "accepting pauses until descriptors or memory are free" : "skipped";
  return `accept4: ${errnoText(errno)} (${errnoName(errno)}): ${consequence}`;
}

/** Whether a call failed for lack of descriptors or memory, which may be free later. */
export function isShortage(errno: number): boolean {
  return errno === EMFILE || errno === ENFILE || errno === ENOBUFS || errno === ENOMEM;
}

/** Pauses all `listeners` at a bound that they share. */
export function pauseAll(listeners: readonly Listener[]): void {
  for (const listener of listeners) listener.pause();
}

/** Resumes all of them: there is room again. */
export function resumeAll(listeners: readonly Listener[]): void {
  for (const listener of listeners) listener.resume();
}

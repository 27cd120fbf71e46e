/**
 * The event loop of one Worker: a blocking `epoll_wait` over its descriptors, and a timer wheel.
 *
 * Each descriptor has one handler. The loop closes descriptors and counts generations: it drops
 * events that the same `epoll_wait` returned for a closed descriptor, even if a new connection has
 * got the same number.
 */

import { EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD } from "../../ffi/constants.ts";
import { EpollEvents } from "../../ffi/epoll.ts";
import { check, EINTR, SyscallError } from "../../ffi/errno.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import { closedUntilQuiet, eventsPerWait, quietMs } from "./limits.ts";
import { StreamTurns } from "./stream-turns.ts";
import { TimerWheel } from "./timers.ts";
import { TurnBudget } from "./turn-budget.ts";

/** The owner of a registered descriptor. */
export interface Handler {
  /** `mask`: the EPOLL* bits that are ready. May add, change and close descriptors. */
  onReady(mask: number): void;
}

export class EventLoop {
  /** Milliseconds of the monotonic clock, read once a turn. */
  now = performance.now();
  readonly timers = new TimerWheel(this.now);
  /** What streams and listeners may do in the current turn. */
  readonly budget = new TurnBudget();
  readonly streams = new StreamTurns(this, this.budget);
  private readonly epoll: Fd;
  private readonly ready = new EpollEvents(eventsPerWait);
  private readonly change = new EpollEvents(1);
  private readonly handlers: (Handler | undefined)[] = [];
  private readonly generations: number[] = [];
  private deferred: (() => void)[] = [];
  private running = false;
  /** Called once at the end of each turn, before the loop sleeps. */
  onTurn: () => void = () => {};
  /** Called with the duration of each turn that has ended, and of `onQuiet`, in ms, and its end. */
  onTurnEnd: (ms: number, end: number) => void = () => {};
  /**
   * Called after `quietMs` without events, if `closedUntilQuiet` descriptors have left the loop
   * since the last call.
   */
  onQuiet: () => void = () => {};
  private closed = 0;

  constructor() {
    this.epoll = check(sys.epollCreate(), "epoll_create1") as Fd;
  }

  /** Registers `fd` for `mask`. Returns 0 or a negated errno (EPERM: a file epoll cannot watch). */
  add(fd: Fd, mask: number, handler: Handler): number {
    const generation = ((this.generations[fd] ?? 0) + 1) >>> 0;
    this.change.set(0, mask, fd, generation);
    const result = sys.epollCtl(this.epoll, EPOLL_CTL_ADD, fd, this.change.address);
    if (result < 0) return result;
    this.generations[fd] = generation;
    this.handlers[fd] = handler;
    return 0;
  }

  /** Changes what a registered `fd` is watched for. */
  modify(fd: Fd, mask: number): void {
    this.change.set(0, mask, fd, this.generations[fd] ?? 0);
    const result = sys.epollCtl(this.epoll, EPOLL_CTL_MOD, fd, this.change.address);
    if (result < 0) throw new SyscallError("epoll_ctl MOD", -result, `fd ${fd}`);
  }

  /** Stops watching `fd` and leaves it open. */
  remove(fd: Fd): void {
    this.forget(fd);
    sys.epollCtl(this.epoll, EPOLL_CTL_DEL, fd, 0);
  }

  /** Stops watching `fd` and closes it; the kernel takes a closed descriptor out of its epoll. */
  close(fd: Fd): void {
    this.forget(fd);
    sys.close(fd);
  }

  /** Runs `callback` in the next turn, after the handlers that are ready then. */
  defer(callback: () => void): void {
    this.deferred.push(callback);
  }

  /** Runs turns until `stop`. */
  run(): void {
    this.running = true;
    this.now = performance.now();
    while (this.running) this.turn();
    sys.close(this.epoll);
  }

  /** Ends `run` after the current turn. */
  stop(): void {
    this.running = false;
  }

  private turn(): void {
    this.onTurn();
    if (!this.running) return;
    const end = performance.now();
    this.budget.begin(end - this.now);
    this.onTurnEnd(end - this.now, end);
    const count = this.wait(this.deferred.length > 0 ? 0 : this.timers.delay(end));
    this.now = performance.now();
    if (count < 0 && count !== -EINTR) throw new SyscallError("epoll_wait", -count);
    for (let i = 0; i < count; i++) {
      const fd = this.ready.fd(i);
      if (this.generations[fd] !== this.ready.generation(i)) continue;
      this.handlers[fd]?.onReady(this.ready.mask(i));
    }
    this.timers.advance(this.now);
    if (this.deferred.length > 0) this.runDeferred();
  }

  /** Waits for events for `timeout` ms, or without limit if it is negative. */
  private wait(timeout: number): number {
    const isLong = timeout < 0 || timeout > quietMs;
    const mayBeQuiet = isLong && this.closed >= closedUntilQuiet;
    const ms = mayBeQuiet ? quietMs : timeout;
    const count = sys.epollWait(this.epoll, this.ready.address, eventsPerWait, ms);
    if (mayBeQuiet && count === 0) {
      this.closed = 0;
      const begun = performance.now();
      this.onQuiet();
      const end = performance.now();
      this.onTurnEnd(end - begun, end);
    }
    return count;
  }

  private runDeferred(): void {
    const callbacks = this.deferred;
    this.deferred = [];
    for (const callback of callbacks) callback();
  }

  private forget(fd: Fd): void {
    this.closed++;
    this.handlers[fd] = undefined;
    this.generations[fd] = ((this.generations[fd] ?? 0) + 1) >>> 0;
  }
}

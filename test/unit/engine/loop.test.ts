import { describe, expect, test } from "bun:test";
import { EFD_NONBLOCK, EPOLLIN, SOCK_STREAM } from "../../../ffi/constants.ts";
import { check, EBADF, EEXIST } from "../../../ffi/errno.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd } from "../../../ffi/types.ts";
import { closedUntilQuiet, quietMs } from "../../../src/engine/limits.ts";
import { EventLoop } from "../../../src/engine/loop.ts";
import { Timer } from "../../../src/engine/timers.ts";
import { boundSocket } from "../../helpers/sockets.ts";

const signalled = () => check(sys.eventfd(1, EFD_NONBLOCK), "eventfd") as Fd;

/** Threads of other tests may have freed lower numbers, which the kernel then gives first. */
function takeAgain(closed: Fd): Fd {
  const lower: Fd[] = [];
  let fd = signalled();
  for (; fd !== closed && lower.length < 1000; fd = signalled()) lower.push(fd);
  for (const other of lower) sys.close(other);
  return fd;
}

test("an event for a descriptor that was closed in the same turn is dropped", () => {
  const loop = new EventLoop();
  const log: string[] = [];
  // Both are ready; whichever comes first closes the other, whose number is then taken anew.
  const fds = [signalled(), signalled()];
  let reused: Fd | undefined;
  fds.forEach((fd, index) => {
    loop.add(fd, EPOLLIN, {
      onReady: () => {
        log.push("first generation");
        loop.close(fds[1 - index] as Fd);
        reused = takeAgain(fds[1 - index] as Fd);
        loop.add(reused, EPOLLIN, {
          onReady: () => {
            log.push("second generation");
            loop.stop();
          },
        });
        loop.remove(fd);
      },
    });
  });
  loop.run();
  expect(fds).toContain(reused as Fd);
  // The stale event of the closed descriptor reached neither handler.
  expect(log).toEqual(["first generation", "second generation"]);
  for (const fd of new Set([...fds, reused as Fd])) sys.close(fd);
});

test("a removed descriptor stays open and silent, and can be added again", () => {
  const loop = new EventLoop();
  const fd = signalled();
  let ready = 0;
  const handler = { onReady: () => ++ready };
  loop.add(fd, EPOLLIN, handler);
  loop.remove(fd);
  loop.timers.arm(new Timer(() => loop.add(fd, EPOLLIN, { onReady: () => loop.stop() })), loop.now);
  loop.run();
  expect(ready).toBe(0);
  expect(sys.eventfdDrain(fd)).toBe(8);
  loop.close(fd);
});

test("deferred work runs in the next turn, before the loop sleeps", () => {
  const loop = new EventLoop();
  const order: number[] = [];
  loop.defer(() => {
    order.push(1);
    loop.defer(() => {
      order.push(2);
      loop.stop();
    });
  });
  loop.run();
  expect(order).toEqual([1, 2]);
});

test("what epoll cannot watch is answered as an errno, not thrown", () => {
  const loop = new EventLoop();
  const listener = boundSocket(SOCK_STREAM) as Fd;
  expect(loop.add(listener, EPOLLIN, { onReady() {} })).toBe(0);
  expect(loop.add(listener, EPOLLIN, { onReady() {} })).toBe(-EEXIST);
  loop.close(listener);
  expect(loop.add(listener, EPOLLIN, { onReady() {} })).toBe(-EBADF);
});

describe("a quiet moment", () => {
  /** A loop out of which as many descriptors are taken as make one worth while, or fewer. */
  function used(times: number): EventLoop {
    const loop = new EventLoop();
    const fd = signalled();
    for (let i = 0; i < times; i++) {
      loop.add(fd, EPOLLIN, { onReady() {} });
      loop.remove(fd);
    }
    sys.close(fd);
    return loop;
  }

  test("comes once, when nothing happens any more", () => {
    const loop = used(closedUntilQuiet);
    let quiet = 0;
    loop.onQuiet = () => quiet++;
    loop.timers.arm(new Timer(() => loop.stop()), loop.now + 3.5 * quietMs);
    loop.run();
    expect(quiet).toBe(1);
  });

  test("is told with its duration, as each turn is", () => {
    const loop = used(closedUntilQuiet);
    const turns: number[] = [];
    loop.onTurnEnd = (ms) => turns.push(ms);
    loop.onQuiet = () => {
      for (const end = performance.now() + 20; performance.now() < end; );
    };
    loop.timers.arm(new Timer(() => loop.stop()), loop.now + 2 * quietMs);
    loop.run();
    expect(turns.length).toBeGreaterThan(1);
    expect(Math.max(...turns)).toBeGreaterThanOrEqual(20);
  });

  test("does not come after little", () => {
    const loop = used(closedUntilQuiet - 1);
    let quiet = 0;
    loop.onQuiet = () => quiet++;
    loop.timers.arm(new Timer(() => loop.stop()), loop.now + 2 * quietMs);
    loop.run();
    expect(quiet).toBe(0);
  });

  test("does not come while something happens again and again", () => {
    const loop = used(closedUntilQuiet);
    let quiet = 0;
    loop.onQuiet = () => quiet++;
    const end = loop.now + 2 * quietMs;
    const timer = new Timer((now) => {
      if (now >= end) loop.stop();
      else loop.timers.arm(timer, now + quietMs / 4);
    });
    loop.timers.arm(timer, loop.now);
    loop.run();
    expect(quiet).toBe(0);
  });
});

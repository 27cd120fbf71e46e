import { expect, test } from "bun:test";
import { AF_INET, IP_LOCAL_PORT_RANGE, IPPROTO_IP, SOCK_STREAM } from "../../../ffi/constants.ts";
import { check, EADDRNOTAVAIL } from "../../../ffi/errno.ts";
import * as sys from "../../../ffi/sys.ts";
import { portWindow, portWindowsTried } from "../../../src/engine/limits.ts";
import { PortWindows } from "../../../src/engine/port-windows.ts";
import { boundSocket, connectTo, localAddress } from "../../helpers/sockets.ts";

/** The kernel's default. */
const range = { first: 32_768, last: 60_999 };
const isKnown = (() => {
  const fd = check(sys.socket(AF_INET, SOCK_STREAM, 0), "socket");
  const result = sys.setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, 0);
  sys.close(fd);
  return result === 0;
})();

test("windows are within the range, at both of its ends as well", () => {
  for (const [first, last] of [
    [32_768, 60_999],
    [1024, 1024],
    [1, 65_535],
    [50_000, 50_063],
  ] as const) {
    const seen = new Set<number>();
    let random = 0;
    const windows = new PortWindows({ first, last }, () => random);
    for (const value of [0, 1, 63, 64, last - first - 63, last - first, 2 ** 32 - 1]) {
      random = Math.max(0, value);
      const window = windows.next();
      const [low, high] = [window & 0xffff, window >>> 16];
      expect(low).toBeGreaterThanOrEqual(first);
      expect(high).toBeLessThanOrEqual(last);
      expect(high - low).toBe(Math.min(portWindow - 1, last - first));
      seen.add(low);
    }
    if (last - first > 1000) expect(seen.size).toBeGreaterThan(3);
  }
});

test.if(isKnown)(
  "a window is full: others are tried, then the whole range, not at each time",
  () => {
    const listener = boundSocket(SOCK_STREAM);
    const fds: number[] = [listener];
    // The same window at each time.
    const windows = new PortWindows(range, () => 777);
    const low = windows.next() & 0xffff;
    const inWindow = (port: number) => port >= low && port < low + portWindow;
    let calls = 0;
    const open = () => {
      const fd = check(sys.socket(AF_INET, SOCK_STREAM, 0), "socket");
      fds.push(fd);
      const result = windows.connect(fd, () => {
        calls++;
        try {
          connectTo(fd, listener);
          return 0;
        } catch {
          return -EADDRNOTAVAIL;
        }
      });
      // Its queue is short.
      if (result === 0) fds.push(check(sys.accept4(listener, 0, 0, 0), "accept4"));
      return result === 0 ? localAddress(fd).port : result;
    };
    const ports: number[] = [];
    let port = open();
    while (inWindow(port)) {
      ports.push(port);
      port = open();
    }
    // Another program may have some of them.
    expect(ports.length).toBeGreaterThan(portWindow / 2);
    expect(calls).toBe(ports.length + portWindowsTried + 1);
    expect(port).toBeGreaterThanOrEqual(range.first);
    expect(port).toBeLessThanOrEqual(range.last);
    for (const fd of fds) sys.close(fd);
  },
);

test("a walk through the whole range has a share of the time, and others fail at once", () => {
  let calls = 0;
  const windows = new PortWindows(range, () => 1);
  const fd = check(sys.socket(AF_INET, SOCK_STREAM, 0), "socket");
  const slow = () => {
    calls++;
    if (calls > portWindowsTried) Bun.sleepSync(20);
    return -EADDRNOTAVAIL;
  };
  expect(windows.connect(fd, slow)).toBe(-EADDRNOTAVAIL);
  const before = calls;
  expect(windows.connect(fd, slow)).toBe(-EADDRNOTAVAIL);
  expect(calls).toBe(isKnown ? before + portWindowsTried : before + 1);
  sys.close(fd);
});

test("a short range has no windows: the kernel's walk is short, too", () => {
  let calls = 0;
  const windows = new PortWindows({ first: 40_000, last: 40_100 }, () => 1);
  expect(windows.connect(-1, () => -++calls)).toBe(-1);
});

test("the kernel lacks the option: it connects without", () => {
  let calls = 0;
  const windows = new PortWindows(range, () => 1);
  // The option is refused, for it is no socket.
  const fd = check(sys.eventfd(0, 0), "eventfd");
  expect(windows.connect(fd, () => ++calls)).toBe(1);
  expect(windows.connect(fd, () => ++calls)).toBe(2);
  sys.close(fd);
});

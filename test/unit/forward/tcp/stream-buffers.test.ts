import { afterEach, expect, test } from "bun:test";
import {
  IPPROTO_TCP,
  SO_RCVBUF,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_NOTSENT_LOWAT,
} from "../../../../ffi/constants.ts";
import * as sys from "../../../../ffi/sys.ts";
import {
  earnedReceiveBytes,
  growingReceiveBytes,
  scarceReceiveBytes,
  streamReceiveBytes,
  unsentBytesMax,
  unsentBytesMin,
} from "../../../../src/engine/limits.ts";
import { TcpMemory } from "../../../../src/engine/tcp-memory.ts";
import { StreamBuffers } from "../../../../src/forward/tcp/stream-buffers.ts";
import { boundSocket } from "../../../helpers/sockets.ts";

const GiB = 1024 * 1024 * 1024;
const opened: number[] = [];
afterEach(() => {
  for (const fd of opened.splice(0)) sys.close(fd);
});

const socket = () => {
  const fd = boundSocket(SOCK_STREAM);
  opened.push(fd);
  return fd;
};

/** Those of a host whose TCP has 1 GiB, of which so many bytes are used. */
const buffers = (used = 0) => {
  const memory = new TcpMemory(
    1,
    () => {},
    (path) => {
      if (path.endsWith("tcp_mem")) return `${GiB / 4096} 0 0`;
      if (path.endsWith("tcp_wmem")) return "";
      if (path.endsWith("tcp_rmem")) return `4096 131072 ${GiB / 16}`;
      return `TCP: inuse 1 orphan 0 tw 2 alloc 3 mem ${Math.floor(used / 4096)}\n`;
    },
  );
  return new StreamBuffers(memory, { now: 0 });
};

/** As the kernel doubles what is asked for. */
const receives = (fd: number) => sys.getsockopt(fd, SOL_SOCKET, SO_RCVBUF) / 2;
const unsent = (fd: number) => sys.getsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT);

test("a stream begins with a small receive buffer, and little that is unsent", () => {
  const [from, to] = [socket(), socket()];
  buffers().begin(from, to);
  expect([receives(from), unsent(to)]).toEqual([streamReceiveBytes, unsentBytesMax]);
});

test("while memory is short a new socket receives little, and nothing is widened", () => {
  const [from, to, fresh] = [socket(), socket(), socket()];
  const before = receives(fresh);
  buffers().bound(fresh);
  expect(receives(fresh)).toBe(before);
  const short = buffers(0.6 * GiB);
  short.bound(fresh);
  short.begin(fresh, to);
  expect([receives(fresh), unsent(to)]).toEqual([scarceReceiveBytes, unsentBytesMin]);
  // What it has offered already has to have room.
  short.begin(from, to);
  expect(receives(from)).toBe(streamReceiveBytes);
  expect([short.widen(from, to), receives(from)]).toEqual([false, streamReceiveBytes]);
});

test("few streams are widened, whosever they are; the room of one that ends is for others", () => {
  const all = buffers();
  const fds = Array.from({ length: 6 }, socket);
  const sink = socket();
  for (const fd of fds) all.begin(fd, sink);
  expect(fds.map((fd) => all.widen(fd, sink))).toEqual([true, true, true, true, false, false]);
  expect(fds.map(receives)).toEqual([
    ...Array(4).fill(growingReceiveBytes),
    earnedReceiveBytes,
    earnedReceiveBytes,
  ]);
  // Zero: what net.ipv4.tcp_notsent_lowat says, which is no bound by default.
  expect(unsent(sink)).toBe(0);
  all.narrow();
  expect([all.widen(fds[4] as number, sink), all.widen(fds[5] as number, sink)]).toEqual([
    true,
    false,
  ]);
});

test("of streams that begin within one second, what they may hold is bounded", () => {
  const [from, to] = [socket(), socket()];
  const all = buffers(0.4 * GiB);
  let begun = 0;
  do {
    all.begin(from, to);
    begun++;
  } while (unsent(to) === unsentBytesMax && begun < 1_000);
  expect(begun).toBeGreaterThan(10);
  expect(begun).toBeLessThan(1_000);
});

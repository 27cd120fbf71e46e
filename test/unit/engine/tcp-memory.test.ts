import { expect, test } from "bun:test";
import { SO_RCVBUF, SOCK_STREAM, SOL_SOCKET } from "../../../ffi/constants.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd } from "../../../ffi/types.ts";
import { smallReceiveBytes } from "../../../src/engine/limits.ts";
import { boundReceiving, TcpMemory, wideConnections } from "../../../src/engine/tcp-memory.ts";
import { boundSocket } from "../../helpers/sockets.ts";

/** The files of /proc of a host: pages that TCP has and may have, and the largest buffer. */
const host =
  (used: number, low: number, most = 6_291_456) =>
  (path: string) => {
    if (path.endsWith("tcp_mem")) return `${low}\t${2 * low}\t${3 * low}\n`;
    if (path.endsWith("tcp_rmem")) return `4096\t131072\t${most}\n`;
    return `sockets: used 15
TCP: inuse 4001 orphan 802 tw 2 alloc 8820 mem ${used}
UDP: inuse 0 mem 330
`;
  };

test("memory is short from half of what TCP may have on; the kernel is asked once a second", () => {
  let used = 40;
  let said = 0;
  const memory = new TcpMemory(
    () => said++,
    (path) => host(used, 100)(path),
  );
  expect(memory.isShort(0)).toBe(false);
  used = 60;
  expect(memory.isShort(500)).toBe(false);
  expect(memory.isShort(1_500)).toBe(true);
  used = 40;
  expect([memory.isShort(2_000), memory.isShort(3_000)]).toEqual([true, false]);
  expect(said).toBe(1);
});

test("where the kernel says nothing, memory is not short", () => {
  const memory = new TcpMemory(
    () => {},
    () => "",
  );
  expect(memory.isShort(5_000)).toBe(false);
  expect(wideConnections(() => "")).toBe(4);
});

test("the large buffers of one client are a small part of the memory", () => {
  const [MiB, GiB] = [1024 * 1024, 1024 * 1024 * 1024];
  const wide = (memory: number, most: number) => wideConnections(host(0, memory / 4096, most));
  expect(wide(GiB, 6 * MiB)).toBe(21);
  expect(wide(GiB, 64 * MiB)).toBe(4);
  expect(wide(64 * GiB, 6 * MiB)).toBe(64);
});

test("a small buffer is of a fixed size", () => {
  const fd = boundSocket(SOCK_STREAM) as Fd;
  boundReceiving(fd);
  expect(sys.getsockopt(fd, SOL_SOCKET, SO_RCVBUF)).toBe(2 * smallReceiveBytes);
  sys.close(fd);
});

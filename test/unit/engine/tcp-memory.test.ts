import { expect, test } from "bun:test";
import { TcpMemory } from "../../../src/engine/tcp-memory.ts";

const [MiB, GiB] = [1024 * 1024, 1024 * 1024 * 1024];

/** The files of /proc of a host: pages that TCP has and may have, and the largest buffer. */
const host =
  (used: number, low: number, most = 6 * MiB) =>
  (path: string) => {
    if (path.endsWith("tcp_mem")) return `${low}\t${2 * low}\t${3 * low}\n`;
    if (path.endsWith("tcp_wmem")) return "4096\t16384\t0\n";
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
    1,
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

test("within the second, what streams of all Workers may hold counts as used", () => {
  const low = GiB / 4096;
  const memory = new TcpMemory(2, () => {}, host(low / 4, low));
  expect(memory.isShort(0)).toBe(false);
  memory.promise(GiB / 8);
  expect(memory.isShort(1)).toBe(false);
  memory.promise(1);
  expect([memory.isShort(2), memory.isShort(999), memory.isShort(1_000)]).toEqual([
    true,
    true,
    false,
  ]);
});

test("where tcp_mem is not shown, as in containers, it is the default", () => {
  const memory = (used: number) =>
    new TcpMemory(
      1,
      () => {},
      (path) => {
        if (path.endsWith("tcp_mem")) return "";
        if (path.endsWith("meminfo")) return "MemTotal:       24683656 kB\nMemFree: 1 kB\n";
        return host(used, 0)(path);
      },
    );
  // As the kernel reckons: 287,898 pages.
  expect([memory(143_000).isShort(0), memory(146_000).isShort(0)]).toEqual([false, true]);
});

test("what is too much is a part of this Worker's", () => {
  const excess = (used: number, workers: number) => {
    const memory = new TcpMemory(workers, () => {}, host(used, 1_000));
    memory.isShort(0);
    return memory.excess / 4096;
  };
  expect([excess(0, 1), excess(750, 1)]).toEqual([0, 0]);
  expect([excess(950, 1), excess(950, 2)]).toEqual([200, 100]);
});

test("where the kernel says nothing, memory is not short, and few buffers grow", () => {
  const memory = new TcpMemory(
    1,
    () => {},
    () => "",
  );
  memory.promise(GiB);
  expect([memory.isShort(5_000), memory.excess]).toEqual([false, 0]);
  expect([memory.wideStreams, memory.wideOfClient, memory.largestStream]).toEqual([4, 4, 0]);
});

test("the large buffers of one client, and of all, are a small part of the memory", () => {
  const wide = (bytes: number, most: number, workers = 1) => {
    const memory = new TcpMemory(workers, () => {}, host(0, bytes / 4096, most));
    return [memory.wideOfClient, memory.wideStreams];
  };
  expect(wide(GiB, 6 * MiB)).toEqual([21, 42]);
  expect(wide(GiB, 6 * MiB, 2)).toEqual([21, 21]);
  expect(wide(GiB, 64 * MiB)).toEqual([4, 4]);
  expect(wide(64 * GiB, 6 * MiB)).toEqual([64, 1_024]);
});

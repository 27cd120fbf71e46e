/**
 * Puts native buffers to all their uses while the garbage is collected by force, and finds whether
 * the kernel and JavaScript still see the same bytes. Run by `test/unit/ffi/memory.test.ts` in its
 * own thread, and by this file as a Worker.
 */

import { isMainThread, parentPort, workerData } from "node:worker_threads";
import { EPOLL_CTL_ADD, EPOLLIN } from "../../ffi/constants.ts";
import { EpollEvents } from "../../ffi/epoll.ts";
import { check } from "../../ffi/errno.ts";
import { allocate, NativeBuffer } from "../../ffi/memory.ts";
import { decodeSockaddr } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Address } from "../../ffi/types.ts";
import { localAddress, tcpPair } from "./sockets.ts";

// Small ones are those that a typed array keeps where they can move.
const SIZES = [1, 8, 16, 28, 64, 100, 128, 512, 1000, 1007, 1008, 1009, 4096, 65_536];

/** The byte at `index` of buffer `seed`. */
const pattern = (seed: number, index: number) => (seed * 31 + index * 7 + 1) & 0xff;

/** Memory that only its address is known of: the buffer's wrapper is dropped. */
function forgotten(seed: number): { address: Address; size: number; seed: number } {
  const buffer = allocate(SIZES[seed % SIZES.length] as number);
  for (let index = 0; index < buffer.size; index++) buffer.bytes[index] = pattern(seed, index);
  // What moves the storage of an ordinary small array.
  if (buffer.bytes.subarray(0, 1).buffer !== buffer.bytes.buffer) throw new Error("moved");
  return { address: buffer.address, size: buffer.size, seed };
}

/** Fresh small arrays, to take the place of anything that was freed. */
function churn(): number {
  let sum = 0;
  for (let index = 0; index < 2000; index++)
    sum += new Uint8Array(16 + (index % 64)).fill(9).length;
  return sum;
}

/** Uses buffers `rounds` times, each under a full collection; answers what went wrong. */
export function stressBuffers(rounds: number): string[] {
  const problems: string[] = [];
  const [client, server] = tcpPair();
  const [out, into] = sys.pipe(0) as [number, number];
  const epoll = check(sys.epollCreate(), "epoll_create1");
  const events = new EpollEvents(4);
  events.set(0, EPOLLIN, server, 42);
  check(sys.epollCtl(epoll, EPOLL_CTL_ADD, server, events.address), "epoll_ctl");
  const received = allocate(65_536);
  const name = allocate(128);
  const expectedPort = localAddress(server).port;
  const buffers = Array.from({ length: 3 * SIZES.length }, (_, seed) => forgotten(seed));
  const addresses = [received.address, name.address, events.address].join();

  for (let round = 0; round < rounds; round++) {
    Bun.gc(true);
    churn();
    for (const { address, size, seed } of buffers) {
      // Through the kernel both ways: out of memory that only its address is known of, by way of a
      // socket and, every other time, of a pipe; then into a buffer that is held.
      check(sys.send(client, address, size, 0), "send");
      const count = check(
        sys.epollWait(epoll, events.address, events.capacity, 1000),
        "epoll_wait",
      );
      if (count !== 1 || events.fd(0) !== server || events.generation(0) !== 42) {
        problems.push(`round ${round}: epoll told ${count} events, ${events.fd(0)}`);
      }
      let got = 0;
      while (got < size) {
        const at = received.address + got;
        got += seed % 2 ? sys.recv(server, at, size - got, 0) : throughPipe(at, size - got);
      }
      for (let index = 0; index < size; index++) {
        if (received.bytes[index] !== pattern(seed, index)) {
          problems.push(`round ${round}: ${size} bytes: byte ${index} differs`);
          break;
        }
      }
    }
    check(sys.getsockname(server, name.address, name.size), "getsockname");
    if (decodeSockaddr(name.view, 0)?.port !== expectedPort) problems.push("getsockname lied");
    if ([received.address, name.address, events.address].join() !== addresses) {
      problems.push(`round ${round}: an address changed`);
    }
  }
  for (const fd of [client, server, out, into, epoll]) sys.close(fd);
  return problems;

  function throughPipe(address: Address, size: number): number {
    const moved = check(sys.splice(server, into, size, 0), "splice");
    return check(sys.read(out, address, moved), "read");
  }
}

/** Which of an allocated and an unregistered buffer, both dropped, are collected. */
export async function collected(): Promise<string[]> {
  const finalized: string[] = [];
  const registry = new FinalizationRegistry<string>((what) => finalized.push(what));
  const drop = () => {
    for (let index = 0; index < 50; index++) registry.register(allocate(16), "allocated");
    for (let index = 0; index < 50; index++)
      registry.register(new NativeBuffer(16), "unregistered");
  };
  drop();
  for (let turn = 0; turn < 20; turn++) {
    Bun.gc(true);
    churn();
    await Bun.sleep(0);
  }
  return [...new Set(finalized)];
}

if (!isMainThread && workerData === "native-memory") {
  parentPort?.postMessage({ problems: stressBuffers(20), collected: await collected() });
}

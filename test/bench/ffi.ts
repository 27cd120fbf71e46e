/** What a system call costs through `ffi/sys.ts`, against the same call from C. */

import { openSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  EFD_NONBLOCK,
  EPOLL_CTL_ADD,
  EPOLL_CTL_MOD,
  EPOLLIN,
  SOCK_CLOEXEC,
  SOCK_STREAM,
} from "../../ffi/constants.ts";
import { EpollEvents } from "../../ffi/epoll.ts";
import { check } from "../../ffi/errno.ts";
import { allocate } from "../../ffi/memory.ts";
import * as sys from "../../ffi/sys.ts";
import { which } from "../helpers/tools.ts";
import { markdownTable, Recorder, type Series } from "./statistics.ts";

const ITERATIONS = 200_000;
const WARM_UP = 20_000;

/** The calls, each on descriptors of its own that are ready for it. */
function makeCalls(): Record<string, () => number> {
  const byte = allocate(8);
  const zero = openSync("/dev/zero", "r");
  const event = check(sys.eventfd(1, EFD_NONBLOCK), "eventfd");
  const epoll = check(sys.epollCreate(), "epoll_create1");
  const interest = new EpollEvents(1);
  const ready = new EpollEvents(4);
  const [one, other] = unixPair();
  interest.set(0, EPOLLIN, event, 0);
  check(sys.epollCtl(epoll, EPOLL_CTL_ADD, event, interest.address), "epoll_ctl");
  return {
    getppid: () => sys.getppid(),
    read: () => sys.read(zero, byte.address, 1),
    "send + recv": () => sys.send(one, byte.address, 1, 0) + sys.recv(other, byte.address, 1, 0),
    epoll_ctl: () => sys.epollCtl(epoll, EPOLL_CTL_MOD, event, interest.address),
    epoll_wait: () => sys.epollWait(epoll, ready.address, 4, -1),
  };
}

/** Two connected AF_UNIX streams, by way of an address that the kernel chooses (unix(7)). */
function unixPair(): [one: number, other: number] {
  const AF_UNIX = 1;
  const name = allocate(128);
  const open = () => check(sys.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  const [listener, one] = [open(), open()];
  name.view.setUint16(0, AF_UNIX, true);
  check(sys.bind(listener, name.address, 2), "bind");
  check(sys.listen(listener, 1), "listen");
  check(sys.getsockname(listener, name.address, name.size), "getsockname");
  // The family, a NUL and five hexadecimal digits.
  check(sys.connect(one, name.address, 8), "connect");
  const other = check(sys.accept4(listener, 0, 0, SOCK_CLOEXEC), "accept4");
  sys.close(listener);
  return [one, other];
}

function nanosecondsPerCall(call: () => number, iterations: number): number {
  let failures = 0;
  const start = Bun.nanoseconds();
  for (let i = 0; i < iterations; i++) if (call() < 0) failures++;
  const spent = Bun.nanoseconds() - start;
  if (failures > 0) throw new Error(`${failures} calls failed`);
  return spent / iterations;
}

/** Compiles the C program; the command that runs it. */
async function reference(folder: string): Promise<string[]> {
  const binary = join(folder, "syscalls");
  const source = join(import.meta.dir, "syscalls.c");
  const built = Bun.spawnSync(["gcc", "-O2", "-o", binary, source], { stderr: "inherit" });
  if (!built.success) throw new Error("gcc failed");
  return [binary, String(ITERATIONS)];
}

/** Measures `rounds` times, C and tproxy in turns. Nanoseconds per call. */
export async function measureFfi(rounds: number): Promise<Series[]> {
  const recorder = new Recorder();
  const calls = makeCalls();
  const folder = await mkdtemp(join(tmpdir(), "tproxy-bench-"));
  try {
    const command = which("gcc") === undefined ? undefined : await reference(folder);
    for (const call of Object.values(calls)) nanosecondsPerCall(call, WARM_UP);
    for (let round = 0; round < rounds; round++) {
      const printed = command === undefined ? "" : Bun.spawnSync(command).stdout.toString();
      for (const [, name, time] of printed.matchAll(/^(.+) ([\d.]+)$/gm)) {
        recorder.add(`${name} in C`, Number(time));
      }
      for (const [name, call] of Object.entries(calls)) {
        recorder.add(name, nanosecondsPerCall(call, ITERATIONS));
      }
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return recorder.series;
}

/** The table of what `measureFfi` found. */
export function ffiTable(rows: ReadonlyMap<string, number>): string {
  const names = [...rows.keys()].filter((name) => !name.endsWith(" in C"));
  return markdownTable(
    ["system call", "C, ns", "tproxy, ns", "more, ns", "ratio"],
    names.map((name) => {
      const own = rows.get(name) ?? Number.NaN;
      const c = rows.get(`${name} in C`);
      if (c === undefined) return [name, "no gcc", own.toFixed(0), "", ""];
      return [name, c.toFixed(0), own.toFixed(0), (own - c).toFixed(0), (own / c).toFixed(2)];
    }),
  );
}

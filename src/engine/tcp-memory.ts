/**
 * Whether the kernel's memory for TCP is short. All sockets of the host share it (tcp_mem, tcp(7)),
 * and when it is used up the windows of all shrink. What fills it first behind slow readers are the
 * receive buffers of the other side, which the kernel lets grow to megabytes as soon as a stream is
 * fast, and cannot take back. So sockets get buffers of a fixed small size from the beginning where
 * that is foreseen: when half of the memory is used, and from some number of connections of one
 * client on.
 */

import { readFileSync } from "node:fs";
import { SO_RCVBUF, SOL_SOCKET } from "../../ffi/constants.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import {
  smallReceiveBytes,
  tcpMemoryIntervalMs,
  tcpMemoryShare,
  wideConnectionsMax,
  wideConnectionsMin,
  wideShare,
} from "./limits.ts";

const PAGE_BYTES = 4096;

const SOCKSTAT = "/proc/net/sockstat";
const TCP_MEM = "/proc/sys/net/ipv4/tcp_mem";
const TCP_RMEM = "/proc/sys/net/ipv4/tcp_rmem";

/** The text of a file of /proc, empty if it cannot be read. */
type Read = (path: string) => string;

const readProc: Read = (path) => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
};

/** Up to how many pages TCP has without regulation; NaN if that is not known. */
const lowPages = (read: Read) => Number.parseInt(read(TCP_MEM), 10);

/** How many it has. */
const usedPages = (read: Read) => Number(/^TCP:.* mem (\d+)$/m.exec(read(SOCKSTAT))?.[1]);

/**
 * How many connections to upstreams of one client may have receive buffers that grow as far as the
 * kernel lets them (tcp_rmem): together they then take a small part of TCP's memory.
 */
export function wideConnections(read: Read = readProc): number {
  const [, , most] = read(TCP_RMEM).trim().split(/\s+/);
  const wide = Math.floor((lowPages(read) * PAGE_BYTES * wideShare) / Number(most));
  return Math.max(wideConnectionsMin, Math.min(wideConnectionsMax, wide || 0));
}

export class TcpMemory {
  private readonly read: Read;
  private readonly onShort: () => void;
  private readAt = Number.NEGATIVE_INFINITY;
  private short = false;

  /** `onShort` is called each time that it has been found short. */
  constructor(onShort: () => void, read: Read = readProc) {
    this.onShort = onShort;
    this.read = read;
  }

  /** Whether it is short at `now` (ms). The kernel is asked once a second at the most. */
  isShort(now: number): boolean {
    if (now < this.readAt + tcpMemoryIntervalMs) return this.short;
    this.readAt = now;
    this.short = usedPages(this.read) > lowPages(this.read) * tcpMemoryShare;
    if (this.short) this.onShort();
    return this.short;
  }
}

/** A buffer of a fixed small size for what a new socket receives. */
export function boundReceiving(fd: Fd): void {
  sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, smallReceiveBytes);
}

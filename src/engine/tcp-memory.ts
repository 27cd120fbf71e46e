/**
 * Checks whether the kernel's memory for TCP is short. All sockets of the host share it (tcp_mem,
 * tcp(7)); when it is used up, all windows shrink. It is read once a second. Bytes that streams of
 * the last second may hold count as used.
 */

import { readFileSync } from "node:fs";
import {
  stalledEndShare,
  tcpMemoryIntervalMs,
  tcpMemoryShare,
  wideOfClientMax,
  wideOfClientShare,
  wideStreamsMax,
  wideStreamsMin,
  wideStreamsShare,
} from "./limits.ts";

const PAGE_BYTES = 4096;

const SOCKSTAT = "/proc/net/sockstat";
const MEMINFO = "/proc/meminfo";
const TCP_MEM = "/proc/sys/net/ipv4/tcp_mem";
const TCP_RMEM = "/proc/sys/net/ipv4/tcp_rmem";
const TCP_WMEM = "/proc/sys/net/ipv4/tcp_wmem";

const SHORT =
  "the host's memory for TCP is half used (net.ipv4.tcp_mem): " +
  "from three quarters on, connections end whose readers have stalled";

/** The text of a file of /proc, empty if it cannot be read. */
type Read = (path: string) => string;

const readProc: Read = (path) => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
};

/**
 * The memory that TCP has without regulation, in bytes; NaN if it is unknown. Only the first
 * network namespace of a host shows tcp_mem. Elsewhere, as in containers, this assumes the default
 * (tcp_init_mem() in tcp.c): three quarters of a sixteenth of the memory.
 */
function lowBytes(read: Read): number {
  const pages = Number.parseInt(read(TCP_MEM), 10);
  if (!Number.isNaN(pages)) return pages * PAGE_BYTES;
  return (Number(/^MemTotal: +(\d+) kB$/m.exec(read(MEMINFO))?.[1]) * 1024 * 3) / 64;
}

/** The third of three sizes, the largest one, in bytes; 0 if that is not known. */
const largest = (text: string) => Number(text.trim().split(/\s+/)[2]) || 0;

/** The memory that TCP uses, in bytes. */
const usedBytes = (read: Read) =>
  Number(/^TCP:.* mem (\d+)$/m.exec(read(SOCKSTAT))?.[1]) * PAGE_BYTES;

export class TcpMemory {
  /**
   * How far the kernel lets the buffers of a stream grow (tcp_rmem of one socket and tcp_wmem of
   * the other), in bytes; 0 if that is not known.
   */
  readonly largestStream: number;
  private readonly read: Read;
  private readonly warn: (text: string) => void;
  private readonly workers: number;
  private readAt = Number.NEGATIVE_INFINITY;
  private low = Number.NaN;
  private used = Number.NaN;
  /** Bytes that streams may hold which began since the last reading. */
  private promised = 0;

  /** `workers` Workers share the memory. Calls `warn` whenever it is short. */
  constructor(workers: number, warn: (text: string) => void, read: Read = readProc) {
    this.workers = workers;
    this.warn = warn;
    this.read = read;
    this.low = lowBytes(read);
    this.largestStream = largest(read(TCP_RMEM)) + largest(read(TCP_WMEM));
  }

  /** A stream has begun that may hold this many bytes. */
  promise(bytes: number): void {
    this.promised += bytes;
  }

  /** Whether it is short at `now` (ms). */
  isShort(now: number): boolean {
    if (now >= this.readAt + tcpMemoryIntervalMs) this.update(now);
    return this.used + this.promised * this.workers > this.low * tcpMemoryShare;
  }

  /** How many bytes this Worker should free: its part of the last reading's excess. */
  get excess(): number {
    const excess = this.used - this.low * stalledEndShare;
    return excess > 0 ? Math.ceil(excess / this.workers) : 0;
  }

  /** How many streams of this Worker may have receive buffers that grow without our bound. */
  get wideStreams(): number {
    const wide = this.streamsIn(wideStreamsShare / this.workers);
    return Math.max(wideStreamsMin, Math.min(wideStreamsMax, wide));
  }

  /** The same for one client. */
  get wideOfClient(): number {
    return Math.max(wideStreamsMin, Math.min(wideOfClientMax, this.streamsIn(wideOfClientShare)));
  }

  /** How many of the largest streams fit into a part of the memory. */
  private streamsIn(part: number): number {
    return Math.floor((this.low * part) / this.largestStream) || 0;
  }

  private update(now: number): void {
    this.readAt = now;
    this.promised = 0;
    this.low = lowBytes(this.read);
    this.used = usedBytes(this.read);
    if (this.used > this.low * tcpMemoryShare) this.warn(SHORT);
  }
}

/** A listening socket of `forward --udp`: what it is, and how it is read. */

import { SO_ERROR, SO_MEMINFO, SOL_SOCKET } from "../../../ffi/constants.ts";
import { EAGAIN } from "../../../ffi/errno.ts";
import { allocate } from "../../../ffi/memory.ts";
import type { ReceiveBatch } from "../../../ffi/receive-batch.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd } from "../../../ffi/types.ts";
import { listenerBufferBytes, newcomersByFill } from "../../engine/limits.ts";
import { prepareForMuch } from "../../engine/udp-sockets.ts";
import type { ServedSocket } from "../../workers/protocol.ts";

/** SO_MEMINFO begins with the bytes that are queued for reading, and how many may be. */
const memory = allocate(2 * 4);
const memoryWords = memory.words();

export class UdpListener {
  readonly fd: Fd;
  readonly port: number;
  readonly domain: number;
  /** How often the queue has been seen empty. */
  emptied = 0;
  /** How many sessions the datagrams of the last batch may still begin. */
  private newcomers = Number.POSITIVE_INFINITY;

  /** `joins`: the kernel may join datagrams of one flow (UDP_GRO). */
  constructor({ fd, port, domain }: ServedSocket, joins: boolean) {
    this.fd = fd as Fd;
    this.port = port;
    this.domain = domain;
    prepareForMuch(this.fd, listenerBufferBytes, joins);
  }

  /** Receives one batch and returns its messages' number; fewer than fit: the queue is empty. */
  receive(batch: ReceiveBatch): number {
    const count = batch.receive(this.fd);
    const isFull = count === batch.capacity;
    this.newcomers = isFull ? this.newcomersNow() : Number.POSITIVE_INFINITY;
    if (isFull) return count;
    this.emptied++;
    if (count >= 0) return count;
    // Reading a queued error removes it; the loop calls again for the datagrams behind it.
    if (count !== -EAGAIN) sys.getsockopt(this.fd, SOL_SOCKET, SO_ERROR);
    return 0;
  }

  /**
   * Returns whether one more session may begin. When more datagrams arrive than can be forwarded,
   * the listener drops those that would begin sessions first. So established sessions do not lose
   * datagrams in a queue that is full of newcomers'.
   */
  admits(): boolean {
    return this.newcomers-- > 0;
  }

  private newcomersNow(): number {
    const { address, size } = memory;
    const result = sys.getsockoptBytes(this.fd, SOL_SOCKET, SO_MEMINFO, address, size);
    const [queued = 0, room = 0] = memoryWords;
    if (result < 0 || room === 0) return Number.POSITIVE_INFINITY;
    for (const [fill, newcomers] of newcomersByFill) if (queued > fill * room) return newcomers;
    return Number.POSITIVE_INFINITY;
  }
}

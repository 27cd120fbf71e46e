/**
 * A netlink socket that receives other programs' changes (multicast groups, netlink(7)).
 *
 * It is read without waiting. A reader that falls behind loses messages (ENOBUFS), so most only
 * drain it and take what came for the occasion to look at the state itself.
 */

import {
  AF_NETLINK,
  MSG_DONTWAIT,
  MSG_TRUNC,
  SO_ATTACH_FILTER,
  SO_MEMINFO,
  SO_RCVBUF,
  SO_RCVBUFFORCE,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_RAW,
  SOL_SOCKET,
} from "../constants.ts";
import { check, EAGAIN, EINTR, ENOBUFS } from "../errno.ts";
import { sock_filter, sock_fprog, sockaddr_nl } from "../layout.ts";
import { allocate, setPointer } from "../memory.ts";
import * as sys from "../sys.ts";
import type { Fd } from "../types.ts";
import { NETLINK_ADD_MEMBERSHIP, SOL_NETLINK } from "./constants.ts";
import { HOST_ORDER, parseMessages, type ReceivedMessage } from "./wire.ts";

/** Only the fact that there was a message counts, so its first bytes will do. */
const ignored = allocate(64);
const address = allocate(sockaddr_nl.size);
address.view.setUint16(sockaddr_nl.nl_family, AF_NETLINK, HOST_ORDER);
/** The readers of messages; shared, since one read ends before the next begins. */
const received = allocate(16 * 1024);
/** SO_MEMINFO: nine numbers, the last of which counts the messages that found no room. */
const memoryInfo = allocate(9 * 4);
const DROPS = 8 * 4;
/** The most instructions of a filter here. */
const instructionsMax = 32;
const filter = allocate(instructionsMax * sock_filter.size);
const program = allocate(sock_fprog.size);
/** A queue that fills as fast as it is read must not hold its reader for ever. */
const messagesPerDrainMax = 10_000;

export interface MonitorOptions {
  readonly queueBytes?: number;
  readonly instructions?: Uint8Array;
}

export class NetlinkMonitor {
  readonly #fd: Fd;
  /** How often `read` has found that messages were lost. */
  #overruns = 0;

  private constructor(fd: Fd) {
    this.#fd = fd;
  }

  /**
   * Joins multicast groups (RTNLGRP_*, NFNLGRP_*) in the thread's current network namespace.
   * `queueBytes` is what the kernel may queue; absent for its default. Beyond
   * net.core.rmem_max that needs CAP_NET_ADMIN in the first user namespace. `instructions` are
   * struct sock_filter: the kernel queues what they let pass.
   * @throws SyscallError
   */
  static open(
    protocol: number,
    groups: readonly number[],
    { queueBytes, instructions }: MonitorOptions = {},
  ): NetlinkMonitor {
    const type = SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK;
    const fd = check(sys.socket(AF_NETLINK, type, protocol), "socket", "netlink");
    try {
      if (queueBytes !== undefined) enlargeQueue(fd, queueBytes);
      if (instructions !== undefined) attachFilter(fd, instructions);
      check(sys.bind(fd, address.address, sockaddr_nl.size), "bind", "netlink");
      for (const group of groups) {
        const result = sys.setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group);
        check(result, "setsockopt", `NETLINK_ADD_MEMBERSHIP ${group}`);
      }
    } catch (error) {
      sys.close(fd);
      throw error;
    }
    return new NetlinkMonitor(fd as Fd);
  }

  /** Empties the queue: whether anything was in it, or was lost because it was full. */
  drain(): boolean {
    let heard = false;
    for (let count = 0; count < messagesPerDrainMax; count++) {
      const result = sys.recv(this.#fd, ignored.address, ignored.size, MSG_DONTWAIT | MSG_TRUNC);
      if (result === -EAGAIN) break;
      if (result !== -EINTR && result !== -ENOBUFS) check(result, "recv", "netlink");
      heard = true;
    }
    return heard;
  }

  /** How many messages the kernel has dropped because the queue was full. */
  get lost(): number {
    const { address: at, size, view } = memoryInfo;
    const result = sys.getsockoptBytes(this.#fd, SOL_SOCKET, SO_MEMINFO, at, size);
    return result < 0 ? this.#overruns : view.getUint32(DROPS, HOST_ORDER);
  }

  /** All that is queued, as copies; what was lost, or does not fit, is left out. */
  read(): ReceivedMessage[] {
    const messages: ReceivedMessage[] = [];
    for (let count = 0; count < messagesPerDrainMax; count++) {
      const result = sys.recv(this.#fd, received.address, received.size, MSG_DONTWAIT | MSG_TRUNC);
      if (result === -EAGAIN) break;
      if (result === -ENOBUFS) this.#overruns++;
      if (result === -EINTR || result === -ENOBUFS) continue;
      const length = check(result, "recv", "netlink");
      if (length <= received.size) messages.push(...parseMessages(received.bytes.slice(0, length)));
    }
    return messages;
  }

  close(): void {
    sys.close(this.#fd);
  }
}

/** The kernel takes a copy. @throws SyscallError */
function attachFilter(fd: number, instructions: Uint8Array): void {
  filter.bytes.set(instructions);
  program.view.setUint16(sock_fprog.len, instructions.length / sock_filter.size, HOST_ORDER);
  setPointer(program.words(), sock_fprog.filter / 4, filter.address);
  const { address: at, size } = program;
  const result = sys.setsockoptBytes(fd, SOL_SOCKET, SO_ATTACH_FILTER, at, size);
  check(result, "setsockopt", "SO_ATTACH_FILTER");
}

function enlargeQueue(fd: number, bytes: number): void {
  if (sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, bytes) >= 0) return;
  sys.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, bytes);
}

/**
 * Listening sockets that a reload closes, and those that take their places: `:80` in place of
 * `10.0.0.1:80`. The kernel lets both be bound if both have SO_REUSEPORT and one owner; then there
 * is no moment in which nobody listens. The old one is bound to an interface that does not exist
 * as soon as the new one receives: from then on the kernel finds it for no new packet, and the
 * handshakes that it has begun still come to its queue.
 *
 * Sockets of different owners, as after privileges were given up, exclude each other unless they
 * are bound to different interfaces. So both are, while the new one is bound: for some
 * microseconds nobody listens.
 */

import { fstatSync } from "node:fs";
import { SO_BINDTOIFINDEX, SO_REUSEPORT, SOL_SOCKET } from "../../ffi/constants.ts";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd, Result } from "../../ffi/types.ts";
import { overlaps } from "../diagnose/lookup.ts";
import {
  allowSharing,
  bindAt,
  listenOn,
  type SocketOptions,
  unboundSocket,
} from "../engine/sockets.ts";
import type { Wanted } from "./inherited-sockets.ts";

/** Indices that the kernel gives to no interface, as it counts from 1. */
const nowhere = 0x7fff_ffff;
const elsewhere = 0x7fff_fffe;

/** A listening socket. */
interface BoundSocket extends Wanted {
  readonly fd: Fd;
}

/** Sockets at one place, and those of which they take it. */
interface Replacement {
  readonly sockets: readonly BoundSocket[];
  readonly old: readonly BoundSocket[];
  /** Bound to an interface that does not exist; otherwise those of TCP do not listen yet. */
  readonly isHidden: boolean;
  /** Several sockets have the address. */
  readonly isShared: boolean;
}

export class LeavingSockets {
  private readonly sockets: readonly BoundSocket[];
  private readonly replacements: Replacement[] = [];
  /** Those of `sockets` that were alone at their ports. */
  private readonly alone = new Set<Fd>();

  constructor(sockets: readonly BoundSocket[]) {
    this.sockets = sockets;
  }

  get isEmpty(): boolean {
    return this.sockets.length === 0;
  }

  /** Whether a socket at `wanted` would conflict with one of these. */
  isInTheWay(wanted: Wanted): boolean {
    return this.at(wanted).length > 0;
  }

  /**
   * Binds `count` sockets where some of these are. Those of TCP receive nothing before `replace`.
   * @throws SyscallError; then none is open
   */
  bindBeside(
    count: number,
    options: SocketOptions,
    local: SocketAddress,
    isShared: boolean,
  ): BoundSocket[] {
    const { protocol } = options;
    const old = this.at({ protocol, local });
    const [owner] = old.map(ownerOf);
    const fds: Fd[] = [];
    try {
      while (fds.length < count) {
        fds.push(unboundSocket({ ...options, owner, reusePort: true }, local));
      }
      const isJoined = old.every((each) => fds.every((fd) => ownerOf({ fd }) === ownerOf(each)));
      if (isJoined) this.join(fds, local, old);
      else bindHidden(fds, protocol, local, old);
      const sockets = fds.map((fd): BoundSocket => ({ fd, protocol, local }));
      this.replacements.push({ sockets, old, isHidden: !isJoined, isShared });
      return sockets;
    } catch (error) {
      for (const fd of fds) sys.close(fd);
      throw error;
    }
  }

  /** The new sockets receive from now on, and the old ones of TCP get no new connection. */
  replace(): void {
    for (const { sockets, old, isHidden, isShared } of this.replacements) {
      for (const { fd, protocol } of sockets) {
        if (isHidden) bindToIndex(fd, 0);
        else if (protocol === "tcp") listenOn(fd);
      }
      for (const { fd, protocol } of old) {
        // What a listener of UDP sends has to find a route. Before Linux 5.7 this needs
        // CAP_NET_RAW: without it, handshakes that are on their way may be lost.
        if (protocol === "tcp") bindToIndex(fd, nowhere);
      }
      // Alone at its port again, so that no other program joins it.
      for (const { fd } of isShared ? [] : sockets) share(fd, 0);
    }
  }

  /** Nothing of that happens: the new sockets are closed, and the old ones go on. */
  restore(): void {
    for (const fd of this.alone) share(fd, 0);
  }

  private at({ protocol, local }: Wanted): BoundSocket[] {
    return this.sockets.filter(
      (each) =>
        each.protocol === protocol &&
        each.local.port === local.port &&
        overlaps({ local: each.local.address }, { local: local.address }),
    );
  }

  private join(fds: readonly Fd[], local: SocketAddress, old: readonly BoundSocket[]): void {
    for (const { fd } of old) {
      if (sys.getsockopt(fd, SOL_SOCKET, SO_REUSEPORT) === 1) continue;
      this.alone.add(fd);
      allowSharing(fd);
    }
    for (const fd of fds) bindAt(fd, local);
  }
}

/** Binds sockets that only interfaces can tell from the old ones. @throws SyscallError */
function bindHidden(
  fds: readonly Fd[],
  protocol: "tcp" | "udp",
  local: SocketAddress,
  old: readonly BoundSocket[],
): void {
  const mayHide = fds.every((fd) => bindToIndex(fd, elsewhere) >= 0 && mayUnbind(fd));
  try {
    // What cannot be shown again stays as it is, and bind(2) has the error.
    for (const { fd } of mayHide ? old : []) bindToIndex(fd, nowhere);
    for (const fd of fds) {
      bindAt(fd, local);
      if (protocol === "tcp") listenOn(fd);
    }
  } finally {
    for (const { fd } of mayHide ? old : []) bindToIndex(fd, 0);
  }
}

/** Whether a socket that is bound to an interface may be bound to none: it takes CAP_NET_RAW. */
function mayUnbind(fd: Fd): boolean {
  return bindToIndex(fd, 0) >= 0 && bindToIndex(fd, elsewhere) >= 0;
}

/** SO_BINDTOIFINDEX (Linux 5.1); 0: no interface. */
function bindToIndex(fd: Fd, index: number): Result {
  return sys.setsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, index);
}

function share(fd: Fd, value: 0 | 1): void {
  sys.setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, value);
}

function ownerOf({ fd }: Pick<BoundSocket, "fd">): number {
  return fstatSync(fd).uid;
}

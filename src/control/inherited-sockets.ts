/**
 * Listening sockets that were there before this process: passed by the service manager, stored
 * there by an earlier process, or handed over at an upgrade. A listener of the configuration takes
 * those with its address instead of binding; so no connection is lost in between, and no privilege
 * to bind is needed.
 */

import { fstatSync } from "node:fs";
import {
  AF_INET,
  AF_INET6,
  F_GETFL,
  F_SETFD,
  F_SETFL,
  FD_CLOEXEC,
  O_NONBLOCK,
  SO_ACCEPTCONN,
  SO_DOMAIN,
  SO_TYPE,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_SOCKET,
} from "../../ffi/constants.ts";
import { describeErrno } from "../../ffi/errno.ts";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd } from "../../ffi/types.ts";
import { localName } from "../engine/sockets.ts";
import type { Scheme } from "../net/target.ts";

export interface InheritedSocket {
  readonly fd: Fd;
  readonly protocol: Scheme;
  readonly local: SocketAddress;
  /** The same for all descriptors of one socket, and for no two sockets. */
  readonly inode: number;
}

/**
 * Makes a descriptor ours (O_NONBLOCK, FD_CLOEXEC) and returns its kind of socket, or a text with
 * the reason why it cannot be served.
 */
export function inspectSocket(fd: number): InheritedSocket | string {
  const type = sys.getsockopt(fd, SOL_SOCKET, SO_TYPE);
  if (type < 0) return `it is no socket: ${describeErrno(-type)}`;
  sys.fcntl(fd, F_SETFD, FD_CLOEXEC);
  sys.fcntl(fd, F_SETFL, Math.max(0, sys.fcntl(fd, F_GETFL, 0)) | O_NONBLOCK);
  const domain = sys.getsockopt(fd, SOL_SOCKET, SO_DOMAIN);
  if (domain !== AF_INET && domain !== AF_INET6) return "it is neither of IPv4 nor of IPv6";
  if (type !== SOCK_STREAM && type !== SOCK_DGRAM) return "it is neither of TCP nor of UDP";
  const protocol = type === SOCK_STREAM ? "tcp" : "udp";
  if (protocol === "tcp" && sys.getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN) !== 1) {
    return "it does not listen: a .socket unit needs Accept=no";
  }
  return { fd: fd as Fd, protocol, local: localName(fd as Fd), inode: fstatSync(fd).ino };
}

/** Whether a socket is what a listener at `wanted` would be; port 0 is any port. */
export function isAt({ protocol, local }: InheritedSocket, wanted: Wanted): boolean {
  const { address, port } = wanted.local;
  return (
    protocol === wanted.protocol &&
    (port === 0 || local.port === port) &&
    Buffer.compare(local.address, address) === 0
  );
}

/** A listener of the configuration. */
export interface Wanted {
  readonly protocol: Scheme;
  readonly local: SocketAddress;
}

export class InheritedSockets {
  private left: InheritedSocket[];

  constructor(sockets: readonly InheritedSocket[] = []) {
    this.left = [...sockets];
  }

  /** Whether a listener finds its socket here, and needs no privilege to bind one. */
  has(wanted: Wanted): boolean {
    return this.left.some((each) => isAt(each, wanted));
  }

  /** Those for a listener, which owns them from here on; of port 0 one port's. */
  take(wanted: Wanted): InheritedSocket[] {
    const first = this.left.find((each) => isAt(each, wanted));
    if (first === undefined) return [];
    const { protocol, local } = first;
    const taken = this.left.filter((each) => isAt(each, { protocol, local }));
    this.left = this.left.filter((each) => !taken.includes(each));
    return taken;
  }

  /** Closes those that no listener has taken: their queues would swallow connections. */
  closeRest(): InheritedSocket[] {
    const rest = this.left;
    this.left = [];
    for (const { fd } of rest) sys.close(fd);
    return rest;
  }
}

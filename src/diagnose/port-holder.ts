/** Which process has a port: found among the kernel's sockets, and then among open descriptors. */

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP } from "../../ffi/constants.ts";
import {
  decodeSocket,
  dumpSockets,
  type InetSocket,
  NETLINK_SOCK_DIAG,
  TCP_CLOSE,
  TCP_LISTEN,
} from "../../ffi/netlink/diag.ts";
import { NetlinkSocket } from "../../ffi/netlink/socket.ts";

/** A process by its number and the name that the kernel has for it. */
export interface Holder {
  readonly pid: number;
  readonly name: string;
}

/**
 * The process whose socket stands in the way of one at `address` (4 or 16 bytes) and `port`.
 * Undefined where that is not known: without the right to look into other users' processes, in
 * another process namespace, without netlink.
 */
export function findPortHolder(
  protocol: "tcp" | "udp",
  address: Uint8Array,
  port: number,
): Holder | undefined {
  try {
    const sockets = socketsOf(protocol).filter(({ localPort }) => localPort === port);
    const inodes = sockets.filter(({ local }) => overlaps(local, address)).map(linkOf);
    return holderOf(new Set(inodes));
  } catch {
    return undefined;
  }
}

function socketsOf(protocol: "tcp" | "udp"): InetSocket[] {
  const netlink = NetlinkSocket.open(NETLINK_SOCK_DIAG);
  try {
    const number = protocol === "tcp" ? IPPROTO_TCP : IPPROTO_UDP;
    const states = [protocol === "tcp" ? TCP_LISTEN : TCP_CLOSE];
    return [AF_INET, AF_INET6].flatMap((family) =>
      netlink.dump(dumpSockets(family, number, states), decodeSocket),
    );
  } finally {
    netlink.close();
  }
}

/** Whether sockets at both addresses would be given the same packets. */
function overlaps(one: Uint8Array, other: Uint8Array): boolean {
  if (isAny(one) || isAny(other)) return true;
  return Buffer.compare(one, other) === 0;
}

function isAny(address: Uint8Array): boolean {
  return address.every((byte) => byte === 0);
}

function linkOf({ inode }: InetSocket): string {
  return `socket:[${inode}]`;
}

function holderOf(links: ReadonlySet<string>): Holder | undefined {
  if (links.size === 0) return undefined;
  for (const entry of readdirSync("/proc")) {
    const pid = Number(entry);
    if (Number.isInteger(pid) && descriptorsOf(pid).some((link) => links.has(link))) {
      return { pid, name: readFileSync(`/proc/${pid}/comm`, "utf8").trim() };
    }
  }
  return undefined;
}

/** What its descriptors are; none of a process that has ended or is another user's. */
function descriptorsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  } catch {
    return [];
  }
}

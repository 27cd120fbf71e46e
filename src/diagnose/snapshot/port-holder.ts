/** Which process has a port: found among the kernel's sockets, and then among open descriptors. */

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP } from "../../../ffi/constants.ts";
import {
  decodeSocket,
  dumpSockets,
  type InetSocket,
  NETLINK_SOCK_DIAG,
  TCP_CLOSE,
  TCP_LISTEN,
} from "../../../ffi/netlink/diag.ts";
import { NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import { overlaps } from "../lookup.ts";

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
    const sockets = waitingSockets(protocol).filter(({ localPort }) => localPort === port);
    const others = sockets.filter((socket) => overlaps({ local: address }, socket));
    return [...holdersOf(others.map(({ inode }) => inode)).values()][0];
  } catch {
    return undefined;
  }
}

/** The sockets of both families that listen (TCP), or are not connected (UDP). */
export function waitingSockets(protocol: "tcp" | "udp"): InetSocket[] {
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

/** The part of /proc that shows who has a socket; injected, so that tests can make calls fail. */
export interface ProcFiles {
  list(path: string): string[];
  link(path: string): string;
  text(path: string): string;
}

const procFiles: ProcFiles = {
  list: (path) => readdirSync(path),
  link: (path) => readlinkSync(path),
  text: (path) => readFileSync(path, "utf8"),
};

/**
 * The processes that have these sockets, by inode, as far as they may be looked into.
 * @throws if this process has no descriptor left to look with: then nothing is known of anybody
 */
export function holdersOf(
  inodes: Iterable<number>,
  files: ProcFiles = procFiles,
): ReadonlyMap<number, Holder> {
  const wanted = new Map([...inodes].map((inode) => [`socket:[${inode}]`, inode]));
  const holders = new Map<number, Holder>();
  for (const entry of wanted.size === 0 ? [] : files.list("/proc")) {
    const pid = Number(entry);
    if (!Number.isInteger(pid)) continue;
    for (const link of descriptorsOf(pid, files)) {
      const inode = wanted.get(link);
      if (inode === undefined) continue;
      wanted.delete(link);
      holders.set(inode, {
        pid,
        name: readable(() => files.text(`/proc/${pid}/comm`))?.trim() ?? "",
      });
    }
    if (wanted.size === 0) break;
  }
  return holders;
}

/** The targets of a process's descriptors; none if it has ended or is another user's. */
function descriptorsOf(pid: number, files: ProcFiles): string[] {
  const folder = `/proc/${pid}/fd`;
  return (readable(() => files.list(folder)) ?? []).flatMap(
    // A busy process has closed some of them by now: the others still count.
    (fd) => readable(() => files.link(`${folder}/${fd}`)) ?? [],
  );
}

/** Undefined for what is gone, or belongs to another user. */
function readable<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EMFILE" || code === "ENFILE") throw error;
    return undefined;
  }
}

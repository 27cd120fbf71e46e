/** Finds the owner of a firewall table: the kernel has its netlink port, /proc the process. */

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { NETLINK_NETFILTER } from "../../../ffi/netlink/constants.ts";

/** A process as /proc shows it. */
export interface Holder {
  readonly pid: number;
  /** The program, without its arguments. */
  readonly command: string;
}

/**
 * The process whose nf_tables socket has this port. Undefined for one of another PID namespace, and
 * for what this user may not look into.
 */
export function holderOf(port: number): Holder | undefined {
  try {
    const inode = socketInode(readFileSync("/proc/thread-self/net/netlink", "latin1"), port);
    if (inode === undefined) return undefined;
    const pid = readdirSync("/proc").find((name) => /^\d+$/.test(name) && hasSocket(name, inode));
    if (pid === undefined) return undefined;
    const command = readFileSync(`/proc/${pid}/comm`, "utf8").trim();
    return { pid: Number(pid), command };
  } catch {
    // The process has gone meanwhile, or there is no /proc.
    return undefined;
  }
}

/** In words: `process 4711 (tproxy)`. */
export function holderText(port: number): string {
  const holder = holderOf(port);
  if (holder !== undefined) return `process ${holder.pid} (${holder.command})`;
  return `a process that /proc does not show here (netlink port ${port})`;
}

/** /proc/net/netlink: `sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode`, Pid the port. */
function socketInode(table: string, port: number): string | undefined {
  const rows = table.split("\n").map((line) => line.trim().split(/\s+/));
  const row = rows.find(
    ([, protocol, pid]) => protocol === String(NETLINK_NETFILTER) && pid === String(port),
  );
  return row?.[9];
}

function hasSocket(pid: string, inode: string): boolean {
  try {
    const folder = `/proc/${pid}/fd`;
    return readdirSync(folder).some(
      (fd) => readlinkSync(`${folder}/${fd}`) === `socket:[${inode}]`,
    );
  } catch {
    return false;
  }
}

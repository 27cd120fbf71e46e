/**
 * One process of a network namespace at a time chooses, applies and removes set-ups.
 *
 * Which names, marks and tables are free, and which routes nobody else needs, is true only as long
 * as nobody changes it. The lock is an empty firewall table with an owner: the kernel lets one
 * socket have it, takes it away with the process however that ends, and asks for CAP_NET_ADMIN, so
 * that no ordinary user can hold it against us. It is there for some milliseconds.
 */

import { EEXIST, EINVAL, EOPNOTSUPP, EPERM, SyscallError } from "../../../ffi/errno.ts";
import { NFPROTO_INET, NFT_TABLE_F_OWNER } from "../../../ffi/netlink/constants.ts";
import {
  decodeTable,
  deleteTable,
  dumpTables,
  newTable,
} from "../../../ffi/netlink/nftables/table.ts";
import type { Kernel } from "./kernel.ts";
import { lockName } from "./names.ts";

const usualPatience = { pollMs: 5, patienceMs: 5000 };

const lock = { family: NFPROTO_INET, name: lockName };

/** Another process has had the lock for long. */
export class Busy extends Error {
  /** Its netlink port. */
  readonly owner: number;

  constructor(owner: number) {
    super("another tproxy is changing rules");
    this.owner = owner;
  }
}

/**
 * Does `work` while no other process changes set-ups. Blocks the thread while another one does, for
 * seconds at most. With `always` the work is done after that as well: a removal must
 * not stay because another process hangs.
 * @throws Busy, NetlinkError EPERM without CAP_NET_ADMIN
 */
export function exclusively<T>(
  kernel: Kernel,
  work: () => T,
  always = false,
  patience = usualPatience,
): T {
  const isLocked = take(kernel, always, patience);
  try {
    return work();
  } finally {
    if (isLocked) kernel.netfilter.batch([deleteTable(lock)]);
  }
}

/** Removes a lock that a process has left which shared our socket; does nothing without one. */
export function breakLock(kernel: Kernel): void {
  if (ownerOf(kernel) === kernel.netfilter.portId) kernel.netfilter.batch([deleteTable(lock)]);
}

/** Whether there is a lock now; Linux knows no owners before 5.12. */
function take(
  kernel: Kernel,
  always: boolean,
  { pollMs, patienceMs }: typeof usualPatience,
): boolean {
  for (let waitedMs = 0; ; waitedMs += pollMs) {
    try {
      kernel.netfilter.batch([newTable({ ...lock, flags: NFT_TABLE_F_OWNER })]);
      return true;
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      if (error.errno === EINVAL || error.errno === EOPNOTSUPP) return false;
      // EPERM: without CAP_NET_ADMIN, which the next call needs as well, or because of the owner.
      if (error.errno !== EEXIST && error.errno !== EPERM) throw error;
      const owner = ownerOf(kernel);
      if (waitedMs >= patienceMs) {
        if (always) return false;
        throw owner === undefined ? error : new Busy(owner);
      }
    }
    Bun.sleepSync(pollMs);
  }
}

function ownerOf(kernel: Kernel): number | undefined {
  const tables = kernel.netfilter.dump(dumpTables(NFPROTO_INET), decodeTable);
  return tables.find(({ family, name }) => family === lock.family && name === lock.name)?.owner;
}

/**
 * The capabilities of the calling thread (capabilities(7)), read by system call: /proc may be
 * missing. Results are those of `sys.ts`: never an exception for what the kernel answers.
 */

import { closeSync, openSync } from "node:fs";
import { NS_GET_USERNS } from "./constants.ts";
import { EPERM } from "./errno.ts";
import { __user_cap_data_struct as data, __user_cap_header_struct as header } from "./layout.ts";
import { errno, libc } from "./libc.ts";
import { allocate } from "./memory.ts";

/** _LINUX_CAPABILITY_VERSION_3: two data structs, 64 capabilities. */
const VERSION_3 = 0x20080522;

const head = allocate(header.size);
const sets = allocate(2 * data.size);

/** The thread's sets: bit N is the capability with the number N. */
export interface CapabilitySets {
  readonly effective: bigint;
  readonly permitted: bigint;
  readonly inheritable: bigint;
}

/** `capget(2)` of the calling thread, or a negated errno. */
export function readCapabilities(): CapabilitySets | number {
  head.view.setUint32(header.version, VERSION_3, true);
  head.view.setInt32(header.pid, 0, true);
  if (libc.capget(head.address, sets.address) < 0) return -errno();
  const at = (offset: number) => {
    const low = sets.view.getUint32(offset, true);
    return (BigInt(sets.view.getUint32(data.size + offset, true)) << 32n) | BigInt(low);
  };
  return {
    effective: at(data.effective),
    permitted: at(data.permitted),
    inheritable: at(data.inheritable),
  };
}

/**
 * Whether capabilities count in the thread's network namespace: they do if its user namespace
 * owns it, or one below. NS_GET_USERNS (ioctl_ns(2)) refuses with EPERM where an outer one does.
 * Undefined if that cannot be told, as without /proc.
 */
export function ownsNetwork(): boolean | undefined {
  let fd: number;
  try {
    fd = openSync("/proc/thread-self/ns/net", "r");
  } catch {
    return undefined;
  }
  try {
    const owner = libc.ioctl(fd, NS_GET_USERNS, 0);
    if (owner < 0) return errno() === EPERM ? false : undefined;
    closeSync(owner);
    return true;
  } finally {
    closeSync(fd);
  }
}

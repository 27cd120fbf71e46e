/**
 * The identity and rights of this process (credentials(7), capabilities(7)), by system call: /proc
 * may be missing. Capabilities are each thread's own; those of new threads are their maker's.
 * Results are those of `sys.ts`: never an exception for an error of the kernel.
 */

import { closeSync, openSync } from "node:fs";
import {
  NS_GET_USERNS,
  PR_CAP_AMBIENT,
  PR_CAP_AMBIENT_CLEAR_ALL,
  PR_CAP_AMBIENT_RAISE,
  PR_CAPBSET_DROP,
  PR_CAPBSET_READ,
  PR_SET_KEEPCAPS,
  PR_SET_NO_NEW_PRIVS,
} from "./constants.ts";
import { EPERM } from "./errno.ts";
import {
  __user_cap_data_struct as data,
  __user_cap_header_struct as header,
  systemCallNumbers,
} from "./layout.ts";
import { errno, libc } from "./libc.ts";
import { allocate } from "./memory.ts";
import type { Result } from "./types.ts";

/** _LINUX_CAPABILITY_VERSION_3: two data structs, 64 capabilities. */
const VERSION_3 = 0x20080522;

/** The overflow user id, which owns nothing. */
const NOBODY = 65_534;

const { SYS_setresuid } = systemCallNumbers(process.arch);
const head = allocate(header.size);
const sets = allocate(2 * data.size);

/** The thread's sets: bit N is the capability with the number N. */
export interface CapabilitySets {
  readonly effective: bigint;
  readonly permitted: bigint;
  readonly inheritable: bigint;
}

/**
 * Takes from the calling thread's bounding set what is not `kept`: no program that it starts can
 * have it again. To be called first: it takes CAP_SETPCAP, and without that it does nothing.
 */
export function limitCapabilities(kept: bigint): void {
  for (let bit = 0; libc.prctl(PR_CAPBSET_READ, bit, 0, 0, 0) >= 0; bit++) {
    if (((kept >> BigInt(bit)) & 1n) === 0n) libc.prctl(PR_CAPBSET_DROP, bit, 0, 0, 0);
  }
}

/**
 * Leaves the calling thread, and threads that it makes from here on, the `kept` capabilities of
 * those that it has: effective and permitted, none for programs that it would start. -errno if the
 * kernel refuses.
 */
export function keepCapabilities(kept: bigint): Result {
  const before = readCapabilities();
  if (typeof before === "number") return before;
  const left = before.permitted & kept;
  libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  const written = writeCapabilities(left);
  if (written < 0) return written;
  return libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno() : 0;
}

/**
 * Has programs that the calling thread starts get the capabilities that it has, until the returned
 * function is called. Without a user of its own (root) nothing is to be done.
 */
export function lendCapabilities(): () => void {
  const sets = readCapabilities();
  if (typeof sets === "number" || process.geteuid?.() === 0) return () => {};
  const { permitted, inheritable } = sets;
  writeCapabilities(permitted, permitted);
  for (let bit = 0; permitted >> BigInt(bit) > 0n; bit++) {
    if (((permitted >> BigInt(bit)) & 1n) === 0n) continue;
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit, 0, 0);
  }
  return () => {
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    writeCapabilities(permitted, inheritable);
  };
}

/** `capset(2)` of the calling thread: effective and permitted, and what programs inherit. */
function writeCapabilities(bits: bigint, inheritable = 0n): Result {
  for (const half of [0, 1]) {
    const word = Number((bits >> BigInt(32 * half)) & 0xffff_ffffn);
    sets.view.setUint32(half * data.size + data.effective, word, true);
    sets.view.setUint32(half * data.size + data.permitted, word, true);
    const inherited = Number((inheritable >> BigInt(32 * half)) & 0xffff_ffffn);
    sets.view.setUint32(half * data.size + data.inheritable, inherited, true);
  }
  return libc.capset(head.address, sets.address) < 0 ? -errno() : 0;
}

/**
 * Takes all capabilities from the threads of root that exist beside the calling one: the runtime's,
 * which compile and collect. A thread can change its own alone, so all become nobody's (libc asks
 * each of them), and the calling one comes back by itself. Does nothing where that is not possible,
 * as in a user namespace without a nobody; -errno if there is no way back.
 */
export function disarmOtherThreads(): Result {
  if (process.geteuid?.() !== 0 || process.getuid?.() !== 0) return 0;
  if (libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0) return 0;
  if (libc.setresuid(NOBODY, NOBODY, NOBODY) < 0) return 0;
  const raised = raiseCapabilities();
  if (raised < 0) return raised;
  return libc.syscall(SYS_setresuid, 0, 0, 0, 0, 0) < 0 ? -errno() : 0;
}

/** Makes effective what is permitted: a change of the user has taken it. */
function raiseCapabilities(): Result {
  const { permitted } = readCapabilities() as CapabilitySets;
  return writeCapabilities(permitted);
}

/**
 * Makes all threads another user's (libc asks each of them), without a capability but for the
 * calling thread, which keeps those that it is permitted: see `keepCapabilities`. -errno if the
 * kernel refuses; then some may have changed already, and the process should end.
 */
export function becomeUser(uid: number, gid: number, groups: readonly number[]): Result {
  const list = allocate(4 * Math.max(1, groups.length));
  for (const [index, group] of groups.entries()) list.view.setUint32(4 * index, group, true);
  if (libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0) return -errno();
  if (libc.setgroups(groups.length, list.address) < 0) return -errno();
  if (libc.setresgid(gid, gid, gid) < 0) return -errno();
  return libc.setresuid(uid, uid, uid) < 0 ? -errno() : 0;
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
 * Undefined if that is unknown, as without /proc.
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

/** Control groups as the firewall knows them: by the number of their folder. */

import { statSync } from "node:fs";
import { SyscallError } from "../../../ffi/errno.ts";

/** Where systemd and nft(8) expect the hierarchy of cgroup v2. */
const root = "/sys/fs/cgroup";

/**
 * The number of a control group, its folder's inode (cgroup_id() of linux/cgroup.h).
 * @throws SyscallError ENOENT without such a group: one that is made later has another number
 */
export function cgroupId(path: string): bigint {
  const folder = `${root}/${path}`;
  try {
    return statSync(folder, { bigint: true }).ino;
  } catch (error) {
    throw new SyscallError("stat", Math.abs((error as NodeJS.ErrnoException).errno ?? 0), folder);
  }
}

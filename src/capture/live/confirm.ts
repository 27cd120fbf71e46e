/**
 * `routes --confirm`: keeps what `--rollback-after` would remove.
 *
 * The two processes meet in the kernel. The one that applies makes an empty firewall table beside
 * its own, which says that it waits; the other makes one that is the confirmation. The first sees
 * it, and removes both; taking back fails, in one transaction, if it is there. So one of the two
 * wins, for every process of the network namespace, with no file, socket or process id in between,
 * and a user who may not change the firewall cannot confirm. It takes a table that is made, not one
 * that is gone: nobody confirms by flushing all rules.
 */

import { EEXIST, SyscallError } from "../../../ffi/errno.ts";
import { NFPROTO_INET } from "../../../ffi/netlink/constants.ts";
import {
  decodeTable,
  deleteTable,
  dumpTables,
  newTable,
} from "../../../ffi/netlink/nftables/table.ts";
import type { Kernel } from "./kernel.ts";
import { confirmedSuffix, pendingSuffix, setupOf } from "./names.ts";

/** The outcome. `lost`: the set-up is gone, or went while it was confirmed. */
export type Confirmation = "confirmed" | "nothing" | "lost";

const pollMs = 20;
const patienceMs = 5000;

/** Confirms what waits for it in this network namespace. @throws NetlinkError, SyscallError */
export async function confirm(kernel: Kernel, name: string): Promise<Confirmation> {
  const isThere = (suffix: string) => tableNames(kernel).has(name + suffix);
  if (!isThere(pendingSuffix)) return "nothing";
  const confirmation = { family: NFPROTO_INET, name: name + confirmedSuffix };
  try {
    kernel.netfilter.batch([newTable(confirmation)]);
  } catch (error) {
    // Somebody else confirms at the same time.
    if (!(error instanceof SyscallError) || error.errno !== EEXIST) throw error;
  }
  for (let waitedMs = 0; waitedMs < patienceMs && isThere(pendingSuffix); waitedMs += pollMs) {
    await Bun.sleep(pollMs);
  }
  if (!isThere(confirmedSuffix)) {
    return isThere("") && !isThere(pendingSuffix) ? "confirmed" : "lost";
  }
  // The waiting process is gone, or does not answer.
  kernel.netfilter.batch([deleteTable(confirmation)]);
  return "lost";
}

/** The set-ups that wait for a confirmation, by the names of their firewall tables. */
export function pendingSetups(kernel: Kernel): readonly string[] {
  return [...tableNames(kernel)].filter((name) => name.endsWith(pendingSuffix)).map(setupOf);
}

function tableNames(kernel: Kernel): ReadonlySet<string> {
  const tables = kernel.netfilter.dump(dumpTables(NFPROTO_INET), decodeTable);
  return new Set(tables.map((table) => table.name));
}

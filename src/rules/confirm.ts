/**
 * `routes --confirm`: keeps what `--rollback-after` would take back.
 *
 * The two processes meet in the kernel. The one that applies makes an empty firewall table beside
 * its own, in the same transaction; the other deletes it; and taking back deletes it too, in one
 * transaction with the set-up. So one of the two wins, for every process of the network namespace,
 * with no file, socket or process id in between, and whoever may not change the firewall cannot
 * confirm.
 */

import { ENOENT, SyscallError } from "../../ffi/errno.ts";
import { NFPROTO_INET } from "../../ffi/netlink/constants.ts";
import {
  decodeTable,
  deleteTable,
  dumpTables,
  type Table,
} from "../../ffi/netlink/nftables/table.ts";
import type { Kernel } from "./kernel.ts";
import { pendingHeldSuffix, pendingSuffix } from "./names.ts";

/** What came of it. `lost`: the set-up is gone, or went while it was confirmed. */
export type Confirmation = "confirmed" | "nothing" | "lost";

const pollMs = 20;
const patienceMs = 5000;

/** Confirms what waits for it in this network namespace. @throws NetlinkError, SyscallError */
export async function confirm(kernel: Kernel, name: string): Promise<Confirmation> {
  const before = tablesOf(kernel, name);
  const waiting = before.find((table) =>
    [pendingSuffix, pendingHeldSuffix].some((suffix) => table.name === name + suffix),
  );
  if (waiting === undefined) return "nothing";
  try {
    kernel.netfilter.batch([deleteTable({ family: NFPROTO_INET, name: waiting.name })]);
  } catch (error) {
    if (error instanceof SyscallError && error.errno === ENOENT) return "lost";
    throw error;
  }
  const isDone = (table: Table) =>
    table.owner === undefined || waiting.name === name + pendingHeldSuffix;
  // The owner lets go of the table as soon as it sees this; until then the table is tied to it.
  for (let waitedMs = 0; waitedMs < patienceMs; waitedMs += pollMs) {
    const table = tablesOf(kernel, name).find((each) => each.name === name);
    if (table === undefined) return "lost";
    if (isDone(table)) return "confirmed";
    await Bun.sleep(pollMs);
  }
  return "lost";
}

function tablesOf(kernel: Kernel, name: string): Table[] {
  return kernel.netfilter
    .dump(dumpTables(NFPROTO_INET), decodeTable)
    .filter((table) => table.name.startsWith(name));
}

/** What this kernel has of flowtables. Changes nothing. */

import { EEXIST, SyscallError } from "../../../ffi/errno.ts";
import { NFPROTO_INET } from "../../../ffi/netlink/constants.ts";
import {
  decodeFlowtable,
  dumpFlowtables,
  type Flowtable,
  newFlowtable,
} from "../../../ffi/netlink/nftables/flowtable.ts";
import { newTable } from "../../../ffi/netlink/nftables/table.ts";
import type { Channel } from "./kernel.ts";

type Netfilter = Pick<Channel, "batch" | "dump" | "portId">;

/**
 * Whether the kernel has flowtables; it loads their module if it has one. It is asked for a table
 * with a flowtable, and then for the same table once more: it refuses the whole in either case, and
 * nobody sees anything of it. False without CAP_NET_ADMIN.
 */
export function hasFlowtables(netfilter: Netfilter): boolean {
  const family = NFPROTO_INET;
  const name = `tproxy_probe_${netfilter.portId}`;
  const flowtable = { family, table: name, name: "ft", priority: 0, devices: ["lo"] };
  try {
    netfilter.batch([
      newTable({ family, name }),
      newFlowtable(flowtable),
      newTable({ family, name }),
    ]);
    return false;
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    return error.errno === EEXIST;
  }
}

/** A flowtable of a table of the family inet; undefined: there is none. @throws SyscallError */
export function readFlowtable(
  netfilter: Netfilter,
  table: string,
  name: string,
): Flowtable | undefined {
  return netfilter
    .dump(dumpFlowtables(NFPROTO_INET, table), decodeFlowtable)
    .find((each) => each.family === NFPROTO_INET && each.table === table && each.name === name);
}

/** Tables of the kernel path that their process has left. Pure. */

import type { Table } from "../../../ffi/netlink/nftables/table.ts";
import { decodeIdentity } from "../kernel-path/identity.ts";
import { setupOf } from "./names.ts";

/**
 * The tables among these, of all of family inet, whose process has ended. Where the kernel has no
 * tables that outlive their owner, those of a running process look the same.
 */
export function leftTables<T extends Pick<Table, "name" | "owner" | "userData">>(
  tables: readonly T[],
): readonly T[] {
  const held = new Set(
    tables.filter(({ owner }) => owner !== undefined).map(({ name }) => setupOf(name)),
  );
  return tables.filter(({ name, userData }) => {
    return !held.has(setupOf(name)) && decodeIdentity(userData) !== undefined;
  });
}

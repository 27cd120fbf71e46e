/** The connections of the kernel path, listed, counted and deleted by ctnetlink. I/O. */

import { EINVAL, EOPNOTSUPP, SyscallError } from "../../../ffi/errno.ts";
import {
  type ConntrackEntry,
  decodeEntry,
  deleteEntry,
  dumpEntries,
  type EntryFilter,
  fits,
} from "../../../ffi/netlink/conntrack.ts";
import type { NetlinkSocket } from "../../../ffi/netlink/socket.ts";

/** The operations of a socket of NETLINK_NETFILTER, which tests replace by their own. */
export type FlowChannel = Pick<NetlinkSocket, "dump" | "requestEach">;

/**
 * The entries that a filter fits; those of no interest are thrown away one by one. A kernel that
 * cannot filter lists all, and what fits is chosen here.
 * @throws SyscallError, WireError
 */
export function readFlows(channel: FlowChannel, filter: EntryFilter): ConntrackEntry[] {
  const found = new Map<number, ConntrackEntry>();
  // A table that grows meanwhile may list an entry twice.
  visitFlows(channel, filter, (entry) => found.set(entry.id, entry));
  return [...found.values()];
}

/**
 * Deletes entries, and returns how many there were. What their clients send next begins new
 * connections; of TCP it is no beginning, and rules decide about it. One that ended meanwhile is
 * no error, and one that began anew in its place is left alone.
 * @throws SyscallError, WireError
 */
export function deleteFlows(channel: FlowChannel, entries: readonly ConntrackEntry[]): number {
  const errnos = channel.requestEach(entries.map(deleteEntry));
  return errnos.filter((errno) => errno === 0).length;
}

function visitFlows(
  channel: FlowChannel,
  filter: EntryFilter,
  visit: (entry: ConntrackEntry) => void,
): void {
  const decode = (body: Uint8Array) => {
    const entry = decodeEntry(body);
    if (fits(entry, filter)) visit(entry);
  };
  try {
    channel.dump(dumpEntries(filter, "whole"), decode);
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    if (error.errno !== EINVAL && error.errno !== EOPNOTSUPP) throw error;
    channel.dump(dumpEntries(filter, "mark"), decode);
  }
}

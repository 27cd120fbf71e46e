/** Reads how full connection tracking is. I/O, and no judgement. */

import { SyscallError } from "../../../ffi/errno.ts";
import { decodeCounts, dumpCounts } from "../../../ffi/netlink/conntrack-stats.ts";
import { NETLINK_NETFILTER } from "../../../ffi/netlink/constants.ts";
import { NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import { readSysctl } from "./proc.ts";

/** The table of connection tracking. */
export interface ConntrackFacts {
  /** Connections of this namespace. */
  readonly entries: number;
  /** The limit, which counts for every namespace by itself. */
  readonly max: number;
  /** How long a closed TCP connection keeps its place; undefined if that cannot be read. */
  readonly timeWaitS: number | undefined;
  /** Packets dropped since the start because they found no place; undefined if not to be read. */
  readonly dropped: number | undefined;
}

/** Undefined where connection tracking is not in use: /proc/sys does not have it. */
export function readConntrack(): ConntrackFacts | undefined {
  const entries = readSysctl("net.netfilter.nf_conntrack_count");
  const max = readSysctl("net.netfilter.nf_conntrack_max");
  if (entries === undefined || max === undefined) return undefined;
  const timeWaitS = readSysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait");
  return { entries, max, timeWaitS, dropped: entries === 0 ? undefined : readDropped() };
}

/** Packets without a place, of all CPUs; undefined without CAP_NET_ADMIN. */
function readDropped(): number | undefined {
  using netfilter = NetlinkSocket.open(NETLINK_NETFILTER);
  try {
    const counts = netfilter.dump(dumpCounts(), decodeCounts);
    return counts.reduce((sum, { earlyDropped = 0 }) => sum + earlyDropped, 0);
  } catch (error) {
    if (error instanceof SyscallError) return undefined;
    throw error;
  }
}

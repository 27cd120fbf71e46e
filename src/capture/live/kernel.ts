/** The kernel as this folder sees it: two netlink sockets, which tests replace by their own. */

import { readFileSync } from "node:fs";
import { AF_INET, AF_INET6 } from "../../../ffi/constants.ts";
import { NETLINK_NETFILTER, NETLINK_ROUTE } from "../../../ffi/netlink/constants.ts";
import { decodeLink, getLink } from "../../../ffi/netlink/link.ts";
import { NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import { type LegacyRule, readLegacyTable } from "../../../ffi/xtables.ts";

/** The operations of a netlink socket. */
export type Channel = Pick<
  NetlinkSocket,
  "fd" | "portId" | "request" | "get" | "dump" | "batch" | "drain"
>;

export interface Kernel {
  readonly route: Channel;
  /** A table with NFT_TABLE_F_OWNER lives as long as this socket. */
  readonly netfilter: Channel;
  /** The rules of iptables' older kind, which netlink does not show; none if it may not be read. */
  readonly legacy: () => readonly LegacyRule[];
  close(): void;
}

/**
 * The kernel of the thread's current network namespace. The owner of tables is a new socket, or
 * `owner`, a descriptor that another process has given to this one. @throws SyscallError
 */
export function openKernel(owner?: number): Kernel {
  const route = NetlinkSocket.open(NETLINK_ROUTE);
  try {
    const netfilter =
      owner === undefined ? NetlinkSocket.open(NETLINK_NETFILTER) : NetlinkSocket.adopt(owner);
    const close = () => {
      route.close();
      netfilter.close();
    };
    return { route, netfilter, legacy: readLegacyRules, close };
  } catch (error) {
    route.close();
    throw error;
  }
}

const legacyLists = [
  [AF_INET, "/proc/thread-self/net/ip_tables_names"],
  [AF_INET6, "/proc/thread-self/net/ip6_tables_names"],
] as const;

function readLegacyRules(): readonly LegacyRule[] {
  return legacyLists.flatMap(([family, path]) =>
    namesIn(path).flatMap((table) => readLegacyTable(family, table) ?? []),
  );
}

function namesIn(path: string): string[] {
  try {
    return readFileSync(path, "latin1").split("\n").filter(Boolean);
  } catch {
    return [];
  }
}

/** The index of an interface. @throws NetlinkError ENODEV */
export function interfaceIndex(kernel: Kernel, name: string): number {
  return kernel.route.get(getLink({ name }), decodeLink).index;
}

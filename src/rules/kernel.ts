/** The kernel as this folder sees it: two netlink sockets, which tests replace by their own. */

import { NETLINK_NETFILTER, NETLINK_ROUTE } from "../../ffi/netlink/constants.ts";
import { decodeLink, getLink } from "../../ffi/netlink/link.ts";
import { NetlinkSocket } from "../../ffi/netlink/socket.ts";

/** What is asked of a netlink socket. */
export type Channel = Pick<NetlinkSocket, "portId" | "request" | "get" | "dump" | "batch">;

export interface Kernel {
  readonly route: Channel;
  /** A table with NFT_TABLE_F_OWNER lives as long as this socket. */
  readonly netfilter: Channel;
  close(): void;
}

/** The kernel of the thread's current network namespace. @throws SyscallError */
export function openKernel(): Kernel {
  const route = NetlinkSocket.open(NETLINK_ROUTE);
  try {
    const netfilter = NetlinkSocket.open(NETLINK_NETFILTER);
    const close = () => {
      route.close();
      netfilter.close();
    };
    return { route, netfilter, close };
  } catch (error) {
    route.close();
    throw error;
  }
}

/** The index of an interface. @throws NetlinkError ENODEV */
export function interfaceIndex(kernel: Kernel, name: string): number {
  return kernel.route.get(getLink({ name }), decodeLink).index;
}

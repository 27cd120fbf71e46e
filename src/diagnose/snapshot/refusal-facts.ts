/** Reads what of this machine bears on a refusal: capabilities, sysctls, addresses. */

import { networkInterfaces } from "node:os";
import { NETLINK_ROUTE, RTN_LOCAL } from "../../../ffi/netlink/constants.ts";
import { decodeRoute, getRoute } from "../../../ffi/netlink/route.ts";
import { NetlinkSocket } from "../../../ffi/netlink/socket.ts";
import type { Facts } from "../explain/refusal.ts";
import { effectiveCapabilities } from "./capabilities.ts";
import { findPortHolder } from "./port-holder.ts";
import { readSysctl } from "./proc.ts";

/**
 * The facts for `address` (4 or 16 bytes, network order) as they are now; `taken` names a port
 * there that another socket has.
 */
export function gatherFacts(
  address: Uint8Array,
  taken?: { readonly protocol: "tcp" | "udp"; readonly port: number },
): Facts {
  const family = address.length === 4 ? "ipv4" : "ipv6";
  return {
    capabilities: effectiveCapabilities(),
    nonlocalBind: readSysctl(`net.${family}.ip_nonlocal_bind`) === 1,
    unprivilegedPortStart: readSysctl("net.ipv4.ip_unprivileged_port_start") ?? 1024,
    addressIsLocal: isLocalAddress(address),
    interfaces: Object.keys(networkInterfaces()),
    holder: taken && findPortHolder(taken.protocol, address, taken.port),
  };
}

/**
 * Whether the kernel takes `address` for one of this host: what its routing tables say of a packet
 * to it that has no mark. Undefined when netlink does not answer.
 */
export function isLocalAddress(address: Uint8Array): boolean | undefined {
  let socket: NetlinkSocket | undefined;
  try {
    socket = NetlinkSocket.open(NETLINK_ROUTE);
    return socket.get(getRoute({ destination: address }), decodeRoute).type === RTN_LOCAL;
  } catch (error) {
    // No route at all is an answer too; that netlink cannot be used is none.
    return socket === undefined || !(error instanceof Error) ? undefined : false;
  } finally {
    socket?.close();
  }
}

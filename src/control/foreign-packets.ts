/** Whether anything in this network namespace brings packets for other hosts' addresses in. */

import { AF_INET, AF_INET6 } from "../../ffi/constants.ts";
import { SyscallError } from "../../ffi/errno.ts";
import {
  NETLINK_ROUTE,
  RT_TABLE_DEFAULT,
  RT_TABLE_LOCAL,
  RT_TABLE_MAIN,
  RTN_LOCAL,
} from "../../ffi/netlink/constants.ts";
import { decodeRoute, dumpRoutes, type Route } from "../../ffi/netlink/route.ts";
import { decodeRule, dumpRules, type Rule } from "../../ffi/netlink/rule.ts";
import { NetlinkSocket } from "../../ffi/netlink/socket.ts";

const usualTables: readonly number[] = [RT_TABLE_LOCAL, RT_TABLE_MAIN, RT_TABLE_DEFAULT];
const LOOPBACK = 127;

/**
 * Whether these rules and routes leave no way for a packet to another host's address to a socket
 * here: there are the kernel's own ip rules alone, and no local route to a whole network. Firewall
 * rules that replace the destination are not looked at: to the socket, it is this host's address.
 */
function takesOwnOnly(rules: readonly Rule[], localRoutes: readonly Route[]): boolean {
  const isUsual = ({ table, mark }: Rule) => usualTables.includes(table) && mark === undefined;
  return rules.every(isUsual) && !localRoutes.some(isOfNetwork);
}

/** A local route to more than one address, such as "local 192.0.2.0/24 dev lo". */
function isOfNetwork({ type, destination }: Route): boolean {
  if (type !== RTN_LOCAL) return false;
  if (destination === undefined) return true;
  const { address, length } = destination;
  return length < address.length * 8 && !(address.length === 4 && address[0] === LOOPBACK);
}

/** The same of the thread's network namespace; false where it cannot be asked about. */
export function hostTakesOwnOnly(): boolean {
  try {
    using socket = NetlinkSocket.open(NETLINK_ROUTE);
    const families = [AF_INET, AF_INET6];
    const rules = families.flatMap((family) => socket.dump(dumpRules(family), decodeRule));
    const routes = families.flatMap((family) =>
      socket.dump(dumpRoutes(family, RT_TABLE_LOCAL), decodeRoute),
    );
    return takesOwnOnly(rules, routes);
  } catch (error) {
    if (error instanceof SyscallError) return false;
    throw error;
  }
}

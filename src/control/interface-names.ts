/** The names of interfaces that a user gave, as firewall rules know them. */

import { SyscallError } from "../../ffi/errno.ts";
import { NETLINK_ROUTE } from "../../ffi/netlink/constants.ts";
import { decodeLink, dumpLinks, type Link } from "../../ffi/netlink/link.ts";
import { NetlinkSocket } from "../../ffi/netlink/socket.ts";
import { isPattern } from "../net/interface.ts";

/**
 * Replaces each alternative name with the name that rules match, and tells `say`. A name that no
 * interface has stays: one may come. `refuse` is called for a name that no interface can have.
 */
export function realNames(
  names: readonly string[],
  say: (line: string) => void,
  refuse: (name: string) => never,
): string[] {
  const links = readLinks();
  return names.map((name) => {
    if (links.some((link) => link.name === name)) return name;
    const real = links.find(({ alternativeNames = [] }) => alternativeNames.includes(name))?.name;
    if (real !== undefined) {
      say(`${name} is another name of ${real}: rules match ${real}, and no other name`);
      return real;
    }
    if (isPattern(name)) return name;
    return refuse(name);
  });
}

/** Whether an interface has this name, or this alternative name. */
export function hasInterface(name: string): boolean {
  const links = readLinks();
  return links.some((link) => link.name === name || link.alternativeNames?.includes(name));
}

/** Empty in a sandbox without netlink. */
function readLinks(): readonly Link[] {
  try {
    using netlink = NetlinkSocket.open(NETLINK_ROUTE);
    return netlink.dump(dumpLinks(), decodeLink);
  } catch (error) {
    if (error instanceof SyscallError) return [];
    throw error;
  }
}

/** The names of interfaces that a user gave, as firewall rules know them. */

import { SyscallError } from "../../ffi/errno.ts";
import { NETLINK_ROUTE } from "../../ffi/netlink/constants.ts";
import { decodeLink, dumpLinks, type Link } from "../../ffi/netlink/link.ts";
import { NetlinkSocket } from "../../ffi/netlink/socket.ts";
import { UsageError } from "../errors.ts";
import { isPattern } from "../net/interface.ts";
import { quote } from "../net/result.ts";

/**
 * Replaces an alternative name with the name that rules match, and reports that to `say`. A name
 * without an interface stays, since the interface may come later.
 * @throws UsageError for a name that no interface can have
 */
export function realNames(
  names: string[] | undefined,
  say: (line: string) => void,
): string[] | undefined {
  if (names === undefined) return undefined;
  const links = readLinks();
  return names.map((name) => {
    if (links.some((link) => link.name === name)) return name;
    const real = links.find(({ alternativeNames = [] }) => alternativeNames.includes(name))?.name;
    if (real !== undefined) {
      say(`${name} is another name of ${real}: rules match ${real}, and no other name`);
      return real;
    }
    if (isPattern(name)) return name;
    throw new UsageError(
      `--in: no interface here has the name ${quote(name)}, and none can get it: give ` +
        "at most 15 characters",
    );
  });
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

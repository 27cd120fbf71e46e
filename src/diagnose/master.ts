/** Interfaces that are ports of others: bridges, bonds. Pure. */

import type { Link } from "../../ffi/netlink/link.ts";

/** Kinds of interfaces that take their ports' packets as their own. */
const masterKinds = new Set(["bond", "bridge", "openvswitch", "team"]);

/** The interface that takes all that comes in by this one, which is a port of it. */
export function masterOf(port: Link | undefined, links: readonly Link[]): Link | undefined {
  const found = links.find(({ index }) => index === port?.master);
  return found !== undefined && masterKinds.has(found.kind ?? "") ? found : undefined;
}

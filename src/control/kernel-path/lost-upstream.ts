/** Which connections end when their upstream is dead. Pure. */

import { IPPROTO_TCP } from "../../../ffi/constants.ts";
import type { ConntrackEntry } from "../../../ffi/netlink/conntrack.ts";
import { IPS_SEEN_REPLY } from "../../../ffi/netlink/nftables/expr/ct.ts";
import { isOpen } from "./flow-rows.ts";

/**
 * Of the connections to an upstream those that are to be deleted now. What has no answer yet goes
 * elsewhere with the next packet of its client: a SYN that is sent again, a datagram. Sessions of
 * UDP that had answers would stay with the dead upstream as long as their clients send. Of TCP an
 * established connection has to be reset, if it is to end at all: with `close` its next packet is.
 * A connection that has ended is only remembered, and its line in the log has the reason of that.
 */
export function flowsToEnd(
  entries: readonly ConntrackEntry[],
  onDown: "keep" | "close",
): ConntrackEntry[] {
  return entries.filter(isOpen).filter(({ original, status }) => {
    if (original.protocol !== IPPROTO_TCP) return true;
    return onDown === "close" || (status & IPS_SEEN_REPLY) === 0;
  });
}

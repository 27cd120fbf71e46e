/**
 * Idle time-outs of connections that came back from the flowtable: the kernel gives them its own
 * then, which for an established one are days, and keeps them until the next packet. Pure.
 */

import { IPPROTO_TCP } from "../../../ffi/constants.ts";
import type { ConntrackEntry } from "../../../ffi/netlink/conntrack.ts";
import type { PathTimeouts } from "../../capture/kernel-path/intent.ts";
import { tcpSeconds } from "../../capture/kernel-path/objects.ts";
import type { TcpTimeout } from "../../capture/plan/flow-rule.ts";
import { timeoutName } from "./flow-rows.ts";

/** A time-out that is to be set, in seconds. */
export interface ShortenedTimeout {
  readonly entry: ConntrackEntry;
  readonly timeoutS: number;
}

/**
 * The connections that would be idle for longer than their service lets them, and what is left of
 * its time-out. `kernelSeconds` returns the kernel's own time-out of a state, from which the time
 * that they have been silent for is known. One that is offloaded carries something at this moment.
 */
export function shortenedTimeouts(
  entries: readonly ConntrackEntry[],
  timeouts: PathTimeouts,
  kernelSeconds: (name: TcpTimeout) => number | undefined,
): ShortenedTimeout[] {
  const seconds = tcpSeconds(timeouts);
  return entries.flatMap((entry) => {
    const { original, tcpState, timeoutS } = entry;
    if (original.protocol !== IPPROTO_TCP || timeoutS === undefined) return [];
    const name = tcpState === undefined ? undefined : timeoutName(tcpState);
    if (name === undefined || timeoutS <= seconds[name]) return [];
    const idle = Math.max(0, (kernelSeconds(name) ?? timeoutS) - timeoutS);
    return [{ entry, timeoutS: Math.max(1, seconds[name] - idle) }];
  });
}

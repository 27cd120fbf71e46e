/** What `forward` does differently for UDP, as the main thread sees it. */

import type { Service } from "../config/service.ts";
import { readSysctl } from "../diagnose/snapshot/proc.ts";
import * as limits from "../engine/limits.ts";
import type { ClientBounds, IcmpLimits, SessionSettings } from "../workers/protocol.ts";
import { type Sharing, sessionPlacesOf } from "./strict-limits.ts";

/** What one Worker has of a service's sessions; `clients` are the bounds of its own. */
export function sessionSettings(
  { ingress }: Pick<Service, "ingress">,
  sharing: Sharing,
  clients: ClientBounds,
): SessionSettings {
  return {
    ...sessionPlacesOf(sharing, clients.worker),
    clients,
    icmp: icmpLimits(sharing.workers),
    transparent: ingress.transparent,
  };
}

/** Those of the kernel, of which each Worker has its part. */
function icmpLimits(workers: number): IcmpLimits {
  const { perSecond, burst, perPeerMs } = limits.icmpLimits;
  return {
    perSecond: (readSysctl("net.ipv4.icmp_msgs_per_sec") ?? perSecond) / workers,
    burst: Math.ceil((readSysctl("net.ipv4.icmp_msgs_burst") ?? burst) / workers),
    perPeerMs: readSysctl("net.ipv4.icmp_ratelimit") ?? perPeerMs,
    perPeerMsV6: readSysctl("net.ipv6.icmp.ratelimit") ?? perPeerMs,
  };
}

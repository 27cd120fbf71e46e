/** The warning about a service to which nothing brings packets. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import type { Service } from "../config/service.ts";
import { isUnspecified } from "../net/ip.ts";
import { hostTakesOwnOnly } from "./foreign-packets.ts";

/**
 * A warning, where no rules are installed, if only this host's own addresses can be reached
 * although the listeners take those of others; none where that is meant, as of a reverse proxy.
 * `advice` names the setting that installs rules.
 */
export function captureDoubts(
  { ingress, route }: Pick<Service, "ingress" | "route">,
  listeners: readonly SocketAddress[],
  advice: string,
): string[] {
  if (!ingress.transparent || ingress.acceptProxy !== undefined) return [];
  const isOriginal = route.pool.upstreams.some(({ to }) => to === "original");
  if (route.source.kind === "self" && !isOriginal) return [];
  if (!listeners.some(({ address }) => isUnspecified(address)) || !hostTakesOwnOnly()) return [];
  return [
    "no ip rule or route here captures packets for other hosts: only packets to this host's own " +
      `addresses are forwarded; ${advice}`,
  ];
}

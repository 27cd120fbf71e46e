/** What is said when nothing brings the packets that `forward` is there for. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { hostTakesOwnOnly } from "../control/foreign-packets.ts";
import { isUnspecified } from "../net/ip.ts";
import type { ForwardOptions } from "./options/forward.ts";

type Options = Pick<
  ForwardOptions,
  "routes" | "redirect" | "noTransparent" | "acceptProxy" | "source" | "to"
>;

/**
 * A warning where only this host's own addresses can be reached, although the listeners take those
 * of others: empty where that is meant, as of a plain reverse proxy, or not so.
 */
export function captureDoubts(options: Options, listeners: readonly SocketAddress[]): string[] {
  const { routes, redirect, noTransparent, acceptProxy, source, to } = options;
  if (routes !== "none" || redirect || noTransparent || acceptProxy.length > 0) return [];
  if (source.kind === "self" && !to.includes("original")) return [];
  if (!listeners.some(({ address }) => isUnspecified(address)) || !hostTakesOwnOnly()) return [];
  return [
    "no ip rule and no route here brings packets to other hosts' addresses: only what is sent to " +
      'this host\'s own is forwarded; give --routes auto, or see "tproxy routes --help"',
  ];
}

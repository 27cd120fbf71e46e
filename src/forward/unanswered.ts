/** Why an upstream may not answer a client's address. Logged once for each upstream. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { formatBytes } from "../net/address.ts";
import { formatSocketAddress } from "../net/socket-address.ts";

/** The most upstreams that are remembered; with `--to original` there may be any number. */
const upstreamsMax = 100;

export class Unanswered {
  private readonly warn: (text: string) => void;
  private readonly told = new Set<string>();

  constructor(warn: (text: string) => void) {
    this.warn = warn;
  }

  /** An upstream has not answered packets from `source`, an address of another host. */
  tell(upstream: SocketAddress, source: Uint8Array, isOnThisHost: boolean): void {
    const name = formatSocketAddress(upstream);
    if (this.told.has(name) || this.told.size >= upstreamsMax) return;
    this.told.add(name);
    const why = isOnThisHost
      ? `is on this host: its answers have to be brought back, by "routes auto" or rules with ` +
        `"backend ${name}", and a UDP server has to be bound to that address`
      : "sees the client's address: its answers have to come back through this host, and no NAT " +
        'may change them on the way, such as the MASQUERADE of containers: "tproxy explain ' +
        `connect ${name}" from ${formatBytes(source)} tells more`;
    this.warn(`upstream ${name} has not answered ${formatBytes(source)}: it ${why}`);
  }
}

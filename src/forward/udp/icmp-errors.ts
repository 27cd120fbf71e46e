/** Sends ICMP errors to clients: an upstream refuses, or a hop limit is used up. */

import { describeErrno, ECONNREFUSED } from "../../../ffi/errno.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Result } from "../../../ffi/types.ts";
import type { RawSender } from "../../engine/raw-sender.ts";
import { localName } from "../../engine/sockets.ts";
import { openFlow } from "../../engine/udp-sockets.ts";
import type { IcmpLimits } from "../../workers/protocol.ts";
import type { ServiceContext } from "../../workers/service-context.ts";
import { IcmpLimit } from "./icmp-limit.ts";

export class IcmpErrors {
  private readonly context: ServiceContext;
  private readonly raw: RawSender;
  private readonly limit: IcmpLimit;

  constructor(context: ServiceContext, raw: RawSender, limits: IcmpLimits) {
    this.context = context;
    this.raw = raw;
    this.limit = new IcmpLimit(limits);
  }

  /**
   * Passes an upstream's ICMP error on to the client, from the destination that the client has sent
   * to. Warns where that fails, as without CAP_NET_RAW.
   */
  refused(sender: SocketAddress, destination: SocketAddress, errno: number): void {
    if (!this.admits(sender)) return;
    this.note(this.raw.sendUnreachable(sender, destination, errno));
  }

  /**
   * Sends a client on this host the error of a closed port. No limit holds for errors that do not
   * leave the host, as in the kernel.
   */
  refusedHere(sender: SocketAddress, destination: SocketAddress): void {
    this.raw.sendUnreachable(sender, destination, ECONNREFUSED);
  }

  /** Sends the error of a router, which is this host, for a hop limit that is used up. */
  expired(sender: SocketAddress, destination: SocketAddress): void {
    if (!this.admits(sender)) return;
    const own = ownAddressTowards(sender);
    if (own !== undefined) this.note(this.raw.sendTimeExceeded(sender, destination, own));
  }

  private admits({ address }: SocketAddress): boolean {
    if (this.limit.admits(address, this.context.loop.now)) return true;
    this.context.warn("an ICMP error to a client was not sent: there have been as many as may be");
    return false;
  }

  private note(result: Result): void {
    if (result >= 0) return;
    const error = describeErrno(-result);
    this.context.warn(`an ICMP error could not be passed on to a client: ${error}`);
  }
}

/** Returns the address from which this host sends to another one. */
function ownAddressTowards(remote: SocketAddress): SocketAddress | undefined {
  const ends = { local: undefined, remote, isConnected: true } as const;
  const fd = openFlow({ ...ends, transparent: false, sharing: "nobody" });
  if (typeof fd !== "number") return undefined;
  const local = localName(fd);
  sys.close(fd);
  return local;
}

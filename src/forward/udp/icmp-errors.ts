/** The ICMP errors that clients are told: an upstream refuses, or a hop limit is used up. */

import { describeErrno, ECONNREFUSED } from "../../../ffi/errno.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Result } from "../../../ffi/types.ts";
import type { RawSender } from "../../engine/raw-sender.ts";
import { localName } from "../../engine/sockets.ts";
import { openFlow } from "../../engine/udp-sockets.ts";
import type { WorkerContext } from "../../workers/context.ts";
import type { IcmpLimits } from "../../workers/protocol.ts";
import { IcmpLimit } from "./icmp-limit.ts";

export class IcmpErrors {
  private readonly context: WorkerContext;
  private readonly raw: RawSender;
  private readonly limit: IcmpLimit;

  constructor(context: WorkerContext, raw: RawSender, limits: IcmpLimits) {
    this.context = context;
    this.raw = raw;
    this.limit = new IcmpLimit(limits);
  }

  /**
   * The ICMP error that an upstream has sent goes on to the client in the name of the destination
   * that it asked for. Without CAP_NET_RAW it cannot, and that is said.
   */
  refused(peer: SocketAddress, reached: SocketAddress, errno: number): void {
    if (!this.admits(peer)) return;
    this.note(this.raw.sendUnreachable(peer, reached, errno));
  }

  /**
   * A client on this host is told that nobody listens there. As in the kernel there is no limit to
   * what does not leave the host.
   */
  refusedHere(peer: SocketAddress, reached: SocketAddress): void {
    this.raw.sendUnreachable(peer, reached, ECONNREFUSED);
  }

  /** A router on the way, which is this host, has found a hop limit used up. */
  expired(peer: SocketAddress, reached: SocketAddress): void {
    if (!this.admits(peer)) return;
    const own = ownAddressTowards(peer);
    if (own !== undefined) this.note(this.raw.sendTimeExceeded(peer, reached, own));
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

/** The address from which this host sends to another one. */
function ownAddressTowards(remote: SocketAddress): SocketAddress | undefined {
  const ends = { local: undefined, remote, isConnected: true } as const;
  const fd = openFlow({ ...ends, transparent: false, sharing: "nobody" });
  if (typeof fd !== "number") return undefined;
  const local = localName(fd);
  sys.close(fd);
  return local;
}

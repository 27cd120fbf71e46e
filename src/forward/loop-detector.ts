/**
 * Detects loops in one Worker: our own connections and sessions, captured on their way to an
 * upstream. Each would be forwarded by another one, and that one by the next.
 */

import { sockaddr_storage } from "../../ffi/layout.ts";
import { allocate } from "../../ffi/memory.ts";
import { encodeSockaddr, type SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Fd, Mark } from "../../ffi/types.ts";
import { KEY_WORDS, readKey } from "../engine/flow-key.ts";
import { loopRoundsMax } from "../engine/limits.ts";
import { formatMark } from "../net/mark.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { Counter } from "../workers/counters.ts";
import type { ForwardTask } from "../workers/protocol.ts";
import type { ServiceContext } from "../workers/service-context.ts";
import { isOwn } from "./dial.ts";
import { OutboundFlows } from "./outbound-flows.ts";
import type { Router } from "./router.ts";

/** The path of a connection or session before it arrived. */
export interface Trail {
  /** How many times it has passed through this proxy. */
  readonly visits: number;
  /** How many hops it has left; 0: unknown. */
  readonly hopLimit: number;
}

/** The advice that ends a loop, for sockets with this mark. */
function repairOf(mark: Mark | undefined): string {
  if (mark === undefined) {
    return (
      'set "socket-mark" and let your rules pass packets with that mark first ("guard-mark" of ' +
      '"tproxy routes"), or let "routes auto" make the rules'
    );
  }
  const name = formatMark({ value: mark, mask: 0xffffffff });
  return (
    `our sockets have mark ${name}, and a rule takes what they send all the same: let that rule ` +
    `pass mark ${name} ("tproxy doctor" and "tproxy explain" look for it)`
  );
}

export class LoopDetector {
  readonly flows: OutboundFlows;
  private readonly context: ServiceContext;
  private readonly router: Router;
  private readonly protocol: "tcp" | "udp";
  private readonly key = new Uint32Array(KEY_WORDS);
  private readonly local = allocate(sockaddr_storage.size);
  private readonly remote = allocate(sockaddr_storage.size);
  private readonly localWords = this.local.words();
  private readonly remoteWords = this.remote.words();

  private readonly mark: Mark | undefined;

  /** `ownFlows` is the memory of all Workers' flows. */
  constructor(
    context: ServiceContext,
    { route: { ownFlows }, dial: { mark } }: Pick<ForwardTask, "route" | "dial">,
    router: Router,
    protocol: "tcp" | "udp",
  ) {
    this.mark = mark;
    this.context = context;
    this.router = router;
    this.protocol = protocol;
    this.flows = new OutboundFlows(ownFlows, protocol);
  }

  /**
   * Records a socket of ours that connects to `remote`, for something that has passed `visits`
   * times. Returns a handle, never 0: pass it to `flows.forget` at the latest when the socket is
   * closed.
   */
  entered(fd: Fd, { address, port }: SocketAddress, visits: number): number {
    const { key, local, localWords, remote, remoteWords } = this;
    sys.getsockname(fd, local.address, local.size);
    encodeSockaddr(remote.view, 0, address, port);
    readKey(localWords, 0, remoteWords, 0, key);
    return this.flows.enter(key, visits);
  }

  /**
   * How many times a connection from `client` has passed here, `loopRoundsMax` for a loop; `visits`
   * is that of the flow of ours with the same ends. A client with an address of this host is this
   * proxy. A remote client may reuse the same port once by chance; many times is a loop.
   */
  visitsOf(visits: number, { address }: SocketAddress): number {
    return isOwn(this.router.rules, address) ? loopRoundsMax : visits;
  }

  /** Counts a rejected loop, and logs what would repair it. */
  refused(original: SocketAddress): void {
    const { context, protocol } = this;
    context.shared.count(Counter.loops, 1);
    const where = `${protocol}://${formatSocketAddress(original)}`;
    const repair = repairOf(this.mark);
    const text = `a loop: what we send to ${where} is captured and comes back: ${repair}`;
    context.warn(text, { kind: `loop ${protocol}` });
  }
}

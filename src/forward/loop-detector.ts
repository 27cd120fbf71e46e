/**
 * Connections and sessions that are our own ones, captured on their way to an upstream: each would
 * be carried on by another one, and that one by the next. What one Worker has to say of them.
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

/** Where something has been before it came here. */
export interface Trail {
  /** How often it has been here. */
  readonly visits: number;
  /** How many hops it has left; 0: that is not known. */
  readonly hopLimit: number;
}

/** What would end a loop, of sockets with this mark. */
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
   * Notes a socket of ours on its way to `remote`, for something that has been here `visits` times;
   * the answer, never 0, is for `flows.forget` at the latest when it is closed.
   */
  entered(fd: Fd, { address, port }: SocketAddress, visits: number): number {
    const { key, local, localWords, remote, remoteWords } = this;
    sys.getsockname(fd, local.address, local.size);
    encodeSockaddr(remote.view, 0, address, port);
    readKey(localWords, 0, remoteWords, 0, key);
    return this.flows.enter(key, visits);
  }

  /**
   * What arrives from `client` with the ends of a flow of ours that was entered with `visits`: how
   * often it has been here, `loopRoundsMax` for a loop. What has an own address of this host has
   * been sent by us. Others may have sent it themselves: a host does not know which ports are
   * taken in its name here. They may reuse such a port once by chance; many times is a loop.
   */
  visitsOf(visits: number, { address }: SocketAddress): number {
    return isOwn(this.router.rules, address) ? loopRoundsMax : visits;
  }

  /** Counts one that is refused, and says what would repair it. */
  refused(original: SocketAddress): void {
    const { context, protocol } = this;
    context.shared.count(Counter.loops, 1);
    const where = `${protocol}://${formatSocketAddress(original)}`;
    const repair = repairOf(this.mark);
    const text = `a loop: what we send to ${where} is captured and comes back: ${repair}`;
    context.warn(text, { kind: `loop ${protocol}` });
  }
}

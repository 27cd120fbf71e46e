/** The current source policy and upstreams of one protocol in a Worker. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import type { ForwardTask, ServiceChange } from "../workers/protocol.ts";
import type { ServiceContext } from "../workers/service-context.ts";
import { UpstreamBoard } from "../workers/upstream-board.ts";
import { addressKey, isOwn, type SourcePolicy } from "./dial.ts";
import { Unanswered } from "./unanswered.ts";
import type { Upstream } from "./upstream.ts";
import { UpstreamPool } from "./upstream-pool.ts";
import { UpstreamReport } from "./upstream-report.ts";

export class Router {
  /** Another value once the host has other addresses. */
  rules: SourcePolicy;
  /** Undefined: what comes goes on to where its client wanted to go. */
  readonly pool: UpstreamPool | undefined;
  private readonly unanswered: Unanswered;
  private readonly protocol: "tcp" | "udp";

  constructor(context: ServiceContext, task: ForwardTask, protocol: "tcp" | "udp") {
    const { upstreams, pool } = task.route;
    this.protocol = protocol;
    this.unanswered = new Unanswered((text) => context.warn(text));
    this.rules = {
      source: task.route.source,
      fallback: task.route.sourceFallback,
      own: new Set(task.route.ownAddresses.map(addressKey)),
      listeners: task.sockets.filter((socket) => socket.protocol === protocol),
    };
    if (upstreams.kind === "fixed") {
      const board = new UpstreamBoard(upstreams.board, task.limits.clients.worker);
      const report = new UpstreamReport(context);
      this.pool = new UpstreamPool(pool, upstreams.addresses, board, report, protocol);
    }
  }

  /** An upstream has not answered what was not sent from an address that the kernel chose. */
  timedOut(upstream: SocketAddress, client: Uint8Array): void {
    const { source } = this.rules;
    const from = source.kind === "address" ? source.address : client;
    if (isOwn(this.rules, from)) return;
    this.unanswered.tell(upstream, from, isOwn(this.rules, upstream.address));
  }

  /** Whether an upstream is still among the current ones. */
  has(upstream: Upstream): boolean {
    return this.pool?.has(upstream) ?? false;
  }

  /**
   * Applies a change to new connections. Returns the upstreams that have gone down since the last
   * change: the main thread sends one, with nothing in it, when it has written that to the board.
   */
  update({ route = {}, sockets }: ServiceChange, now: number): ReadonlySet<Upstream> {
    const { upstreams, ownAddresses, pool } = route;
    if (sockets !== undefined) {
      const listeners = sockets.filter(({ protocol }) => protocol === this.protocol);
      this.rules = { ...this.rules, listeners };
    }
    if (ownAddresses !== undefined) {
      this.rules = { ...this.rules, own: new Set(ownAddresses.map(addressKey)) };
    }
    if (pool !== undefined) this.pool?.useRules(pool);
    // Before the list is replaced: one that goes down as it leaves has connections, too.
    const fallen = new Set(this.pool?.takeFallen(now));
    if (upstreams?.kind === "fixed") this.pool?.replace(upstreams.addresses);
    return fallen;
  }
}

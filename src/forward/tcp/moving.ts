/**
 * A connection between two processes. While it is frozen another process may have its sockets, and
 * nothing happens to it here. Then, here or there, both sockets are registered again, and it waits
 * for what the kernel says of them: the edges of before are lost.
 */

import type { Fd } from "../../../ffi/types.ts";
import type { EventLoop } from "../../engine/loop.ts";
import { ended } from "../../workers/end-reason.ts";
import type { TcpConnection } from "./connection.ts";
import type { PhaseHandler } from "./phase.ts";

/** Turns of the loop in which the first edges of both sockets may come; then it goes on. */
const edgeTurnsMax = 4;

export class Moving implements PhaseHandler<TcpConnection> {
  private readonly loop: Pick<EventLoop, "defer">;

  constructor(loop: Pick<EventLoop, "defer">) {
    this.loop = loop;
  }

  enter(connection: TcpConnection): void {
    const added = connection.watchBoth(connection.upstreamFd as Fd);
    if (added >= 0) return this.awaitEdges(connection, edgeTurnsMax);
    connection.close(ended("failed", "proxy", { call: "epoll_ctl", errno: -added }), true);
  }

  onUpstream(connection: TcpConnection, mask: number): void {
    connection.upstreamEdges |= mask;
  }

  /** A socket that is full and has nothing to read has no edge. */
  private awaitEdges(connection: TcpConnection, turns: number): void {
    this.loop.defer(() => {
      if (!connection.isIn("moving") || connection.isFrozen) return;
      const hasBoth = connection.clientEdges !== 0 && connection.upstreamEdges !== 0;
      if (hasBoth || turns === 0) connection.setState("relay");
      else this.awaitEdges(connection, turns - 1);
    });
  }
}

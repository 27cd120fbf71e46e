/**
 * Connects to one upstream: opens the socket, waits until it is connected, and reports the result
 * to the pool. A connection waits here while there is no descriptor for it. Accepting is paused
 * meanwhile, and the connection that has waited longest gets the next free descriptor.
 */

import { EPOLLERR, EPOLLHUP, EPOLLOUT } from "../../../ffi/constants.ts";
import { type CallFailure, describeFailure } from "../../../ffi/errno.ts";
import { acceptPauseMs } from "../../engine/limits.ts";
import type { EventLoop } from "../../engine/loop.ts";
import { isShortage } from "../../engine/tcp-listener.ts";
import { dialRejected, type End, ended, endText } from "../../workers/end-reason.ts";
import type { ForwardTask } from "../../workers/protocol.ts";
import type { Tally } from "../../workers/tally.ts";
import { failureKind, isUpstreamsFault } from "../connect-errors.ts";
import { type Dial, dialFor, sourceName } from "../dial.ts";
import type { LoopDetector } from "../loop-detector.ts";
import type { Router } from "../router.ts";
import { targetOf, type Upstream } from "../upstream.ts";
import type { TcpConnection } from "./connection.ts";
import type { ConnectionKernel } from "./connection-kernel.ts";
import type { PhaseHandler } from "./phase.ts";

/** What the dialer uses. */
export interface DialerParts {
  readonly loop: Pick<EventLoop, "now">;
  readonly task: Pick<ForwardTask, "dial" | "timeouts">;
  readonly kernel: ConnectionKernel;
  readonly router: Pick<Router, "pool" | "rules" | "timedOut">;
  readonly loopDetector: Pick<LoopDetector, "entered">;
  readonly tally: Pick<Tally, "connected">;
}

/** The owner of the dialer. */
export interface DialerOwner {
  warn(text: string): void;
  /** Connections wait for descriptors: stop accepting. */
  pauseAccepting(why: string): void;
  /** No connection waits: accept again. */
  resumeAccepting(): void;
}

export class Dialer implements PhaseHandler<TcpConnection> {
  private readonly parts: DialerParts;
  private readonly owner: DialerOwner;
  /** Connections without a descriptor, longest wait first. */
  private readonly waiting = new Set<TcpConnection>();
  private isServing = false;
  private isFreedAgain = false;

  constructor(parts: DialerParts, owner: DialerOwner) {
    this.parts = parts;
    this.owner = owner;
  }

  enter(connection: TcpConnection): void {
    const { kernel, loop, loopDetector, router, task } = this.parts;
    const { rules } = router;
    const target = targetOf(connection.picked, connection.original);
    const choice = dialFor(rules, connection.client, target);
    // A name may have addresses of both families: report the attempt that failed, not this one.
    if ("refusal" in choice) {
      return this.giveUp(connection, connection.attemptEnd ?? dialRejected(choice.refusal), false);
    }
    if (choice.unspoofed !== undefined) {
      this.owner.warn(`${choice.unspoofed}: connecting from our own address`);
    }
    connection.upstream = choice.upstream;
    connection.source = sourceName(choice, rules);
    const fd = kernel.open(this.withBytes(choice, connection), connection.trail.hopLimit);
    if (typeof fd !== "number") return this.openFailed(connection, fd);
    if (this.waiting.delete(connection)) this.resumeIfNoneWaits();
    connection.arm(task.timeouts.connectMs);
    connection.dialedAt = loop.now;
    connection.flowHandle = loopDetector.entered(fd, target, connection.trail.visits + 1);
    const added = connection.watchUpstream(fd);
    if (added < 0) this.failed(connection, { call: "epoll_ctl", errno: -added });
  }

  onUpstream(connection: TcpConnection, mask: number): void {
    const { kernel, task } = this.parts;
    const { upstreamFd } = connection;
    if (upstreamFd !== undefined && mask & (EPOLLERR | EPOLLHUP)) {
      const errno = kernel.error(upstreamFd);
      if (errno !== 0) return this.failed(connection, { call: "connect", errno });
    }
    if ((mask & EPOLLOUT) === 0) return;
    connection.isUnconfirmed =
      task.dial.fastOpen && upstreamFd !== undefined && kernel.isConnecting(upstreamFd);
    if (!connection.isUnconfirmed) this.connected(connection);
    connection.upstreamEdges = mask;
    connection.setState("handshake");
  }

  /** The upstream has accepted a connection. */
  connected(connection: TcpConnection): void {
    const { loop, router, tally } = this.parts;
    const { client, picked } = connection;
    connection.isUnconfirmed = false;
    if (picked !== undefined) router.pool?.connected(picked, client.address, loop.now);
    connection.connectMs = loop.now - connection.dialedAt;
    tally.connected(connection.connectMs);
  }

  onTimer(connection: TcpConnection): void {
    if (this.waiting.has(connection)) return this.enter(connection);
    const { source, upstream, client } = connection;
    if (source !== "self" && upstream !== undefined) {
      this.parts.router.timedOut(upstream, client.address);
    }
    this.giveUp(connection, ended("connect-timeout", "upstream"), true);
  }

  /** A connection has ended: it waits no more, and its upstream has one connection less. */
  forget(connection: TcpConnection): void {
    const { end, isUnconfirmed, picked } = connection;
    this.waiting.delete(connection);
    if (picked === undefined || end === undefined) return;
    const isTheirs = isUnconfirmed && (end.by === "upstream" || end.reason === "connect-timeout");
    this.release(connection, picked, end, isTheirs);
  }

  /** Descriptors are free: serves waiting connections first, then new ones. */
  freed(): void {
    this.isFreedAgain = true;
    // A failing connection frees its own descriptor and calls this again: the loop below serves it.
    if (this.isServing) return;
    this.isServing = true;
    while (this.isFreedAgain) {
      this.isFreedAgain = false;
      const [next] = this.waiting;
      if (next !== undefined) this.enter(next);
    }
    this.isServing = false;
    this.resumeIfNoneWaits();
  }

  private resumeIfNoneWaits(): void {
    if (this.waiting.size === 0) this.owner.resumeAccepting();
  }

  /** Waits while no descriptor is left, as clients in the backlog do; other errors fail. */
  private openFailed(connection: TcpConnection, failure: CallFailure): void {
    const { loop, task } = this.parts;
    const patience = connection.startedAt + task.timeouts.connectMs - loop.now;
    if (!isShortage(failure.errno) || patience <= 0) return this.failed(connection, failure);
    if (!this.waiting.has(connection)) {
      this.waiting.add(connection);
      this.owner.pauseAccepting(describeFailure(failure));
    }
    connection.arm(acceptPauseMs);
  }

  private failed(connection: TcpConnection, failure: CallFailure): void {
    const isTheirs = isUpstreamsFault(failure);
    const by = isTheirs ? "upstream" : "proxy";
    this.giveUp(connection, ended("connect-failed", by, failure), isTheirs);
  }

  /** Tries the next upstream, if there is one. `isTheirs`: the upstream caused the failure. */
  private giveUp(connection: TcpConnection, end: End, isTheirs: boolean): void {
    const { picked } = connection;
    if (this.waiting.delete(connection)) this.resumeIfNoneWaits();
    connection.attemptEnd = end;
    connection.closeUpstream();
    if (picked !== undefined) {
      connection.tried = [...connection.tried, picked];
      if (!isTheirs) this.parts.router.pool?.countFailure(picked, "local");
      this.release(connection, picked, end, isTheirs);
      connection.picked = undefined;
    }
    connection.setState("route");
  }

  /** Tells the pool that a connection has ended. `isTheirs`: the upstream could not be reached. */
  private release(
    { id, client, source }: TcpConnection,
    picked: Upstream,
    end: End,
    isTheirs: boolean,
  ): void {
    const { loop, router } = this.parts;
    if (!isTheirs) return router.pool?.closed(picked, id);
    const inNameOf = source === "client" ? client.address : undefined;
    router.pool?.countFailure(picked, failureKind(end.failure?.errno));
    router.pool?.failed(picked, id, loop.now, endText(end, "tcp"), inNameOf);
  }

  /** Has the first bytes go with the SYN, if that is wanted and they are there. */
  private withBytes(choice: Dial, { clientFd }: TcpConnection): Dial {
    const { fastOpen, sendProxy } = this.parts.task.dial;
    if (!fastOpen) return choice;
    // Without bytes the SYN would wait for them: an upstream that speaks first would hear nothing.
    const hasBytes = sendProxy !== undefined || this.parts.kernel.hasBytes(clientFd);
    return hasBytes ? { ...choice, fastOpen: true } : choice;
  }
}

/** Drives the relay of a connection: its turns, its time-outs, and its end. */

import { EPOLLERR } from "../../../ffi/constants.ts";
import type { Fd } from "../../../ffi/types.ts";
import type { EventLoop } from "../../engine/loop.ts";
import { Counter, type CounterBlock } from "../../workers/counters.ts";
import { type EndReason, ended, socketFailed } from "../../workers/end-reason.ts";
import type { ForwardTask } from "../../workers/protocol.ts";
import type { Router } from "../router.ts";
import type { TcpConnection } from "./connection.ts";
import type { ConnectionKernel } from "./connection-kernel.ts";
import type { PhaseHandler } from "./phase.ts";
import { Relay, type RelayKernel } from "./relay.ts";

/** What it works with. */
export interface RelayingParts {
  readonly loop: Pick<EventLoop, "now" | "streams">;
  readonly task: Pick<ForwardTask, "dial" | "timeouts">;
  readonly kernel: ConnectionKernel;
  readonly relayKernel: RelayKernel;
  readonly counters: Pick<CounterBlock, "count">;
  readonly router: Pick<Router, "pool">;
}

/** The owner of the phase. */
export interface RelayingOwner {
  /** A connection has reached its upstream. */
  connected(connection: TcpConnection): void;
  /** The upstream of a connection that was unconfirmed has accepted it. */
  confirmed(connection: TcpConnection): void;
  /** Whether its client has few connections, so that its streams may have larger buffers. */
  mayWiden(connection: TcpConnection): boolean;
}

export class Relaying implements PhaseHandler<TcpConnection> {
  private readonly parts: RelayingParts;
  private readonly owner: RelayingOwner;

  constructor(parts: RelayingParts, owner: RelayingOwner) {
    this.parts = parts;
    this.owner = owner;
  }

  enter(connection: TcpConnection): void {
    if (connection.relay !== undefined) return this.goOn(connection, connection.relay);
    const { loop, relayKernel } = this.parts;
    const { clientFd, clientEdges, upstreamEdges } = connection;
    const upstreamFd = connection.upstreamFd as Fd;
    this.owner.connected(connection);
    const mayWiden = this.owner.mayWiden(connection);
    connection.relay = new Relay(relayKernel, clientFd, upstreamFd, mayWiden);
    connection.lastActive = loop.now;
    connection.arm(this.timeoutMs(connection));
    connection.relay.ready("client", clientEdges);
    connection.relay.ready("upstream", upstreamEdges);
    this.run(connection, connection.relay);
    this.acknowledge(connection, upstreamFd);
  }

  /** Goes on with a relay that has moved, or should have. To look at it is no traffic. */
  private goOn(connection: TcpConnection, relay: Relay): void {
    const { lastActive, sent, received, clientEdges, upstreamEdges } = connection;
    this.noteHalfClose(connection, relay);
    const left = lastActive + this.timeoutMs(connection) - this.parts.loop.now;
    connection.arm(Math.max(0, left));
    relay.ready("client", clientEdges);
    relay.ready("upstream", upstreamEdges);
    this.run(connection, relay);
    const isSilent = connection.sent === sent && connection.received === received;
    if (isSilent) connection.lastActive = lastActive;
  }

  onClient(connection: TcpConnection, mask: number): void {
    const relay = connection.relay as Relay;
    relay.ready("client", mask);
    this.proceed(connection, relay);
  }

  onUpstream(connection: TcpConnection, mask: number): void {
    if (connection.isUnconfirmed && (mask & EPOLLERR) === 0) this.owner.confirmed(connection);
    const relay = connection.relay as Relay;
    relay.ready("upstream", mask);
    this.proceed(connection, relay);
  }

  /** Messages go at once; streams behind them (`StreamTurns`). */
  private proceed(connection: TcpConnection, relay: Relay): void {
    const { streams } = this.parts.loop;
    if (connection.isWaitingForTurn) return;
    if (relay.isStream && streams.mustWait) streams.add(connection);
    else this.run(connection, relay);
  }

  onTurn(connection: TcpConnection): void {
    this.run(connection, connection.relay as Relay);
  }

  /** Traffic only notes the time; when the timer fires, it compares, and arms itself again. */
  onTimer(connection: TcpConnection): void {
    const left = connection.lastActive + this.timeoutMs(connection) - this.parts.loop.now;
    if (left > 0) return connection.arm(left);
    this.endSilent(connection, connection.isUnconfirmed ? "connect-timeout" : "idle-timeout");
  }

  /** Ends a connection that has carried nothing for `part` of its idle time-out. */
  endIfIdle(connection: TcpConnection, part: number): void {
    const silentMs = this.parts.loop.now - connection.lastActive;
    if (!connection.isIn("relay") || silentMs < part * this.timeoutMs(connection)) return;
    this.endSilent(connection, "idle-shortened");
  }

  /** Closes with FIN; with RST if a peer could mistake FIN for the end of undelivered bytes. */
  private endSilent(connection: TcpConnection, reason: EndReason): void {
    connection.close(ended(reason), connection.relay?.holdsBytes === true);
  }

  private run(connection: TcpConnection, relay: Relay): void {
    const { counters, loop } = this.parts;
    const { sent, received } = relay;
    connection.lastActive = loop.now;
    const state = relay.run();
    // What is carried counts at once: a connection may be open for weeks.
    const clientBytes = relay.sent - sent;
    const upstreamBytes = relay.received - received;
    if (clientBytes > 0) counters.count(Counter.clientBytes, clientBytes);
    if (upstreamBytes > 0) counters.count(Counter.upstreamBytes, upstreamBytes);
    const { picked } = connection;
    if (picked !== undefined) this.parts.router.pool?.carried(picked, clientBytes, upstreamBytes);
    if (connection.flowHandle !== 0 && relay.received > 0) connection.forgetFlow();
    switch (state) {
      case "open":
        return this.noteHalfClose(connection, relay);
      case "more":
        return this.parts.loop.streams.add(connection);
      case "done":
        return connection.close(ended("done", relay.firstEnd), false);
      case "failed":
        return connection.close(socketFailed(relay.failedSide ?? "proxy", relay.errno), true);
    }
  }

  /** The half-closed time-out applies from the half-close on: arms the timer for it. */
  private noteHalfClose(connection: TcpConnection, relay: Relay): void {
    if (connection.isHalfClosed || !relay.isHalfClosed) return;
    connection.isHalfClosed = true;
    this.parts.counters.count(Counter.halfClosedConnections, 1);
    connection.arm(this.timeoutMs(connection));
  }

  private timeoutMs({ isHalfClosed, isUnconfirmed }: TcpConnection): number {
    const { connectMs, halfClosedMs, idleMs } = this.parts.task.timeouts;
    if (isUnconfirmed) return connectMs;
    return isHalfClosed ? Math.min(idleMs, halfClosedMs) : idleMs;
  }

  /**
   * Acknowledges the upstream's SYN-ACK, unless bytes of the client have done so. The ACK is
   * delayed for them (TCP_QUICKACK off), but an upstream that speaks first must not wait for it.
   */
  private acknowledge(connection: TcpConnection, upstreamFd: Fd): void {
    const hasSent = connection.sent > 0 || this.parts.task.dial.sendProxy !== undefined;
    if (!hasSent && connection.isIn("relay")) this.parts.kernel.acknowledge(upstreamFd);
  }
}

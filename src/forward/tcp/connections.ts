/**
 * The connections of `forward` in one Worker: admission, counters and log records. This file makes
 * no system call: the executable passes the real kernel (`forwarder.ts`), and `test/simulation` a
 * simulated one.
 */

import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Fd } from "../../../ffi/types.ts";
import { IdleSweep, type SweptPlaces } from "../../engine/idle-sweep.ts";
import { sweptIdlePart } from "../../engine/limits.ts";
import type { EventLoop } from "../../engine/loop.ts";
import { Admission, type AdmissionOwner, type Admitted } from "../../fairness/admission.ts";
import { ClientLimits } from "../../fairness/client-limits.ts";
import type { Flow, StallOwner } from "../../fairness/stall-watch.ts";
import { Counter, type CounterName, type SharedState } from "../../workers/counters.ts";
import {
  type End,
  type EndReason,
  ended,
  endReasons,
  isRefusal,
  isUsual,
} from "../../workers/end-reason.ts";
import type { Frozen } from "../../workers/moved.ts";
import type { ForwardTask } from "../../workers/protocol.ts";
import type { ServiceContext } from "../../workers/service-context.ts";
import type { Tally } from "../../workers/tally.ts";
import type { LoopDetector, Trail } from "../loop-detector.ts";
import type { OutboundFlows } from "../outbound-flows.ts";
import type { Router } from "../router.ts";
import type { Upstream } from "../upstream.ts";
import { type ConnectionOwner, TcpConnection } from "./connection.ts";
import type { ConnectionKernel } from "./connection-kernel.ts";
import { Dialer, type DialerOwner } from "./dialer.ts";
import { Handshake } from "./handshake.ts";
import {
  type PackedConnection,
  packConnection,
  unpackAddress,
  unpackRelay,
} from "./moved-connection.ts";
import { Moving } from "./moving.ts";
import type { Phase, PhaseHandlers } from "./phase.ts";
import { Preface } from "./preface.ts";
import type { RelayKernel } from "./relay.ts";
import { Relaying, type RelayingOwner } from "./relaying.ts";
import { Queue, Route } from "./route.ts";
import { StreamHeaders } from "./stream-headers.ts";

/** What connections use of the Worker. */
export interface Surroundings {
  readonly loop: Pick<EventLoop, "now" | "timers" | "streams" | "defer">;
  readonly log: Pick<ServiceContext, "warn" | "recordProgress" | "recordEnd">;
  readonly counters: Pick<SharedState, "count">;
  readonly tally: Pick<Tally, "ended" | "lasted" | "connected">;
  /** The id of the next connection. */
  readonly nextId: () => number;
  readonly task: ForwardTask;
  readonly kernel: ConnectionKernel;
  readonly relayKernel: RelayKernel;
  readonly router: Pick<Router, "has" | "pool" | "rules" | "timedOut">;
  readonly loopDetector: Pick<LoopDetector, "entered"> & {
    readonly flows: Pick<OutboundFlows, "forget">;
  };
  /** New connections of a client that has more than this get no wide streams. */
  readonly wideOfClient: number;
}

/** The part that accepts them. */
export interface ConnectionsOwner {
  /** Connections wait for descriptors: stop accepting. */
  pauseAccepting(): void;
  resumeAccepting(): void;
  /** A connection has reached its upstream. */
  connected(): void;
  /** A connection is closed and no longer counted. */
  closed(): void;
}

/** What counts the connections in a phase; those in others connect to their upstreams. */
const phaseGauges: Readonly<Partial<Record<Phase, (typeof Counter)[CounterName]>>> = {
  preface: Counter.headerConnections,
  queue: Counter.queuedConnections,
  relay: Counter.relayingConnections,
};

export class TcpConnections
  implements
    ConnectionOwner,
    AdmissionOwner<TcpConnection>,
    SweptPlaces,
    StallOwner<TcpConnection>,
    DialerOwner,
    RelayingOwner
{
  readonly loop: Surroundings["loop"];
  readonly kernel: ConnectionKernel;
  readonly phases: PhaseHandlers<TcpConnection>;
  private readonly around: Surroundings;
  private readonly owner: ConnectionsOwner;
  private readonly connections = new Set<TcpConnection>();
  private readonly admission: Admission<TcpConnection>;
  private readonly idleSweep: IdleSweep;
  private readonly dialer: Dialer;
  private readonly queue: Queue;
  private readonly relaying: Relaying;
  private readonly first: "preface" | "route";

  constructor(around: Surroundings, owner: ConnectionsOwner) {
    const { loop, kernel, router, task } = around;
    this.around = around;
    this.owner = owner;
    this.loop = loop;
    this.kernel = kernel;
    this.admission = new Admission(task.limits, new ClientLimits(task.limits.clients), this);
    this.idleSweep = new IdleSweep(loop, this);
    const headers = new StreamHeaders(kernel);
    this.dialer = new Dialer(around, this);
    this.queue = new Queue(task);
    this.relaying = new Relaying(around, this);
    this.first = task.ingress.acceptProxy === undefined ? "route" : "preface";
    this.phases = {
      preface: new Preface(task, headers, router.pool === undefined),
      route: new Route(loop, router, (connection) => this.admit(connection)),
      queue: this.queue,
      dial: this.dialer,
      handshake: new Handshake(task, headers),
      relay: this.relaying,
      moving: new Moving(loop),
    };
  }

  /** The open connections, oldest first. */
  get open(): ReadonlySet<TcpConnection> {
    return this.connections;
  }

  /** Adds a connection that was accepted as `fd` and owns it. Call `start` or abort it next. */
  add(fd: Fd, client: SocketAddress, original: SocketAddress, trail: Trail): TcpConnection {
    const { counters, log, task } = this.around;
    counters.count(Counter.accepted, 1);
    counters.count(Counter.active, 1);
    const id = this.around.nextId();
    const connection = new TcpConnection(this, fd, id, client, original, trail, this.first);
    this.connections.add(connection);
    log.recordProgress("accepted", connection, task.log);
    return connection;
  }

  /**
   * Freezes a connection for another process, and counts it no more; undefined: it cannot move as
   * it is now. `thaw` or `leave` follows.
   */
  freeze(connection: TcpConnection): Frozen | undefined {
    if (!connection.isIn("relay") || connection.isUnconfirmed) return undefined;
    const { loop, relayKernel, router, task } = this.around;
    const frozen = packConnection(connection, task.name, relayKernel, Date.now() - loop.now);
    if (frozen === undefined) return undefined;
    connection.freeze();
    this.around.counters.count(Counter.active, -1);
    if (connection.isHalfClosed) this.around.counters.count(Counter.halfClosedConnections, -1);
    // The relay notes it again where it goes on.
    connection.isHalfClosed = false;
    const { picked, id } = connection;
    if (picked !== undefined) router.pool?.closed(picked, id);
    return frozen;
  }

  /** The other process does not have it: it goes on here. */
  thaw(connection: TcpConnection): void {
    this.around.counters.count(Counter.active, 1);
    const { picked } = connection;
    if (picked !== undefined) this.around.router.pool?.enter(picked);
    connection.thaw();
  }

  /** The other process has it. */
  leave(connection: TcpConnection): void {
    connection.leave();
    this.gone(connection);
  }

  /**
   * Takes over a connection of another process. It owns the descriptors, and is frozen until the
   * function is called that this returns; undefined: there is no room for it.
   */
  adopt(packed: PackedConnection, descriptors: readonly number[]): (() => void) | undefined {
    const { counters, kernel, loop, loopDetector, relayKernel, router } = this.around;
    const [clientFd, upstreamFd] = descriptors as [Fd, Fd];
    const [client, original] = [unpackAddress(packed.client), unpackAddress(packed.original)];
    const trail = { visits: packed.visits, hopLimit: 0 };
    const id = this.around.nextId();
    const connection = new TcpConnection(this, clientFd, id, client, original, trail, "moving");
    if (!this.admission.adopt(connection, client)) return undefined;
    for (const fd of descriptors) kernel.own(fd);
    connection.isFrozen = true;
    const upstream = unpackAddress(packed.upstream);
    const zero = Date.now() - loop.now;
    connection.knownAs = String(packed.id);
    connection.startedAt = packed.startedAt - zero;
    connection.lastActive = packed.lastActive - zero;
    connection.hasPlace = true;
    connection.upstream = upstream;
    connection.upstreamFd = upstreamFd;
    connection.source = packed.source;
    connection.connectMs = packed.connectMs;
    connection.triedBefore = packed.retries;
    if (packed.isPicked) connection.picked = router.pool?.adopt(upstream);
    if (packed.isUnanswered) {
      connection.flowHandle = loopDetector.entered(upstreamFd, upstream, packed.visits + 1);
    }
    connection.relay = unpackRelay(relayKernel, descriptors, this.mayWiden(connection), packed);
    this.connections.add(connection);
    counters.count(Counter.active, 1);
    this.owner.connected();
    this.idleSweep.taken();
    return () => connection.thaw();
  }

  /** Starts a connection that was added, or rejects it if too many wait. */
  start(connection: TcpConnection): void {
    if (this.admission.arrive(connection, connection.client)) return connection.start();
    this.noteFull();
    this.around.counters.count(Counter.refusedConnections, 1);
    connection.abort("no-place");
  }

  /** Ends those to upstreams that are down. Those that are not yet connected try another one. */
  endDown(down: ReadonlySet<Upstream>): void {
    for (const connection of [...this.connections]) {
      const { picked } = connection;
      const isConnected = connection.isIn("relay") || connection.isIn("moving");
      if (picked === undefined || !down.has(picked) || !isConnected) continue;
      connection.close(ended("down", "upstream"), true);
    }
  }

  /** Ends all connections. */
  abortAll(reason: EndReason): void {
    for (const connection of [...this.connections]) connection.abort(reason);
  }

  /** Relays arm their timers by the new time-outs; the others when theirs fire. */
  timeoutsChanged(): void {
    for (const connection of [...this.connections]) {
      if (connection.isIn("relay")) this.relaying.onTimer(connection);
    }
  }

  /** Ends the connections of upstreams that are no longer in the configuration. */
  endRemoved(): void {
    const { router } = this.around;
    for (const connection of [...this.connections]) {
      const { picked } = connection;
      if (picked !== undefined && !router.has(picked)) connection.abort("removed");
    }
  }

  /** No connection is left, and none will come. */
  stop(): void {
    this.idleSweep.stop();
  }

  proceed(connection: TcpConnection): void {
    this.queue.proceed(connection);
  }

  evict(connection: TcpConnection): void {
    // It leaves, or comes back: until then its place is taken.
    if (connection.isFrozen) return;
    const { counters, log } = this.around;
    counters.count(Counter.evictedConnections, 1);
    log.warn(`a connection was ${endReasons.evicted}`);
    connection.abort("evicted");
  }

  get isNearlyFull(): boolean {
    return this.admission.isNearlyFull;
  }

  sweep(): void {
    for (const connection of this.admission.aboveShare()) {
      this.relaying.endIfIdle(connection, sweptIdlePart);
    }
  }

  flowsOf({ relay }: TcpConnection): readonly Flow[] {
    return relay?.flows() ?? [];
  }

  clientOf(connection: TcpConnection): number {
    return this.admission.clientOf(connection);
  }

  endStalled(connection: TcpConnection): void {
    if (connection.isFrozen) return;
    this.around.counters.count(Counter.stalledConnections, 1);
    this.around.log.warn(`a connection was ${endReasons.stalled}`);
    connection.abort("stalled");
  }

  warn(text: string): void {
    this.around.log.warn(text);
  }

  pauseAccepting(why: string): void {
    this.owner.pauseAccepting();
    this.around.counters.count(Counter.atMaximum, 1);
    const consequence = "connecting and accepting rest until descriptors or memory are free";
    this.around.log.warn(`${why}: ${consequence}`, { kind: "waiting" });
  }

  resumeAccepting(): void {
    this.owner.resumeAccepting();
  }

  confirmed(connection: TcpConnection): void {
    this.dialer.connected(connection);
  }

  connected(connection: TcpConnection): void {
    const { log, task } = this.around;
    this.owner.connected();
    log.recordProgress("reached", connection, task.log);
  }

  mayWiden(connection: TcpConnection): boolean {
    return this.admission.countWith(connection) <= this.around.wideOfClient;
  }

  forgetFlow(handle: number): void {
    this.around.loopDetector.flows.forget(handle);
  }

  moved(from: Phase, to: Phase): void {
    const { counters } = this.around;
    const left = phaseGauges[from];
    const entered = phaseGauges[to];
    if (left !== undefined) counters.count(left, -1);
    if (entered !== undefined) counters.count(entered, 1);
  }

  closed(connection: TcpConnection): void {
    const { counters, log, task } = this.around;
    const { end } = connection;
    this.dialer.forget(connection);
    counters.count(Counter.active, -1);
    if (connection.isHalfClosed) counters.count(Counter.halfClosedConnections, -1);
    if (end !== undefined) this.countEnd(connection, end);
    const failed = end !== undefined && !isUsual(end, "tcp");
    if (failed) counters.count(Counter.failed, 1);
    log.recordEnd(connection, failed, task.log);
    this.gone(connection);
  }

  /** It is not here any more: its place and its descriptors are free. */
  private gone(connection: TcpConnection): void {
    this.connections.delete(connection);
    this.owner.closed();
    this.admission.left(connection);
    this.dialer.freed();
  }

  private countEnd({ startedAt }: TcpConnection, { by, reason }: End): void {
    const { loop, tally } = this.around;
    tally.ended("tcp", by, reason);
    if (!isRefusal(reason)) tally.lasted(loop.now - startedAt);
  }

  private admit(connection: TcpConnection): Admitted {
    const { admission } = this;
    const verdict = admission.admit(connection, connection.client, this.loop.now);
    if (admission.isFull) this.noteFull();
    if (verdict !== "placed" && verdict !== "waits") {
      this.around.counters.count(Counter.refusedConnections, 1);
      this.around.log.warn(`a connection was ${endReasons[verdict]}`);
    } else this.idleSweep.taken();
    return verdict;
  }

  private noteFull(): void {
    const { counters, log, task } = this.around;
    counters.count(Counter.atMaximum, 1);
    log.warn(
      `${task.limits.connectionsMax} connections are open, as many as this worker may have: ` +
        "the next ones wait, and clients with more than others pay",
    );
  }
}

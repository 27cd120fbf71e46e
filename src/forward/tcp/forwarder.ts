/**
 * TCP of `forward`: accepts connections, reads their client and original destination, and passes
 * them to `TcpConnections` together with the real kernel.
 */

import {
  IP6T_SO_ORIGINAL_DST,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  SO_ORIGINAL_DST,
  TCP_SAVED_SYN,
} from "../../../ffi/constants.ts";
import { errnoName } from "../../../ffi/errno.ts";
import { ip6_hdr, iphdr, sockaddr_storage } from "../../../ffi/layout.ts";
import { allocate } from "../../../ffi/memory.ts";
import { decodeSockaddr, type SocketAddress } from "../../../ffi/sockaddr.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd } from "../../../ffi/types.ts";
import { KEY_WORDS, readKey } from "../../engine/flow-key.ts";
import { loopRoundsMax, removedListenerMs } from "../../engine/limits.ts";
import {
  acceptWarning,
  Listener,
  type ListenerOwner,
  pauseAll,
  resumeAll,
} from "../../engine/tcp-listener.ts";
import { TcpMemory } from "../../engine/tcp-memory.ts";
import { Timer } from "../../engine/timers.ts";
import { StallWatch } from "../../fairness/stall-watch.ts";
import type { Scheme } from "../../net/target.ts";
import { Counter } from "../../workers/counters.ts";
import type { Packed } from "../../workers/moved.ts";
import type { ForwardTask, ServedSocket, ServiceChange } from "../../workers/protocol.ts";
import { refusedLine } from "../../workers/refused-lines.ts";
import type { Service, ServiceContext } from "../../workers/service-context.ts";
import type { MovableRows } from "../../workers/table.ts";
import { LoopDetector } from "../loop-detector.ts";
import { OWN_END } from "../outbound-flows.ts";
import { Router } from "../router.ts";
import type { TcpConnection } from "./connection.ts";
import { SystemConnectionKernel } from "./connection-kernel.ts";
import { type ConnectionsOwner, TcpConnections } from "./connections.ts";
import type { PackedConnection } from "./moved-connection.ts";
import { type PipeWatcher, SystemKernel } from "./relay-kernel.ts";
import { StreamBuffers } from "./stream-buffers.ts";
import { UpstreamSockets } from "./upstream-socket.ts";

export class TcpForwarder implements Service, ListenerOwner, ConnectionsOwner, PipeWatcher {
  readonly context: ServiceContext;
  readonly peerName = allocate(sockaddr_storage.size);
  private readonly task: ForwardTask;
  private readonly router: Router;
  private readonly loopDetector: LoopDetector;
  private readonly relayKernel: SystemKernel;
  private readonly connections: TcpConnections;
  private readonly stallWatch: StallWatch<TcpConnection>;
  private readonly onFinished: () => void;
  /** The headers of a SYN. */
  private readonly syn = allocate(128);
  private readonly localName = allocate(sockaddr_storage.size);
  private readonly peerWords = this.peerName.words();
  private readonly localWords = this.localName.words();
  private readonly flow = new Uint32Array(KEY_WORDS);
  private listeners: Listener[] = [];
  /** Listeners that a reload has removed, which accept for a moment longer. */
  private readonly leaving = new Set<Listener>();
  private readonly leavingTimer = new Timer(() => this.closeLeaving());
  private readonly memory: TcpMemory;
  private readonly buffers: StreamBuffers;
  private isDraining = false;
  private isSuspended = false;
  private readonly drainTimer = new Timer(() => this.connections.abortAll("stopped"));

  /** Calls `onFinished` once, after `stop`, when no connection is open. */
  constructor(context: ServiceContext, task: ForwardTask, onFinished: () => void) {
    const { loop } = context;
    this.context = context;
    this.onFinished = onFinished;
    this.task = task;
    this.memory = new TcpMemory(task.limits.clients.workers, (text) => context.warn(text));
    this.buffers = new StreamBuffers(this.memory, loop);
    this.relayKernel = new SystemKernel(task.limits.pipesMax, this, loop, this.buffers);
    this.router = new Router(context, task, "tcp");
    this.loopDetector = new LoopDetector(context, task, this.router, "tcp");
    const { loopDetector, relayKernel, router } = this;
    const kernel = new SystemConnectionKernel(loop, new UpstreamSockets(task, this));
    this.connections = new TcpConnections(
      {
        ...{
          loop,
          log: context,
          counters: context.shared,
          tally: context.shared.tally,
          task,
          kernel,
          relayKernel,
          router,
        },
        ...{ loopDetector, wideOfClient: this.buffers.wideOfClient },
        nextId: () => context.nextId(),
      },
      this,
    );
    this.stallWatch = new StallWatch(loop, this.memory, this.connections);
    const sockets = task.sockets.filter(({ protocol }) => protocol === "tcp");
    this.listen(sockets);
  }

  get loop() {
    return this.context.loop;
  }
  get open(): Iterable<TcpConnection> {
    return this.connections.open;
  }

  readonly moves: MovableRows = {
    protocol: "tcp",
    freeze: (row) => this.connections.freeze(row as TcpConnection),
    thaw: (row) => this.connections.thaw(row as TcpConnection),
    leave: (row) => this.connections.leave(row as TcpConnection),
  };

  adopt(packed: Packed, descriptors: readonly number[]): (() => void) | undefined {
    if (this.isDraining) return undefined;
    return this.connections.adopt(packed as PackedConnection, descriptors);
  }

  kill(connection: TcpConnection): void {
    connection.abort("killed");
  }

  accepted(fd: Fd): void {
    const client = decodeSockaddr(this.peerName.view, 0);
    const original = client && this.originalOf(fd, client);
    if (client === undefined || original === undefined) sys.close(fd);
    else this.begin(fd, client, original, this.visitsOf(fd, client));
  }

  /** The hop limit of a connection's SYN; 0: the kernel does not report it. */
  private hopLimitOf(fd: Fd): number {
    const { address, bytes, size } = this.syn;
    bytes[0] = 0;
    sys.getsockoptBytes(fd, IPPROTO_TCP, TCP_SAVED_SYN, address, size);
    const version = (bytes[0] as number) >> 4;
    if (version === 4) return bytes[iphdr.ttl] as number;
    return version === 6 ? (bytes[ip6_hdr.ip6_hops] as number) : 0;
  }

  /** The original destination: from NAT (SO_ORIGINAL_DST), or else the socket's own name. */
  private originalOf(fd: Fd, client: SocketAddress): SocketAddress | undefined {
    const { address, size, view } = this.localName;
    const isV4 = client.address.length === 4;
    if (!this.task.ingress.redirected || !this.askNat(fd, isV4)) sys.getsockname(fd, address, size);
    return decodeSockaddr(view, 0);
  }

  /** Writes the destination before NAT into `localName`; false if there was no NAT. */
  private askNat(fd: Fd, isV4: boolean): boolean {
    const { address, size } = this.localName;
    const level = isV4 ? IPPROTO_IP : IPPROTO_IPV6;
    const option = isV4 ? SO_ORIGINAL_DST : IP6T_SO_ORIGINAL_DST;
    return sys.getsockoptBytes(fd, level, option, address, size) >= 0;
  }

  /** How many times a connection has passed through this proxy; its ends are in the two names. */
  private visitsOf(fd: Fd, client: SocketAddress): number {
    const { peerWords, localWords, flow, loopDetector } = this;
    readKey(peerWords, 0, localWords, 0, flow);
    let visits = loopDetector.flows.find(flow);
    if (visits === 0) return 0;
    // Programs of this host that connect to different hosts may share a local port.
    if (visits === OWN_END && this.askNat(fd, client.address.length === 4)) {
      readKey(peerWords, 0, localWords, 0, flow);
      visits = loopDetector.flows.find(flow);
    }
    return visits === OWN_END ? 0 : loopDetector.visitsOf(visits, client);
  }

  private begin(fd: Fd, client: SocketAddress, original: SocketAddress, visits: number): void {
    const { connections, context, loopDetector } = this;
    this.buffers.bound(fd);
    const hopLimit = this.hopLimitOf(fd);
    const connection = connections.add(fd, client, original, { visits, hopLimit });
    if (visits >= loopRoundsMax) {
      loopDetector.refused(decodeSockaddr(this.localName.view, 0) ?? original);
      return connection.abort("loop");
    }
    if (hopLimit === 1) {
      context.shared.count(Counter.loops, 1);
      context.warn("a connection was refused: its hop limit was used up, as in a loop");
      return connection.abort("hop-limit");
    }
    connections.start(connection);
  }

  pauseAccepting(): void {
    this.relayKernel.closeIdle();
    pauseAll(this.listeners);
  }

  resumeAccepting(): void {
    resumeAll(this.listeners);
  }

  acceptFailed(errno: number, resting: boolean): void {
    if (resting) this.relayKernel.closeIdle();
    this.context.shared.count(Counter.acceptFailures, 1);
    this.context.warn(acceptWarning(errno, resting), { kind: errnoName(errno) });
  }

  pipesChanged(change: number): void {
    this.context.shared.count(Counter.pipes, change);
  }

  pipeRefused(): void {
    this.context.shared.count(Counter.pipesRefused, 1);
    this.context.warn("no more pipes can be had: what is slow is copied meanwhile");
  }

  boundMemory(fd: number): void {
    this.buffers.bound(fd);
  }

  spliceRefused(errno: number): void {
    this.context.warn(refusedLine("splice", errno));
  }

  warn(text: string): void {
    this.context.warn(text);
  }

  connected(): void {
    this.stallWatch.begin();
  }

  closed(): void {
    this.relayKernel.hopeForPipes();
    if (this.isDraining && this.isEmpty) this.finish();
  }

  /**
   * Applies new settings to new connections; time-outs also apply to open ones. Looks on the board
   * which upstreams have gone down.
   */
  update(change: ServiceChange): void {
    const down = this.router.update(change, this.loop.now);
    if (down.size > 0 && this.task.route.pool.onDown === "close") this.connections.endDown(down);
    if (change.timeouts !== undefined) this.connections.timeoutsChanged();
    if (change.ends === "all") this.connections.endRemoved();
  }

  /** Accepts no connection while TCP is among the protocols. */
  suspend(protocols: readonly Scheme[]): void {
    this.isSuspended = protocols.includes("tcp");
    for (const listener of this.listeners) listener.suspend(this.isSuspended);
  }

  /** Accepts at these as well. */
  listen(sockets: readonly ServedSocket[]): void {
    for (const { fd } of sockets) {
      const listener = new Listener(this, fd as Fd);
      if (this.isSuspended) listener.suspend(true);
      this.listeners.push(listener);
    }
  }

  /**
   * Gives up listeners. At those to be closed it accepts what is queued, now and a moment later:
   * handshakes may be on their way.
   */
  release(closed: readonly number[], moved: readonly number[]): void {
    for (const listener of this.listeners) {
      if (moved.includes(listener.fd)) listener.pause();
      if (!closed.includes(listener.fd)) continue;
      listener.acceptQueued();
      this.leaving.add(listener);
      this.loop.timers.arm(this.leavingTimer, this.loop.now + removedListenerMs);
    }
    this.listeners = this.listeners.filter(({ fd }) => !moved.includes(fd) && !closed.includes(fd));
  }

  /** Whether it accepts nothing any more. */
  get isStopped(): boolean {
    return this.isDraining;
  }

  /** Stops accepting. Open connections may go on for `drainMs`. */
  stop(drainMs = this.task.timeouts.drainMs): void {
    for (const listener of this.listeners) listener.closeEmptied();
    this.listeners = [];
    if (drainMs === 0) this.closeLeaving();
    this.isDraining = true;
    if (this.isEmpty) return this.finish();
    if (Number.isFinite(drainMs)) this.loop.timers.arm(this.drainTimer, this.loop.now + drainMs);
  }

  private closeLeaving(): void {
    for (const listener of this.leaving) listener.closeEmptied();
    this.leaving.clear();
    if (this.isDraining && this.isEmpty) this.finish();
  }

  private get isEmpty(): boolean {
    return this.connections.open.size === 0 && this.leaving.size === 0;
  }

  private finish(): void {
    this.loop.timers.disarm(this.leavingTimer);
    this.loop.timers.disarm(this.drainTimer);
    this.connections.stop();
    this.router.pool?.close();
    this.stallWatch.stop();
    this.relayKernel.close();
    this.onFinished();
  }
}

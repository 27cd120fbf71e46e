/**
 * The service of `forward`: accepts, learns who the client is, connects to an upstream from the
 * client's address, and relays. One object for each connection; its state is left in one place.
 */

import {
  IP6T_SO_ORIGINAL_DST,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  SO_ORIGINAL_DST,
  TCP_SAVED_SYN,
} from "../../../ffi/constants.ts";
import { errnoName, errnoText } from "../../../ffi/errno.ts";
import { ip6_hdr, iphdr, sockaddr_storage } from "../../../ffi/layout.ts";
import { allocate } from "../../../ffi/memory.ts";
import { decodeSockaddr, type SocketAddress } from "../../../ffi/sockaddr.ts";
import * as sys from "../../../ffi/sys.ts";
import type { Fd } from "../../../ffi/types.ts";
import { KEY_WORDS, readKey } from "../../engine/flow-key.ts";
import { IdleSweep, type SweptPlaces } from "../../engine/idle-sweep.ts";
import { loopRoundsMax, sweptIdlePart } from "../../engine/limits.ts";
import { Listener, type ListenerOwner, pauseAll, resumeAll } from "../../engine/tcp-listener.ts";
import { TcpMemory } from "../../engine/tcp-memory.ts";
import { Timer } from "../../engine/timers.ts";
import { Admission, type AdmissionOwner, type Admitted } from "../../fairness/admission.ts";
import { ClientLimits } from "../../fairness/client-limits.ts";
import { type Flow, type StallOwner, StallWatch } from "../../fairness/stall-watch.ts";
import type { Service, WorkerContext } from "../../workers/context.ts";
import { Counter } from "../../workers/counters.ts";
import { type End, ended, endReasons, isUsual } from "../../workers/end-reason.ts";
import { type Command, type ForwardTask, LogLevel } from "../../workers/protocol.ts";
import { refusedLine } from "../../workers/refused-lines.ts";
import type { OpenRows } from "../../workers/table.ts";
import { LoopDetector } from "../loop-detector.ts";
import { OWN_END } from "../outbound-flows.ts";
import { Router } from "../router.ts";
import { TcpConnection } from "./connection.ts";
import type { TcpConnectionOwner } from "./connection-owner.ts";
import { type PipeWatcher, SystemKernel } from "./relay-kernel.ts";
import { StreamBuffers } from "./stream-buffers.ts";
import { StreamHeaders } from "./stream-headers.ts";
import { UpstreamSockets } from "./upstream-socket.ts";

export class TcpForwarder
  implements
    Service,
    OpenRows,
    ListenerOwner,
    TcpConnectionOwner<TcpConnection>,
    PipeWatcher,
    AdmissionOwner<TcpConnection>,
    SweptPlaces,
    StallOwner<TcpConnection>
{
  readonly context: WorkerContext;
  readonly task: ForwardTask;
  readonly router: Router;
  readonly loops: LoopDetector;
  readonly kernel: SystemKernel;
  readonly upstreamSockets: UpstreamSockets;
  readonly peerName = allocate(sockaddr_storage.size);
  readonly headers = new StreamHeaders();
  private readonly onFinished: () => void;
  /** The headers of a SYN. */
  private readonly syn = allocate(128);
  private readonly localName = allocate(sockaddr_storage.size);
  private readonly peerWords = this.peerName.words();
  private readonly localWords = this.localName.words();
  private readonly flow = new Uint32Array(KEY_WORDS);
  private readonly connections = new Set<TcpConnection>();
  private readonly waiting = new Set<TcpConnection>();
  private listeners: Listener[];
  private readonly memory: TcpMemory;
  private readonly buffers: StreamBuffers;
  private readonly stallWatch: StallWatch<TcpConnection>;
  private readonly admission: Admission<TcpConnection>;
  private readonly maximumText: string;
  private accepts = 0;
  private draining = false;
  private readonly idleSweep: IdleSweep;
  private readonly drainTimer = new Timer(() => this.abortAll());

  /** `onFinished` is called once: it has been stopped, and nothing is open any more. */
  constructor(context: WorkerContext, task: ForwardTask, onFinished: () => void) {
    this.context = context;
    this.onFinished = onFinished;
    this.task = task;
    this.maximumText =
      `${task.connectionsMax} connections are open, as many as this worker may have: ` +
      "the next ones wait, and clients with more than others pay";
    this.admission = new Admission(task, new ClientLimits(task.clients), this);
    this.idleSweep = new IdleSweep(context.loop, this);
    this.memory = new TcpMemory(task.clients.workers, (text) => context.warn(text));
    this.buffers = new StreamBuffers(this.memory, context.loop);
    this.stallWatch = new StallWatch(context.loop, this.memory, this);
    this.kernel = new SystemKernel(task.pipesMax, this, context.loop, this.buffers);
    this.upstreamSockets = new UpstreamSockets(task, this);
    this.router = new Router(context, task, "tcp");
    this.loops = new LoopDetector(context, task, this.router, "tcp");
    const sockets = task.sockets.filter(({ protocol }) => protocol === "tcp");
    this.listeners = sockets.map(({ fd }) => new Listener(this, fd as Fd));
  }

  get loop() {
    return this.context.loop;
  }
  get open(): Iterable<TcpConnection> {
    return this.connections;
  }
  get lastId(): number {
    return this.accepts;
  }

  accepted(fd: Fd): void {
    const client = decodeSockaddr(this.peerName.view, 0);
    const original = client && this.originalOf(fd, client);
    if (client === undefined || original === undefined) sys.close(fd);
    else this.begin(fd, client, original, this.visitsOf(fd, client));
  }

  /** The hop limit that a connection's SYN came with; 0: the kernel does not say. */
  private hopLimitOf(fd: Fd): number {
    const { address, bytes, size } = this.syn;
    bytes[0] = 0;
    sys.getsockoptBytes(fd, IPPROTO_TCP, TCP_SAVED_SYN, address, size);
    const version = (bytes[0] as number) >> 4;
    if (version === 4) return bytes[iphdr.ttl] as number;
    return version === 6 ? (bytes[ip6_hdr.ip6_hops] as number) : 0;
  }

  /** The address that the client asked for: NAT knows it, or the socket itself has it. */
  private originalOf(fd: Fd, client: SocketAddress): SocketAddress | undefined {
    const { address, size, view } = this.localName;
    const isV4 = client.address.length === 4;
    if (!this.task.redirected || !this.askNat(fd, isV4)) sys.getsockname(fd, address, size);
    return decodeSockaddr(view, 0);
  }

  /** Where a connection went before NAT changed that, in `localName`; false if it did not. */
  private askNat(fd: Fd, isV4: boolean): boolean {
    const { address, size } = this.localName;
    const level = isV4 ? IPPROTO_IP : IPPROTO_IPV6;
    const option = isV4 ? SO_ORIGINAL_DST : IP6T_SO_ORIGINAL_DST;
    return sys.getsockoptBytes(fd, level, option, address, size) >= 0;
  }

  /** How often what a connection carries has been here; its ends are in the two names. */
  private visitsOf(fd: Fd, client: SocketAddress): number {
    const { peerWords, localWords, flow, loops } = this;
    readKey(peerWords, 0, localWords, 0, flow);
    let visits = loops.flows.find(flow);
    if (visits === 0) return 0;
    // Of programs here that connect to different hosts, several may have one port.
    if (visits === OWN_END && this.askNat(fd, client.address.length === 4)) {
      readKey(peerWords, 0, localWords, 0, flow);
      visits = loops.flows.find(flow);
    }
    return visits === OWN_END ? 0 : loops.visitsOf(visits, client);
  }

  private begin(fd: Fd, client: SocketAddress, original: SocketAddress, visits: number): void {
    const { shared } = this.context;
    shared.count(Counter.accepted, 1);
    shared.count(Counter.active, 1);
    this.buffers.bound(fd);
    const hopLimit = this.hopLimitOf(fd);
    const trail = { visits, hopLimit };
    const connection = new TcpConnection(this, fd, ++this.accepts, client, original, trail);
    this.connections.add(connection);
    if (this.task.logLevel >= LogLevel.debug) this.context.record("accepted", connection);
    if (visits >= loopRoundsMax) {
      this.loops.refused(decodeSockaddr(this.localName.view, 0) ?? original);
      return connection.abort("loop");
    }
    if (hopLimit === 1) {
      shared.count(Counter.loops, 1);
      this.context.warn("a connection was refused: its hop limit was used up, as in a loop");
      return connection.abort("hop-limit");
    }
    if (this.admission.arrive(connection, client)) return connection.start();
    this.noteFull();
    shared.count(Counter.refusedConnections, 1);
    connection.abort("no-place");
  }

  admit(connection: TcpConnection): Admitted {
    const { admission } = this;
    const verdict = admission.admit(connection, connection.client, this.loop.now);
    if (admission.isFull) this.noteFull();
    if (verdict !== "placed" && verdict !== "waits") {
      this.context.shared.count(Counter.refusedConnections, 1);
      this.context.warn(`a connection was ${endReasons[verdict]}`);
    } else this.idleSweep.taken();
    return verdict;
  }

  proceed(connection: TcpConnection): void {
    connection.proceed();
  }

  evict(connection: TcpConnection): void {
    this.context.shared.count(Counter.evictedConnections, 1);
    this.context.warn(`a connection was ${endReasons.evicted}`);
    connection.abort("evicted");
  }

  get isNearlyFull(): boolean {
    return this.admission.isNearlyFull;
  }

  sweep(): void {
    for (const connection of this.admission.aboveShare()) connection.endIfIdle(sweptIdlePart);
  }

  /** No more are accepted, until those that wait are connected. */
  waits(connection: TcpConnection, why: string): void {
    if (this.waiting.has(connection)) return;
    this.waiting.add(connection);
    pauseAll(this.listeners);
    this.context.shared.count(Counter.atMaximum, 1);
    const consequence = "connecting and accepting rest until descriptors or memory are free";
    this.context.warn(`${why}: ${consequence}`, { kind: "waiting" });
  }

  acceptFailed(errno: number, resting: boolean): void {
    const consequence = resting
      ? "accepting rests until descriptors or memory are free"
      : "skipped";
    const name = errnoName(errno);
    this.context.shared.count(Counter.acceptFailures, 1);
    this.context.warn(`accept4: ${errnoText(errno)} (${name}): ${consequence}`, { kind: name });
  }

  private noteFull(): void {
    this.context.shared.count(Counter.atMaximum, 1);
    this.context.warn(this.maximumText);
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

  mayWiden(connection: TcpConnection): boolean {
    return this.admission.countWith(connection) <= this.buffers.wideOfClient;
  }

  spliceRefused(errno: number): void {
    this.context.warn(refusedLine("splice", errno));
  }

  timedOut({ source, upstream, client }: TcpConnection): End {
    if (source !== "self" && upstream !== undefined) this.router.timedOut(upstream, client.address);
    return ended("connect-timeout");
  }

  warn(text: string): void {
    this.context.warn(text);
  }

  flowsOf({ relay }: TcpConnection): readonly Flow[] {
    return relay?.flows() ?? [];
  }

  clientOf(connection: TcpConnection): number {
    return this.admission.clientOf(connection);
  }

  endStalled(connection: TcpConnection): void {
    this.context.shared.count(Counter.stalledConnections, 1);
    this.context.warn(`a connection was ${endReasons.stalled}`);
    connection.abort("stalled");
  }

  connected(connection: TcpConnection): void {
    this.stallWatch.begin();
    if (this.task.logLevel >= LogLevel.debug) this.context.record("reached", connection);
  }

  closed(connection: TcpConnection): void {
    this.connections.delete(connection);
    this.kernel.hopeForPipes();
    const { shared } = this.context;
    shared.count(Counter.active, -1);
    shared.count(Counter.clientBytes, connection.sent);
    shared.count(Counter.upstreamBytes, connection.received);
    const failed = connection.end !== undefined && !isUsual(connection.end, "tcp");
    if (failed) shared.count(Counter.failed, 1);
    this.context.recordEnd(connection, failed, this.task.logLevel);
    if (this.draining && this.connections.size === 0) this.finish();
    this.waiting.delete(connection);
    this.admission.left(connection);
    // Its descriptors are for those that wait, then for new ones.
    const [next] = this.waiting;
    if (next === undefined) this.acceptAgain();
    else next.connectAgain();
  }

  /** There was a descriptor for one that waited. */
  goesOn(connection: TcpConnection): void {
    this.waiting.delete(connection);
    this.acceptAgain();
  }

  private acceptAgain(): void {
    if (this.waiting.size === 0) resumeAll(this.listeners);
  }

  /** What new connections are carried by; those that are open stay as they are. */
  onCommand(command: Command): void {
    this.router.onCommand(command);
  }

  /** Accepts no more, and gives what is open some time to come to its end. */
  stop(): void {
    for (const listener of this.listeners) listener.closeEmptied();
    this.listeners = [];
    this.draining = true;
    if (this.connections.size === 0) return this.finish();
    this.loop.timers.arm(this.drainTimer, this.loop.now + this.task.drainTimeoutMs);
  }

  private abortAll(): void {
    for (const connection of [...this.connections]) connection.abort("stopped");
  }

  private finish(): void {
    this.loop.timers.disarm(this.drainTimer);
    this.idleSweep.stop();
    this.stallWatch.stop();
    this.kernel.close();
    this.onFinished();
  }
}

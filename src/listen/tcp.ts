/** The TCP side of `listen`: accepts connections within the limits, and counts and logs them. */

import { EPOLLIN } from "../../ffi/constants.ts";
import { errnoName } from "../../ffi/errno.ts";
import { sockaddr_storage } from "../../ffi/layout.ts";
import { allocate, type NativeBuffer } from "../../ffi/memory.ts";
import { decodeSockaddr, type SocketAddress } from "../../ffi/sockaddr.ts";
import * as sys from "../../ffi/sys.ts";
import type { Address, Fd } from "../../ffi/types.ts";
import { IdleSweep, type SweptPlaces } from "../engine/idle-sweep.ts";
import { receiveBytes, sweptIdlePart } from "../engine/limits.ts";
import type { EventLoop } from "../engine/loop.ts";
import { acceptWarning, Listener, type ListenerOwner, resumeAll } from "../engine/tcp-listener.ts";
import { TcpMemory } from "../engine/tcp-memory.ts";
import { Admission, type AdmissionOwner } from "../fairness/admission.ts";
import { ClientLimits } from "../fairness/client-limits.ts";
import { type Flow, type StallOwner, StallWatch } from "../fairness/stall-watch.ts";
import { formatSocketAddress } from "../net/socket-address.ts";
import { Counter, type CounterBlock } from "../workers/counters.ts";
import { type End, type EndReason, ended, endReasons, isRefusal } from "../workers/end-reason.ts";
import type { Responding, RespondTask } from "../workers/protocol.ts";
import type { Service, ServiceContext } from "../workers/service-context.ts";
import type { Quota } from "./quota.ts";
import { Responder, type ResponderOwner } from "./tcp-connection.ts";

export class TcpService
  implements
    Service,
    ListenerOwner,
    ResponderOwner,
    AdmissionOwner<Responder>,
    SweptPlaces,
    StallOwner<Responder>
{
  readonly loop: EventLoop;
  readonly counters: CounterBlock;
  readonly answer: Responding;
  readonly idleTimeoutMs: number;
  readonly receiveBuffer = allocate(receiveBytes);
  readonly reply: { readonly address: Address; readonly size: number };
  private readonly task: RespondTask;
  private readonly context: ServiceContext;
  private readonly quota: Quota;
  private readonly admission: Admission<Responder>;
  private readonly idleSweep: IdleSweep;
  private readonly stallWatch: StallWatch<Responder>;
  private readonly onClosed: () => void;
  readonly peerName = allocate(sockaddr_storage.size);
  private readonly localName = allocate(sockaddr_storage.size);
  private readonly connections = new Set<Responder>();
  private listeners: Listener[] = [];
  private accepts = 0;

  /** `onClosed` is called after each connection's end. */
  constructor(context: ServiceContext, task: RespondTask, quota: Quota, onClosed: () => void) {
    this.context = context;
    this.loop = context.loop;
    this.counters = context.shared;
    this.task = task;
    this.quota = quota;
    this.admission = new Admission(task, new ClientLimits(task.clients), this);
    this.idleSweep = new IdleSweep(context.loop, this);
    const memory = new TcpMemory(task.clients.workers, (text) => context.warn(text));
    this.stallWatch = new StallWatch(context.loop, memory, this);
    this.onClosed = onClosed;
    this.answer = task.answer;
    this.idleTimeoutMs = task.idleTimeoutMs;
    this.reply = task.answer.kind === "reply" ? load(task.answer.bytes) : NO_REPLY;
    for (const socket of task.sockets) {
      if (socket.protocol === "tcp") this.listeners.push(new Listener(this, socket.fd as Fd));
    }
  }

  accepted(fd: Fd): void {
    const id = ++this.accepts;
    const peer = decodeSockaddr(this.peerName.view, 0);
    // A transparent listener's connection has the address that its client has connected to.
    sys.getsockname(fd, this.localName.address, this.localName.size);
    const client = endpoint(peer);
    const local = endpoint(decodeSockaddr(this.localName.view, 0));
    const connection = new Responder(this, fd, id, client, local);
    this.connections.add(connection);
    this.counters.count(Counter.accepted, 1);
    this.counters.count(Counter.active, 1);
    if (this.task.report) this.context.report({ kind: "connection", id, client, local });
    this.quota.spend();
    if (peer === undefined || !this.admission.arrive(connection, peer)) {
      return this.refuse(connection, "no-place");
    }
    const verdict = this.admission.admit(connection, peer, this.loop.now);
    if (this.admission.isFull) this.counters.count(Counter.atMaximum, 1);
    if (verdict === "placed") this.proceed(connection);
    else if (verdict !== "waits") this.refuse(connection, verdict);
    this.idleSweep.taken();
  }

  get isNearlyFull(): boolean {
    return this.admission.isNearlyFull;
  }

  sweep(): void {
    for (const connection of this.admission.aboveShare()) connection.endIfIdle(sweptIdlePart);
  }

  /** The connection has got a place. */
  proceed(connection: Responder): void {
    this.stallWatch.begin();
    if (this.loop.add(connection.fd, EPOLLIN, connection) < 0) {
      connection.close(ended("failed"));
    }
  }

  evict(connection: Responder): void {
    this.counters.count(Counter.evictedConnections, 1);
    this.context.warn(`a connection was ${endReasons.evicted}`);
    connection.close(ended("evicted"));
  }

  get open(): Iterable<Responder> {
    return this.connections;
  }

  flowsOf(connection: Responder): readonly Flow[] {
    return [connection];
  }

  clientOf(connection: Responder): number {
    return this.admission.clientOf(connection);
  }

  endStalled(connection: Responder): void {
    this.counters.count(Counter.stalledConnections, 1);
    this.context.warn(`a connection was ${endReasons.stalled}`);
    connection.close(ended("stalled"));
  }

  private refuse(connection: Responder, reason: EndReason): void {
    this.counters.count(Counter.refusedConnections, 1);
    this.context.warn(`a connection was ${endReasons[reason]}`);
    connection.close(ended(reason));
  }

  acceptFailed(errno: number, resting: boolean): void {
    this.counters.count(Counter.acceptFailures, 1);
    this.context.warn(acceptWarning(errno, resting), { kind: errnoName(errno) });
  }

  data(connection: Responder, count: number): void {
    if (!this.task.report) return;
    const { id, client, local } = connection;
    const bytes = this.receiveBuffer.bytes.slice(0, count);
    this.context.report({ kind: "data", id, client, local, bytes });
  }

  closed(connection: Responder, end: End): void {
    this.connections.delete(connection);
    this.counters.count(Counter.active, -1);
    if (this.task.report) {
      const { id, client, local, received: clientBytes, sent: upstreamBytes } = connection;
      const kind = isRefusal(end.reason) ? "refused" : "closed";
      this.context.report({ kind, id, client, local, clientBytes, upstreamBytes, end });
    }
    this.admission.left(connection);
    // A descriptor is free again: listeners that wait for one accept again.
    resumeAll(this.listeners);
    this.onClosed();
  }

  /** The number of open connections. */
  get active(): number {
    return this.connections.size;
  }

  /** Accepts no more; open connections go on until their end. */
  stopAccepting(): void {
    for (const listener of this.listeners) listener.close();
    this.listeners = [];
  }

  stop(): void {
    this.stopAccepting();
    this.idleSweep.stop();
    this.stallWatch.stop();
    for (const connection of [...this.connections]) connection.close(ended("stopped"));
  }
}

function endpoint(decoded: SocketAddress | undefined): string {
  return decoded === undefined ? "unknown" : formatSocketAddress(decoded);
}

const NO_REPLY = { address: 0, size: 0 } as const;

function load(bytes: Uint8Array): { address: Address; size: number } {
  if (bytes.length === 0) return NO_REPLY;
  const buffer: NativeBuffer = allocate(bytes.length);
  buffer.bytes.set(bytes);
  return buffer;
}

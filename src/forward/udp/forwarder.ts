/**
 * The UDP side of `forward`. The first datagram of a client to a destination begins a session: a
 * socket that is connected to the upstream. Answers leave from the address that the client has
 * sent to (`ReplyMode`).
 *
 * Calls go down only. A class knows the classes below it, and none above it:
 *
 *     event loop: a listener, or a socket of a session, is readable
 *      └─ UdpForwarder            receives a batch, finds the sessions, forwards both ways
 *          ├─ UdpListener         receives; limits the newcomers while its queue is full
 *          ├─ ProxiedSenders      reads PROXY headers; finds or begins the sessions they name
 *          │   └─ SessionManager
 *          ├─ SessionManager      finds, begins, fails and ends sessions
 *          │   ├─ SessionPlaces   numbers and descriptors; chooses sessions to evict
 *          │   │   └─ SessionTable
 *          │   ├─ UpstreamEvidence, Router, LoopDetector, IcmpErrors
 *          │   └─ Session         its sockets, its timer, its counts
 *          ├─ SortedBatch         the messages of a batch by session
 *          ├─ DatagramSender      sends them, to the upstream and to the client
 *          └─ ReplyModes          how answers leave; opens the sockets for that
 *              └─ Outlets, SessionManager
 *
 * Plain functions call up where the direction turns. A session's socket is readable. A session is
 * ending: its messages in the batch are sent first. A reply socket was bound: the listener's older
 * datagrams go first. `SessionPlaces` needs a place: the manager evicts a session. A session with a
 * header begins: `ProxiedSenders` returns the part for the upstream.
 *
 * Forwarding a datagram allocates nothing. A session costs one or two descriptors and an object.
 * All sessions together are bounded; every rejected session and dropped datagram is counted.
 */

import { EPOLLIN } from "../../../ffi/constants.ts";
import {
  describeErrno,
  EAGAIN,
  ECONNREFUSED,
  EHOSTUNREACH,
  EINTR,
  EMSGSIZE,
  ENOPROTOOPT,
} from "../../../ffi/errno.ts";
import { sockaddr_in6 } from "../../../ffi/layout.ts";
import type { ReceiveBatch } from "../../../ffi/receive-batch.ts";
import { encodeSockaddr } from "../../../ffi/sockaddr.ts";
import type { Fd } from "../../../ffi/types.ts";
import { readKey } from "../../engine/flow-key.ts";
import { batchDatagrams, batchesPerTurn, drainedBatchesMax } from "../../engine/limits.ts";
import { rawRefusal } from "../../engine/raw-sender.ts";
import { Spares } from "../../engine/spares.ts";
import type { Scheme } from "../../net/target.ts";
import { Counter } from "../../workers/counters.ts";
import { type EndReason, ended } from "../../workers/end-reason.ts";
import type {
  ForwardTask,
  ServedSocket,
  ServiceChange,
  SessionSettings,
} from "../../workers/protocol.ts";
import type { Service, ServiceContext } from "../../workers/service-context.ts";
import { Router } from "../router.ts";
import type { Upstream } from "../upstream.ts";
import { DatagramSender } from "./datagram-sender.ts";
import { UdpListener } from "./listener.ts";
import { ProxiedSenders } from "./proxied.ts";
import { ReplyModes } from "./reply-mode.ts";
import type { Session } from "./session.ts";
import { SessionManager } from "./session-manager.ts";
import { SortedBatch } from "./sorted-batch.ts";

type Side = "client" | "upstream";

const senders = new Spares(() => new DatagramSender());

export class UdpForwarder implements Service {
  /** The ends of the datagram at hand, for `sessionOf`. */
  protected readonly key: Uint32Array;
  private readonly context: ServiceContext;
  private readonly onFinished: () => void;
  private readonly router: Router;
  private readonly manager: SessionManager;
  private readonly sender: DatagramSender;
  private readonly sorted: SortedBatch<Session>;
  private readonly replyModes: ReplyModes;
  /** Where headers name the clients. */
  private readonly proxied: ProxiedSenders | undefined;
  /** The destination of the datagrams at a session's own socket, a socket address. */
  private readonly destination = new Uint32Array(sockaddr_in6.size / 4);
  private listeners: UdpListener[] = [];
  private isSuspended = false;
  /** The kernel may join datagrams of one flow (UDP_GRO). */
  private readonly joins: boolean;

  /** `onFinished` is called once, after `stop`. */
  constructor(
    context: ServiceContext,
    task: ForwardTask,
    settings: SessionSettings,
    onFinished: () => void,
  ) {
    this.context = context;
    this.onFinished = onFinished;
    const { acceptProxy } = task.ingress;
    const headsEvery = task.dial.sendProxy === "v2:every";
    // UDP_GRO is of use where no datagram is read or gets a header by itself.
    const joins = acceptProxy === undefined && !headsEvery;
    this.router = new Router(context, task, "udp");
    this.manager = new SessionManager(context, task, settings, this.router, {
      upstreamReadable: (session) => this.upstreamReadable(session),
      clientReadable: (session) => this.clientReadable(session),
      ending: (session) => this.ending(session),
    });
    this.key = this.manager.flowKey;
    this.sender = senders.take();
    this.sender.headsEvery = headsEvery;
    const { arrivals } = this.sender;
    this.sorted = new SortedBatch(arrivals, batchDatagrams);
    this.proxied = acceptProxy && new ProxiedSenders(this.manager, arrivals, acceptProxy);
    this.replyModes = new ReplyModes(this.manager, joins, {
      drain: (listener) => this.drain(listener),
      takeStrays: (session, fd) => void this.takeStrays(session, fd),
    });
    this.joins = joins;
    this.listen(task.sockets.filter(({ protocol }) => protocol === "udp"));
  }

  get open(): Iterable<Session> {
    return this.manager.open;
  }
  kill(session: Session): void {
    this.manager.end(session, ended("killed"));
  }

  /** Accepts at these as well. */
  listen(sockets: readonly ServedSocket[]): void {
    for (const socket of sockets) {
      const listener = new UdpListener(socket, this.joins);
      this.listeners.push(listener);
      if (!this.isSuspended) this.watch(listener);
    }
  }

  /** Gives up listeners, and ends their sessions: first those of what closed ones have queued. */
  release(closed: readonly number[], moved: readonly number[]): void {
    const { loop } = this.context;
    for (const listener of this.listeners) {
      const isClosed = closed.includes(listener.fd);
      if (!isClosed && !moved.includes(listener.fd)) continue;
      if (isClosed) this.drain(listener);
      this.manager.endWhere("removed", ({ start }) => start.listener === listener);
      if (isClosed) loop.close(listener.fd);
      else if (!this.isSuspended) loop.remove(listener.fd);
    }
    this.listeners = this.listeners.filter(({ fd }) => !moved.includes(fd) && !closed.includes(fd));
  }

  /** It is gone once it is stopped. */
  readonly isStopped = false;

  /** Sessions know no end of their own, so they end at once. */
  stop(_drainMs?: number): void {
    for (const { fd } of this.listeners) this.context.loop.close(fd);
    this.listeners = [];
    this.manager.endAll("stopped");
    this.router.pool?.close();
    senders.give(this.sender);
    this.onFinished();
  }

  /** Reads no listener while UDP is among the protocols. Sessions go on at sockets of their own. */
  suspend(protocols: readonly Scheme[]): void {
    const isSuspended = protocols.includes("udp");
    if (isSuspended === this.isSuspended) return;
    this.isSuspended = isSuspended;
    for (const listener of this.listeners) {
      if (isSuspended) this.context.loop.remove(listener.fd);
      else this.watch(listener);
    }
  }

  /** New sessions go to the current upstreams; open ones stay unless theirs is down or removed. */
  update(change: ServiceChange): void {
    const { manager, router } = this;
    const down = router.update(change, this.context.loop.now);
    const endOf = (reason: EndReason, isGone: (upstream: Upstream) => boolean) =>
      manager.endWhere(reason, ({ start: { picked } }) => picked !== undefined && isGone(picked));
    if (down.size > 0) endOf("down", (upstream) => down.has(upstream));
    if (change.ends !== undefined) endOf("removed", (upstream) => !router.has(upstream));
  }

  /** The session of message `index`, begun if there is none; undefined: it is dropped. */
  protected sessionOf(listener: UdpListener, index: number): Session | undefined {
    if (this.proxied !== undefined) return this.proxied.sessionOf(listener, index);
    return this.manager.find(listener);
  }

  private watch(listener: UdpListener): void {
    const onReady = () => this.read(listener, batchesPerTurn);
    this.context.loop.add(listener.fd, EPOLLIN, { onReady });
  }

  /** Forwards all datagrams that were queued before now. */
  private drain(listener: UdpListener): void {
    this.read(listener, drainedBatchesMax);
  }

  /** Forwards what a listener has queued, `batches` at most. */
  private read(listener: UdpListener, batches: number): void {
    if (this.isSuspended) return;
    const { arrivals } = this.sender;
    for (let turn = 0; turn < batches; turn++) {
      const count = listener.receive(arrivals);
      this.forward(listener, arrivals, count, undefined);
      if (count < arrivals.capacity) return;
    }
  }

  /** Forwards `count` messages of a batch; all were sent to `destination`, if that is given. */
  private forward(
    listener: UdpListener,
    batch: ReceiveBatch,
    count: number,
    destination: Uint32Array | undefined,
  ): void {
    const { sorted } = this;
    sorted.begin(batch);
    for (let i = 0; i < count; i++) {
      const session = this.readEnds(batch, i, destination)
        ? this.sessionOf(listener, i)
        : this.dropUnaddressed();
      if (session !== undefined) sorted.add(session, i);
    }
    const { sessions } = sorted;
    for (let i = 0; i < sessions.length; i++) this.sendSorted(sessions[i] as Session);
    sorted.clear();
  }

  /** Writes the ends of message `index` to `key`; false if the kernel did not name them. */
  private readEnds(batch: ReceiveBatch, index: number, destination?: Uint32Array): boolean {
    const at = destination === undefined ? batch.destinationAt(index) : 0;
    if (at < 0) return false;
    const { names, controls } = batch;
    return readKey(names, batch.nameAt(index), destination ?? controls, at, this.key);
  }

  private dropUnaddressed(): undefined {
    const text = "a datagram without its original destination was dropped";
    this.manager.drop("no-destination", text, 1);
  }

  /** Sends a session's messages of the batch at hand to its upstream. */
  private sendSorted(session: Session): void {
    const { sorted } = this;
    const first = sorted.take(session);
    if (first < 0) return;
    this.sender.chainToUpstream(session, sorted.batch, first, sorted.next);
    this.sentToUpstream(session);
  }

  /**
   * Between bind and connect a session's own socket receives the datagrams of everybody who sends
   * to that destination. So its queue is read once as that of a listener. If it holds datagrams of
   * other clients, the listener has received nothing for that destination meanwhile: the listener's
   * datagrams are newer. Otherwise, with TPROXY, the listener has received all: its datagrams are
   * older. Returns true if there is more to read.
   */
  private takeStrays(session: Session, fd: Fd): boolean {
    const { strays } = this.sender;
    const { listener, destination } = session.start;
    const { address, port, scopeId } = destination;
    encodeSockaddr(new DataView(this.destination.buffer), 0, address, port, scopeId);
    for (let turn = 0; turn < drainedBatchesMax && !session.isEnded; turn++) {
      const count = strays.receive(fd);
      const isOlder = turn === 0 && listener.emptied === session.emptiedBefore;
      if (isOlder && !this.hasOthers(session, count)) this.drain(listener);
      if (count === -EAGAIN) return false;
      if (count < 0) this.clientFailed(session, -count);
      else this.forward(listener, strays, count, this.destination);
      if (count >= 0 && count < strays.capacity) return false;
    }
    return true;
  }

  /** Whether one of the first `count` strays is of another client than the session's. */
  private hasOthers({ start }: Session, count: number): boolean {
    const { strays } = this.sender;
    for (let i = 0; i < count; i++) {
      const isRead = this.readEnds(strays, i, this.destination);
      if (isRead && this.manager.table.find() !== start.slot) return true;
    }
    return false;
  }

  private clientReadable(session: Session): void {
    if (session.isNew) {
      session.isNew = false;
      if (this.takeStrays(session, session.ownFd as Fd)) session.fromClient.defer();
      return;
    }
    const { flows } = this.sender;
    for (let turn = 0; turn < batchesPerTurn; turn++) {
      if (session.isEnded) return;
      const count = flows.receive(session.ownFd as Fd);
      if (count === -EAGAIN) return;
      if (count < 0) this.clientFailed(session, -count);
      else {
        this.sender.flowToUpstream(session, count);
        this.sentToUpstream(session);
        if (count < flows.capacity) return;
      }
    }
    session.fromClient.defer();
  }

  /** The socket to a session's client has returned an error. */
  private clientFailed(session: Session, errno: number): void {
    if (isRefusal(errno)) this.manager.fail(session, errno, "client");
  }

  /** Counts the datagrams to the upstream that `sender` has just sent or dropped. */
  private sentToUpstream(session: Session): void {
    const { manager } = this;
    const { loop, shared } = this.context;
    const { sending, expired } = this.sender;
    if (expired > 0) manager.expired(session, expired);
    manager.table.asked(session.start.slot, loop.now);
    shared.count(Counter.datagrams, sending.sent);
    shared.count(Counter.clientDatagrams, sending.sent);
    shared.count(Counter.clientBytes, sending.sentBytes);
    const { picked } = session.start;
    if (picked !== undefined) this.router.pool?.carried(picked, sending.sentBytes, 0);
    if (sending.dropped > 0) this.sendFailed(session, "upstream");
    else this.replyModes.watch(session, loop.now);
  }

  /** The kernel returns an error before older answers: they are read first, then it counts. */
  private upstreamReadable(session: Session): void {
    const { flows } = this.sender;
    for (let turn = 0; turn < batchesPerTurn; turn++) {
      const count = flows.receive(session.start.upstreamFd);
      if (count > 0) this.answer(session, count);
      else if (isRefusal(-count)) session.refusal = -count;
      if (session.isEnded) return;
      if (count === -EAGAIN || (count >= 0 && count < flows.capacity)) {
        if (session.refusal > 0) this.manager.fail(session, session.refusal, "upstream");
        return;
      }
    }
    session.fromUpstream.defer();
  }

  /** Sends the `count` messages that the upstream's socket has received to the client. */
  private answer(session: Session, count: number): void {
    const { manager, replyModes, sender } = this;
    const { loop, shared } = this.context;
    if (manager.table.answered(session.start.slot, loop.now)) manager.answered(session);
    const { sending } = sender;
    if (session.replyMode === "unknown") {
      const refusal = replyModes.find(session);
      if (refusal !== "") return manager.drop("unanswerable", refusal, sender.datagrams(count));
    }
    if (session.replyMode === "raw") sender.flowByRaw(session, count, manager.raw);
    else sender.flowToClient(session, count, session.replyFd as Fd);
    shared.count(Counter.datagrams, sending.sent);
    shared.count(Counter.upstreamDatagrams, sending.sent);
    shared.count(Counter.upstreamBytes, sending.sentBytes);
    const { picked } = session.start;
    if (picked !== undefined) this.router.pool?.carried(picked, 0, sending.sentBytes);
    replyModes.watchSize(session, sending.largest);
    if (sending.dropped > 0) this.sendFailed(session, "client");
    else replyModes.watch(session, loop.now);
  }

  private sendFailed(session: Session, side: Side): void {
    const { dropped, errno } = this.sender.sending;
    const error = describeErrno(errno);
    const isRaw = side === "client" && session.replyMode === "raw";
    const why = isRaw ? rawRefusal(errno) : `a datagram to the ${side} was dropped: ${error}`;
    this.manager.drop("send-failed", why, dropped);
    // These come from the far end by ICMP. Other failures (no route, a full queue) may pass.
    if (errno !== ECONNREFUSED && errno !== ENOPROTOOPT && errno !== EHOSTUNREACH) return;
    if (side === "client") return this.manager.fail(session, errno, side);
    session.refusal = errno;
    session.fromUpstream.defer();
  }

  private ending(session: Session): void {
    this.sendSorted(session);
    this.proxied?.ended(session);
    this.replyModes.ended(session);
  }
}

/**
 * Returns whether an ICMP error of the far end means that nothing arrives there. One about a packet
 * that was too large for a path does not: the kernel notes the MTU, and fragments the next ones.
 */
function isRefusal(errno: number): boolean {
  return errno > 0 && errno !== EAGAIN && errno !== EINTR && errno !== EMSGSIZE;
}

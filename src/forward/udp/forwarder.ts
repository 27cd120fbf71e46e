/**
 * The UDP side of `forward`. The first datagram of a client to a destination begins a session: one
 * socket, connected to the upstream. Answers leave from where the client has sent to (`Way`).
 *
 * Nothing is allocated for a datagram. A session costs one or two descriptors and an object; all of
 * them together are bounded, and whatever is refused or dropped for it is counted and said.
 */

import {
  describeErrno,
  EAGAIN,
  ECONNREFUSED,
  EHOSTUNREACH,
  EINTR,
  EMSGSIZE,
  ENOPROTOOPT,
} from "../../../ffi/errno.ts";
import type { ReceiveBatch } from "../../../ffi/receive-batch.ts";
import type { Fd } from "../../../ffi/types.ts";
import { batchesPerTurn } from "../../engine/limits.ts";
import { rawRefusal } from "../../engine/raw-sender.ts";
import type { Service, WorkerContext } from "../../workers/context.ts";
import { Counter } from "../../workers/counters.ts";
import { ended } from "../../workers/end-reason.ts";
import type { Command, ForwardTask, SessionSettings } from "../../workers/protocol.ts";
import type { OpenRows } from "../../workers/table.ts";
import { DatagramSender } from "./datagram-sender.ts";
import { type IngressOwner, UdpListener } from "./listener.ts";
import { ProxiedSenders } from "./proxied.ts";
import { ReplyMode } from "./reply-mode.ts";
import type { Session, SessionOwner } from "./session.ts";
import { SessionManager } from "./session-manager.ts";

type Side = "client" | "upstream";

export class UdpForwardService implements Service, OpenRows, IngressOwner, SessionOwner {
  readonly joins: boolean;
  private readonly context: WorkerContext;
  private readonly onFinished: () => void;
  private readonly sender: DatagramSender;
  private readonly manager: SessionManager;
  private readonly replyMode: ReplyMode;
  /** Where headers say who the clients are. */
  private readonly proxied: ProxiedSenders | undefined;
  private ingresses: UdpListener[];

  /** `onFinished` is called once, when it has been stopped. */
  constructor(
    context: WorkerContext,
    task: ForwardTask,
    settings: SessionSettings,
    onFinished: () => void,
  ) {
    this.context = context;
    this.onFinished = onFinished;
    const { acceptProxy } = task;
    const headsEvery = task.sendProxy === "v2:every";
    this.joins = acceptProxy === undefined && !headsEvery;
    this.sender = new DatagramSender(headsEvery);
    this.manager = new SessionManager(context, task, settings, this);
    const { arrivals } = this.sender;
    this.proxied = acceptProxy && new ProxiedSenders(this.manager, arrivals, acceptProxy);
    this.replyMode = new ReplyMode(this.manager, this.joins);
    this.ingresses = task.sockets
      .filter(({ protocol }) => protocol === "udp")
      .map((socket) => new UdpListener(this, socket));
  }

  get loop() {
    return this.context.loop;
  }
  get open(): Iterable<Session> {
    return this.manager.open;
  }
  get lastId(): number {
    return this.manager.begun;
  }
  get arrivals() {
    return this.sender.arrivals;
  }
  get strays() {
    return this.sender.strays;
  }
  get key(): Uint32Array {
    return this.manager.flowKey;
  }

  /** Sessions know no end of their own, so they end at once. */
  stop(): void {
    for (const ingress of this.ingresses) ingress.close();
    this.ingresses = [];
    this.manager.endAll("stopped");
    this.onFinished();
  }

  onCommand(command: Command): void {
    this.manager.onCommand(command);
  }

  sessionOf(ingress: UdpListener, index: number): Session | undefined {
    if (this.proxied !== undefined) return this.proxied.sessionOf(ingress, index);
    return this.manager.find(ingress);
  }

  ended(session: Session): void {
    this.proxied?.ended(session);
    this.replyMode.ended(session);
  }

  clientFailed(session: Session, errno: number): void {
    if (isRefusal(errno)) this.manager.fail(session, errno, "client");
  }

  unaddressed(): void {
    this.manager.drop("a datagram without its original destination was dropped", 1);
  }

  isKeyOf(session: Session): boolean {
    return this.manager.table.find() === session.start.slot;
  }

  forwardChain(session: Session, batch: ReceiveBatch, head: number, after: Int32Array): void {
    this.sender.chainToUpstream(session, batch, head, after);
    this.forwarded(session);
  }

  /** The kernel tells an error before the answers that are older: they are read, then it counts. */
  upstreamReady(session: Session): void {
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

  clientReady(session: Session): void {
    if (session.isNew) {
      session.isNew = false;
      const isMore = session.start.ingress.takeStrays(session, session.replyFd as Fd);
      if (isMore) session.fromClient.defer();
      return;
    }
    const { flows } = this.sender;
    for (let turn = 0; turn < batchesPerTurn; turn++) {
      if (session.isEnded) return;
      const count = flows.receive(session.replyFd as Fd);
      if (count === -EAGAIN) return;
      if (count < 0) this.clientFailed(session, -count);
      else {
        this.sender.flowToUpstream(session, count);
        this.forwarded(session);
        if (count < flows.capacity) return;
      }
    }
    session.fromClient.defer();
  }

  /** Activity only notes the time; the timer looks at it when it fires, and arms itself again. */
  timerFired(session: Session): void {
    const { loop, manager } = this;
    manager.evidence.noteSilence(session);
    const deadline = manager.table.deadline(session.start.slot);
    if (deadline > loop.now) return loop.timers.arm(session.timer, deadline);
    this.context.shared.count(Counter.expiredSessions, 1);
    manager.end(session, ended("idle-timeout"));
  }

  /** What was received of the client has been sent on. */
  private forwarded(session: Session): void {
    const { sending, expired } = this.sender;
    if (expired > 0) this.manager.expired(session, expired);
    this.manager.table.asked(session.start.slot, this.loop.now);
    this.context.shared.count(Counter.datagrams, sending.sent);
    this.context.shared.count(Counter.clientBytes, sending.sentBytes);
    if (sending.dropped > 0) this.sendFailed(session, "upstream");
    else this.replyMode.watch(session, this.loop.now);
  }

  /** Sends the `count` messages that were received of the upstream to the client. */
  private answer(session: Session, count: number): void {
    const { table } = this.manager;
    const { slot } = session.start;
    if (table.answered(slot, this.loop.now)) this.manager.answered(session);
    const { sending } = this.sender;
    if (session.way === "unknown") {
      const refusal = this.replyMode.find(session);
      if (refusal !== "") return this.manager.drop(refusal, this.sender.datagrams(count));
    }
    if (session.way === "raw") this.sender.flowByRaw(session, count, this.manager.raw);
    else this.sender.flowToClient(session, count, session.answerFd as Fd);
    this.context.shared.count(Counter.datagrams, sending.sent);
    this.context.shared.count(Counter.upstreamBytes, sending.sentBytes);
    this.replyMode.watchSize(session, sending.largest);
    if (sending.dropped > 0) this.sendFailed(session, "client");
    else this.replyMode.watch(session, this.loop.now);
  }

  private sendFailed(session: Session, side: Side): void {
    const { dropped, errno } = this.sender.sending;
    const error = describeErrno(errno);
    const isRaw = side === "client" && session.way === "raw";
    const why = isRaw ? rawRefusal(errno) : `a datagram to the ${side} was dropped: ${error}`;
    this.manager.drop(why, dropped);
    // What the far end has said by ICMP. Other failures (no route, a full queue) may pass.
    if (errno !== ECONNREFUSED && errno !== ENOPROTOOPT && errno !== EHOSTUNREACH) return;
    if (side === "client") return this.manager.fail(session, errno, side);
    session.refusal = errno;
    session.fromUpstream.defer();
  }
}

/**
 * Whether an ICMP error of the far end says that nothing arrives there. It does not when a packet
 * was too large for a path: the kernel has noted that, and the next ones go in fragments.
 */
function isRefusal(errno: number): boolean {
  return errno > 0 && errno !== EAGAIN && errno !== EINTR && errno !== EMSGSIZE;
}

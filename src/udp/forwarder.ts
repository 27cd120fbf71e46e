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
} from "../../ffi/errno.ts";
import type { ReceiveBatch } from "../../ffi/receive-batch.ts";
import type { Fd } from "../../ffi/types.ts";
import type { Service, WorkerContext } from "../engine/context.ts";
import { batchesPerTurn } from "../engine/limits.ts";
import type { Command, ForwardTask, SessionSettings } from "../engine/protocol.ts";
import { Counter } from "../engine/shared.ts";
import type { OpenRows } from "../engine/table.ts";
import { Carrier } from "./carrier.ts";
import { Ingress, type IngressOwner } from "./ingress.ts";
import { ProxiedSenders } from "./proxied.ts";
import { rawRefusal } from "./raw-sender.ts";
import { ReplyWay } from "./reply-way.ts";
import type { Session, SessionOwner } from "./session.ts";
import { SessionKeeper } from "./session-keeper.ts";

type Side = "client" | "upstream";

export class UdpForwardService implements Service, OpenRows, IngressOwner, SessionOwner {
  readonly joins: boolean;
  private readonly context: WorkerContext;
  private readonly onFinished: () => void;
  private readonly carrier: Carrier;
  private readonly keeper: SessionKeeper;
  private readonly replyWay: ReplyWay;
  /** Where headers say who the clients are. */
  private readonly proxied: ProxiedSenders | undefined;
  private ingresses: Ingress[];

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
    this.carrier = new Carrier(headsEvery);
    this.keeper = new SessionKeeper(context, task, settings, this);
    const { arrivals } = this.carrier;
    this.proxied = acceptProxy && new ProxiedSenders(this.keeper, arrivals, acceptProxy);
    this.replyWay = new ReplyWay(this.keeper, this.joins);
    this.ingresses = task.sockets
      .filter(({ protocol }) => protocol === "udp")
      .map((socket) => new Ingress(this, socket));
  }

  get loop() {
    return this.context.loop;
  }
  get open(): Iterable<Session> {
    return this.keeper.open;
  }
  get lastId(): number {
    return this.keeper.begun;
  }
  get arrivals() {
    return this.carrier.arrivals;
  }
  get strays() {
    return this.carrier.strays;
  }
  get key(): Uint32Array {
    return this.keeper.flowKey;
  }

  /** Sessions know no end of their own, so they end at once. */
  stop(): void {
    for (const ingress of this.ingresses) ingress.close();
    this.ingresses = [];
    this.keeper.endAll("stopped");
    this.onFinished();
  }

  onCommand(command: Command): void {
    this.keeper.onCommand(command);
  }

  sessionOf(ingress: Ingress, index: number): Session | undefined {
    if (this.proxied !== undefined) return this.proxied.sessionOf(ingress, index);
    return this.keeper.find(ingress);
  }

  ended(session: Session): void {
    this.proxied?.ended(session);
    this.replyWay.ended(session);
  }

  clientFailed(session: Session, errno: number): void {
    if (isRefusal(errno)) this.keeper.fail(session, errno, "client");
  }

  unaddressed(): void {
    this.keeper.drop("a datagram without its original destination was dropped", 1);
  }

  isKeyOf(session: Session): boolean {
    return this.keeper.table.find() === session.start.slot;
  }

  forwardChain(session: Session, batch: ReceiveBatch, head: number, after: Int32Array): void {
    this.carrier.chainToUpstream(session, batch, head, after);
    this.forwarded(session);
  }

  /** The kernel tells an error before the answers that are older: they are read, then it counts. */
  upstreamReady(session: Session): void {
    const { flows } = this.carrier;
    for (let turn = 0; turn < batchesPerTurn; turn++) {
      const count = flows.receive(session.start.upstreamFd);
      if (count > 0) this.answer(session, count);
      else if (isRefusal(-count)) session.refusal = -count;
      if (session.isEnded) return;
      if (count === -EAGAIN || (count >= 0 && count < flows.capacity)) {
        if (session.refusal > 0) this.keeper.fail(session, session.refusal, "upstream");
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
    const { flows } = this.carrier;
    for (let turn = 0; turn < batchesPerTurn; turn++) {
      if (session.isEnded) return;
      const count = flows.receive(session.replyFd as Fd);
      if (count === -EAGAIN) return;
      if (count < 0) this.clientFailed(session, -count);
      else {
        this.carrier.flowToUpstream(session, count);
        this.forwarded(session);
        if (count < flows.capacity) return;
      }
    }
    session.fromClient.defer();
  }

  /** Activity only notes the time; the timer looks at it when it fires, and arms itself again. */
  timerFired(session: Session): void {
    const { loop, keeper } = this;
    keeper.evidence.noteSilence(session);
    const deadline = keeper.table.deadline(session.start.slot);
    if (deadline > loop.now) return loop.timers.arm(session.timer, deadline);
    this.context.shared.count(Counter.expiredSessions, 1);
    keeper.end(session, "idle");
  }

  /** What was received of the client has been sent on. */
  private forwarded(session: Session): void {
    const { sending, expired } = this.carrier;
    if (expired > 0) this.keeper.expired(session, expired);
    this.keeper.table.asked(session.start.slot, this.loop.now);
    this.context.shared.count(Counter.datagrams, sending.sent);
    this.context.shared.count(Counter.sent, sending.sentBytes);
    if (sending.dropped > 0) this.sendFailed(session, "upstream");
    else this.replyWay.watch(session, this.loop.now);
  }

  /** Sends the `count` messages that were received of the upstream to the client. */
  private answer(session: Session, count: number): void {
    const { table } = this.keeper;
    const { slot } = session.start;
    if (table.answered(slot, this.loop.now)) this.keeper.answered(session);
    const { sending } = this.carrier;
    if (session.way === "unknown") {
      const refusal = this.replyWay.find(session);
      if (refusal !== "") return this.keeper.drop(refusal, this.carrier.datagrams(count));
    }
    if (session.way === "raw") this.carrier.flowByRaw(session, count, this.keeper.raw);
    else this.carrier.flowToClient(session, count, session.answerFd as Fd);
    this.context.shared.count(Counter.datagrams, sending.sent);
    this.context.shared.count(Counter.received, sending.sentBytes);
    this.replyWay.watchSize(session, sending.largest);
    if (sending.dropped > 0) this.sendFailed(session, "client");
    else this.replyWay.watch(session, this.loop.now);
  }

  private sendFailed(session: Session, side: Side): void {
    const { dropped, errno } = this.carrier.sending;
    const error = describeErrno(errno);
    const isRaw = side === "client" && session.way === "raw";
    const why = isRaw ? rawRefusal(errno) : `a datagram to the ${side} was dropped: ${error}`;
    this.keeper.drop(why, dropped);
    // What the far end has said by ICMP. Other failures (no route, a full queue) may pass.
    if (errno !== ECONNREFUSED && errno !== ENOPROTOOPT && errno !== EHOSTUNREACH) return;
    if (side === "client") return this.keeper.fail(session, errno, side);
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

/**
 * Begins and ends sessions within their bounds (`SessionPlaces`). Counts and logs every session
 * that is rejected or evicted because of a bound.
 */

import { EPOLLET, EPOLLIN } from "../../../ffi/constants.ts";
import {
  type CallFailure,
  describeFailure,
  EBADF,
  EHOSTUNREACH,
  EMFILE,
  ENETUNREACH,
} from "../../../ffi/errno.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Fd } from "../../../ffi/types.ts";
import { clientOfKey, KEY_WORDS, originalOfKey, PROXIED_KEY_WORDS } from "../../engine/flow-key.ts";
import { loopRoundsMax, silenceMs } from "../../engine/limits.ts";
import { RawSender } from "../../engine/raw-sender.ts";
import { Spares } from "../../engine/spares.ts";
import { hearSoftErrors, openFlow, PortUse } from "../../engine/udp-sockets.ts";
import { isMulticast } from "../../net/ip.ts";
import { destinationFault, type PassedOn, sourceFault } from "../../proto/proxy-header.ts";
import { encodeProxyV2 } from "../../proto/proxy-protocol-v2.ts";
import { Counter } from "../../workers/counters.ts";
import { type End, type EndReason, ended, icmpText, isUsual } from "../../workers/end-reason.ts";
import type { ForwardTask, SessionSettings } from "../../workers/protocol.ts";
import type { ServiceContext } from "../../workers/service-context.ts";
import type { DropReason } from "../../workers/tally.ts";
import { type Dial, dialFor, isOwn, sourceName, upstreamFamily } from "../dial.ts";
import { keptPortRefusal } from "../kept-port.ts";
import { LoopDetector } from "../loop-detector.ts";
import type { Router } from "../router.ts";
import { targetOf } from "../upstream.ts";
import { NONE_TRIED } from "../upstream-pool.ts";
import { IcmpErrors } from "./icmp-errors.ts";
import type { UdpListener } from "./listener.ts";
import { expiredText, type Refusal, Rejection, refusals } from "./rejection.ts";
import { Session, type SessionEnds, type SessionEvents, type SessionStart } from "./session.ts";
import { SessionPlaces } from "./session-places.ts";
import type { SessionTable } from "./session-table.ts";
import { UpstreamEvidence } from "./upstream-evidence.ts";

const EPOLL_MASK = (EPOLLIN | EPOLLET) >>> 0;

/** The functions that the forwarder has for the events of its sessions. */
export interface ForwarderEvents extends Omit<SessionEvents, "timerFired"> {
  /** The session is ending. Its sockets are still open; its counts may still grow. */
  readonly ending: (session: Session) => void;
}

/** A session that may begin or not. */
type TriedSession = Pick<SessionEnds, "id" | "client" | "originalDestination">;

const rawSenders = new Spares(() => new RawSender());

export class SessionManager {
  readonly context: ServiceContext;
  readonly settings: SessionSettings;
  private readonly places: SessionPlaces;
  readonly table: SessionTable;
  /** The part of the table's key for the ends of datagrams as they arrive. */
  readonly flowKey: Uint32Array;
  /** Headers name the clients: a sender's socket may have several sessions. */
  readonly isProxied: boolean;
  /** Sends where no socket of a session can. */
  readonly raw = rawSenders.take();
  private readonly icmp: IcmpErrors;
  private readonly rejection = new Rejection();
  /** Counts the sockets of sessions by their port. */
  readonly ports = new PortUse();
  /** In the order in which they began. */
  readonly open = new Set<Session>();
  private readonly task: ForwardTask;
  private readonly events: SessionEvents;
  private readonly ending: (session: Session) => void;
  private readonly evidence: UpstreamEvidence;
  private readonly router: Router;
  private readonly loops: LoopDetector;

  constructor(
    context: ServiceContext,
    task: ForwardTask,
    settings: SessionSettings,
    router: Router,
    { upstreamReadable, clientReadable, ending }: ForwarderEvents,
  ) {
    this.context = context;
    this.task = task;
    this.settings = settings;
    this.router = router;
    const timerFired = (session: Session) => this.timerFired(session);
    this.events = { upstreamReadable, clientReadable, timerFired };
    this.ending = ending;
    this.icmp = new IcmpErrors(context, this.raw, settings.icmp);
    this.isProxied = task.ingress.acceptProxy !== undefined;
    const keyWords = this.isProxied ? PROXIED_KEY_WORDS : KEY_WORDS;
    this.places = new SessionPlaces(context.loop, settings, task.timeouts, keyWords, {
      evict: (session) => this.evict(session),
      shorten: (session) => this.shorten(session),
    });
    this.table = this.places.table;
    this.flowKey = this.isProxied ? this.table.key.subarray(KEY_WORDS) : this.table.key;
    this.evidence = new UpstreamEvidence(router.pool, this.table, context);
    this.loops = new LoopDetector(context, task, router, "udp");
  }

  /** The session with this number in the table. */
  at(slot: number): Session | undefined {
    return this.places.at(slot);
  }

  /** The session of the table's key, begun if there is none; undefined: it is rejected. */
  find(listener: UdpListener): Session | undefined {
    const slot = this.table.find();
    return slot >= 0 ? this.places.at(slot) : this.begin(listener);
  }

  /**
   * Begins the session of the table's key, which has none; undefined: it is rejected. `passedOn`
   * returns the part of a PROXY header that the upstream gets. It is called only where one is sent.
   */
  begin(listener: UdpListener, passedOn?: () => PassedOn): Session | undefined {
    const sender = clientOfKey(this.flowKey);
    const destination = originalOfKey(this.flowKey);
    const client = this.isProxied ? clientOfKey(this.table.key) : sender;
    const originalDestination = this.isProxied ? originalOfKey(this.table.key) : destination;
    const id = this.context.nextId();
    const tried = { id, client, originalDestination };
    if (sender.port === 0 || destination.port === 0 || isMulticast(destination.address)) {
      // Without the address: reasons are bounded, and a flood of them would displace others.
      return this.reject(tried, refusals.unanswerable);
    }
    if (!listener.admits()) return this.reject(tried, refusals.overloaded);
    const { pool, rules } = this.router;
    const nowhere = pool === undefined ? destinationFault(originalDestination) : "";
    const fault = sourceFault(client) || nowhere;
    if (fault !== "") return this.reject(tried, { reason: "invalid-address", text: fault });
    const visits = this.visitsOf(sender);
    if (visits === loopRoundsMax) return this.rejectLoop(tried, sender, destination);
    const family = upstreamFamily(rules, client);
    const picked = pool?.pick(client.address, family, id, NONE_TRIED, this.context.loop.now);
    if (pool !== undefined && picked === undefined) return this.reject(tried, refusals.noUpstream);
    const passed = this.task.dial.sendProxy && passedOn?.();
    const arrived = { listener, sender, destination, visits };
    const ends = { id, ...arrived, client, originalDestination, picked, passed };
    const session = this.connect(ends, targetOf(picked, originalDestination));
    if (session instanceof Session) return session;
    if (session === "unreachable") {
      this.evidence.failed(ends, rules.source.kind, "no route");
    } else if (picked !== undefined) pool?.closed(picked, id);
    return undefined;
  }

  /** Ends a session after its datagrams at hand have been sent. */
  end(session: Session, end: End): void {
    if (session.isEnded) return;
    session.isEnded = true;
    session.end = end;
    this.ending(session);
    const { loop, shared } = this.context;
    const { id, slot, upstreamFd, keptPort, picked } = session.start;
    loop.timers.disarm(session.timer);
    this.forgetFlow(session);
    loop.close(upstreamFd);
    if (keptPort !== 0) this.ports.closed(keptPort);
    this.places.releaseSocket();
    if (session.ownFd !== undefined) this.closeReplySocket(session, session.ownFd);
    this.places.release(slot);
    this.open.delete(session);
    if (picked !== undefined && !session.isFailed) this.router.pool?.closed(picked, id);
    shared.count(Counter.activeSessions, -1);
    shared.tally.ended("udp", end.by, end.reason);
    if (session.receivedDatagrams === 0) shared.count(Counter.unansweredSessions, 1);
    if (end.reason === "idle-timeout") this.noteUnanswered(session);
    this.context.recordEnd(session, !isUsual(end, "udp"), this.task.log);
  }

  /**
   * Warns of an upstream on this host that has not answered, since the usual cause is known. A
   * server elsewhere may have no answer to give.
   */
  private noteUnanswered({ receivedDatagrams, start }: Session): void {
    const { source, upstream, client } = start;
    if (receivedDatagrams > 0 || source === "self") return;
    if (isOwn(this.router.rules, upstream.address)) {
      this.router.timedOut(upstream, client.address);
    }
  }

  /** Ends a session whose `side` has sent an ICMP error: nothing arrives there. */
  fail(session: Session, errno: number, side: "client" | "upstream"): void {
    if (session.isEnded) return;
    const word = icmpText(errno);
    this.context.shared.count(Counter.failedSessions, 1);
    if (side === "upstream") {
      const { sender, destination } = session.start;
      // A socket that sends for several clients would get the errors of all of them.
      if (!this.isProxied) this.icmp.refused(sender, destination, errno);
      this.evidence.failed(session.start, session.source, word, errno);
      session.isFailed = true;
    }
    this.end(session, ended("unreachable", side, { call: "", errno }));
  }

  /** The upstream has answered for the first time: it works. */
  answered(session: Session): void {
    const { slot } = session.start;
    this.forgetFlow(session);
    this.context.loop.timers.arm(session.timer, this.table.deadline(slot));
    this.evidence.answered(session.start);
    this.context.recordProgress("reached", session, this.task.log);
  }

  /** Drops datagrams of a session that had no hop left, as a router does. */
  expired({ start: { sender, destination } }: Session, datagrams: number): void {
    this.drop("hop-limit", expiredText, datagrams);
    if (!this.isProxied) this.icmp.expired(sender, destination);
  }

  /** Ends sessions whose client may begin others: their upstream or listener serves no more. */
  endWhere(reason: EndReason, isGone: (session: Session) => boolean): void {
    for (const session of [...this.open]) if (isGone(session)) this.end(session, ended(reason));
  }

  /** Ends every session. */
  endAll(reason: EndReason): void {
    for (const session of this.open) this.end(session, ended(reason));
    this.places.stop();
    this.raw.close();
    rawSenders.give(this.raw);
  }

  /** Counts dropped datagrams and logs the reason. */
  drop(reason: DropReason, text: string, datagrams: number): void {
    this.context.shared.dropped(reason, datagrams);
    this.context.warn(text, { amount: datagrams });
  }

  /**
   * Returns a socket for answers to a session's client that `open` has opened, or which call
   * failed. May evict other sessions for it. The caller closes it by `closeReplySocket`.
   */
  addReplySocket(session: Session, open: () => Fd | CallFailure): Fd | CallFailure {
    if (!this.places.claimSocket(session)) return { call: "socket", errno: EMFILE };
    // Opening it may begin and end sessions, this one too.
    const opened = open();
    if (typeof opened === "number") this.ports.opened(session.start.destination.port);
    else this.places.releaseSocket();
    return opened;
  }

  closeReplySocket({ start }: Pick<Session, "start">, fd: Fd): void {
    this.context.loop.close(fd);
    this.ports.closed(start.destination.port);
    this.places.releaseSocket();
  }

  /** Makes a socket of `addReplySocket` a session's own; returns 0 or a negated errno. */
  ownReplySocket(session: Session, fd: Fd): number {
    const { loop } = this.context;
    const result = session.isEnded ? -EBADF : loop.add(fd, EPOLL_MASK, session.fromClient);
    if (result >= 0) session.ownFd = fd;
    else this.closeReplySocket(session, fd);
    return result;
  }

  private connect(ends: SessionEnds, upstream: SocketAddress): Session | "unreachable" | undefined {
    const { rules } = this.router;
    if (isMulticast(upstream.address)) return this.reject(ends, refusals.manyHosts);
    const choice = dialFor(rules, ends.client, upstream);
    if ("refusal" in choice) {
      return this.reject(ends, { reason: "dial-rejected", text: choice.refusal });
    }
    if (choice.unspoofed !== undefined) {
      this.context.warn(`${choice.unspoofed}: sending from our own address`);
    }
    const slot = this.places.claim(ends.originalDestination.port);
    if (typeof slot !== "number") return this.reject(ends, slot);
    let keptPort = choice.source?.port ?? 0;
    let fd = this.openUpstream(choice);
    const why = keptPortRefusal(fd);
    if (why !== undefined && choice.source !== undefined && keptPort !== 0) {
      this.context.warn(`the client's port ${why} here: sending from another one`);
      keptPort = 0;
      fd = this.openUpstream({ ...choice, source: { ...choice.source, port: 0 } });
    }
    if (typeof fd !== "number") {
      this.places.release(slot);
      this.reject(ends, { reason: "failed", text: describeFailure(fd) });
      return fd.errno === ENETUNREACH || fd.errno === EHOSTUNREACH ? "unreachable" : undefined;
    }
    if (ends.picked !== undefined) hearSoftErrors(fd, upstream, true);
    const source = sourceName(choice, rules);
    return this.enter({ ...ends, slot, upstream, source, keptPort, upstreamFd: fd });
  }

  private enter(start: SessionStart): Session | undefined {
    const { loop, shared } = this.context;
    const { client, originalDestination, passed } = start;
    const header =
      this.task.dial.sendProxy && encodeProxyV2(client, originalDestination, "udp", passed);
    const session = new Session(loop, this.table, start, header, this.events);
    const added = loop.add(start.upstreamFd, EPOLL_MASK, session.fromUpstream);
    if (added < 0) {
      loop.close(start.upstreamFd);
      this.places.release(start.slot);
      const text = describeFailure({ call: "epoll_ctl", errno: -added });
      return this.reject(start, { reason: "failed", text });
    }
    this.places.enter(session);
    this.open.add(session);
    if (start.keptPort !== 0) this.ports.opened(start.keptPort);
    shared.count(Counter.sessions, 1);
    shared.count(Counter.activeSessions, 1);
    const silentAt = loop.now + silenceMs;
    loop.timers.arm(session.timer, Math.min(silentAt, this.table.deadline(start.slot)));
    const { upstreamFd, upstream, visits } = start;
    session.flowHandle = this.loops.entered(upstreamFd, upstream, visits + 1);
    this.context.recordProgress("accepted", session, this.task.log);
    return session;
  }

  /** Activity only notes the time; when the timer fires, it compares, and arms itself again. */
  private timerFired(session: Session): void {
    const { loop, shared } = this.context;
    this.evidence.noteSilence(session);
    const deadline = this.table.deadline(session.start.slot);
    if (deadline > loop.now) return loop.timers.arm(session.timer, deadline);
    shared.count(Counter.expiredSessions, 1);
    this.end(session, ended("idle-timeout"));
  }

  /** How often the datagrams of a new session have passed this host. */
  private visitsOf(sender: SocketAddress): number {
    const visits = this.loops.flows.find(this.flowKey);
    // No two sockets here have one port, wherever NAT has sent the datagrams that come from it.
    return visits === 0 ? 0 : Math.max(0, this.loops.visitsOf(visits, sender));
  }

  /** Sends the session at the other end the ICMP error of a closed port, and so ends it. */
  private rejectLoop(tried: TriedSession, from: SocketAddress, to: SocketAddress): undefined {
    this.refuse(tried, refusals.loop);
    this.context.shared.dropped("refused", 1);
    this.loops.refused(to);
    if (isOwn(this.router.rules, from.address)) this.icmp.refusedHere(from, to);
  }

  private forgetFlow(session: Session): void {
    if (session.flowHandle !== 0) this.loops.flows.forget(session.flowHandle);
    session.flowHandle = 0;
  }

  private reject(tried: TriedSession, refusal: Refusal): undefined {
    this.refuse(tried, refusal);
    this.drop("refused", `a session was refused: ${refusal.text}`, 1);
  }

  /** Counts and logs a session that does not begin. */
  private refuse({ id, client, originalDestination }: TriedSession, refusal: Refusal): void {
    const { loop, shared } = this.context;
    shared.count(Counter.refusedSessions, 1);
    shared.tally.refusedSession(refusal.reason);
    const rejected = this.rejection.of(id, client, originalDestination, refusal, loop.now);
    this.context.recordRefused(rejected, this.task.log);
  }

  private evict(session: Session): void {
    this.context.shared.count(Counter.evictedSessions, 1);
    this.context.warn("a session was ended to make room for another one");
    this.end(session, ended("evicted"));
  }

  private shorten(session: Session): void {
    this.context.shared.count(Counter.expiredSessions, 1);
    this.end(session, ended("idle-shortened"));
  }

  /** Returns a socket that is connected to the upstream, or which call failed. */
  private openUpstream({ source, upstream }: Dial): Fd | CallFailure {
    const {
      dial: { mark },
      route: { upstreams },
    } = this.task;
    const port = source?.port ?? 0;
    // The kernel cannot tell apart two sockets with the same ends on both sides: several may have
    // a client's port only where each has another upstream.
    const isShared = port !== 0 && upstreams.kind === "original" && !this.ports.isCrowded(port);
    return openFlow({
      local: source,
      remote: upstream,
      isConnected: true,
      transparent: true,
      sharing: isShared ? "joined" : "nobody",
      mark,
    });
  }
}

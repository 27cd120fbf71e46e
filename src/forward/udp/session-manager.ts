/**
 * Begins and ends sessions within their bounds (`SessionPlaces`). Counts and logs every session
 * that is rejected or ended because of a bound.
 */

import { EPOLLET, EPOLLIN } from "../../../ffi/constants.ts";
import {
  type CallFailure,
  describeErrno,
  describeFailure,
  EBADF,
  ECONNREFUSED,
  EHOSTUNREACH,
  EMFILE,
  ENETUNREACH,
} from "../../../ffi/errno.ts";
import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Fd } from "../../../ffi/types.ts";
import { clientOfKey, KEY_WORDS, originalOfKey, PROXIED_KEY_WORDS } from "../../engine/flow-key.ts";
import { busyDatagrams, loopRoundsMax, silenceMs } from "../../engine/limits.ts";
import { RawSender } from "../../engine/raw-sender.ts";
import { hearSoftErrors, openFlow, PortUse } from "../../engine/udp-sockets.ts";
import { isMulticast } from "../../net/ip.ts";
import { destinationFault, type PassedOn, sourceFault } from "../../proto/proxy-header.ts";
import { encodeProxyV2 } from "../../proto/proxy-protocol-v2.ts";
import type { WorkerContext } from "../../workers/context.ts";
import { Counter } from "../../workers/counters.ts";
import { type End, type EndReason, ended, isUsual } from "../../workers/end-reason.ts";
import {
  type Command,
  type ForwardTask,
  LogLevel,
  type SessionSettings,
} from "../../workers/protocol.ts";
import { type Dial, dialFor, isOwn, sourceName, upstreamFamily } from "../dial.ts";
import { keptPortRefusal } from "../kept-port.ts";
import { LoopDetector } from "../loop-detector.ts";
import { Router } from "../router.ts";
import { NONE_TRIED } from "../upstream-pool.ts";
import { IcmpErrors } from "./icmp-errors.ts";
import type { UdpListener } from "./listener.ts";
import { Session, type SessionEnds, type SessionOwner, type SessionStart } from "./session.ts";
import { type PlacesOwner, SessionPlaces } from "./session-places.ts";
import type { SessionTable } from "./session-table.ts";
import { UpstreamEvidence } from "./upstream-evidence.ts";

const EPOLL_MASK = (EPOLLIN | EPOLLET) >>> 0;

/** The PROXY protocol header that names the client of a session to be begun. */
export interface ClientHeader {
  /** What of it is for the upstream as well. */
  passed(): PassedOn;
}

export class SessionManager implements PlacesOwner {
  readonly context: WorkerContext;
  readonly settings: SessionSettings;
  private readonly places: SessionPlaces;
  readonly table: SessionTable;
  /** The part of the table's key that has the ends of datagrams as they arrive. */
  readonly flowKey: Uint32Array;
  /** Headers say who the clients are: a sender's socket may have several sessions. */
  readonly isProxied: boolean;
  /** For what no socket of a session can send. */
  readonly raw = new RawSender();
  private readonly icmp: IcmpErrors;
  /** By the sockets of sessions. */
  readonly ports = new PortUse();
  /** In the order in which they began. */
  readonly open = new Set<Session>();
  /** How many have begun, each of which has its number. */
  begun = 0;
  private readonly task: ForwardTask;
  private readonly owner: SessionOwner;
  readonly evidence: UpstreamEvidence;
  private readonly router: Router;
  private readonly loops: LoopDetector;

  /** `owner` is told of what happens to the sessions. */
  constructor(
    context: WorkerContext,
    task: ForwardTask,
    settings: SessionSettings,
    owner: SessionOwner,
  ) {
    this.context = context;
    this.task = task;
    this.settings = settings;
    this.owner = owner;
    this.icmp = new IcmpErrors(context, this.raw, settings.icmp);
    this.isProxied = task.acceptProxy !== undefined;
    const keyWords = this.isProxied ? PROXIED_KEY_WORDS : KEY_WORDS;
    this.places = new SessionPlaces(context.loop, settings, keyWords, this);
    this.table = this.places.table;
    this.flowKey = this.isProxied ? this.table.key.subarray(KEY_WORDS) : this.table.key;
    this.router = new Router(context, task, "udp");
    this.evidence = new UpstreamEvidence(this.router.pool, this.table, context);
    this.loops = new LoopDetector(context, task, this.router, "udp");
  }

  /** The session with this number in the table. */
  at(slot: number): Session | undefined {
    return this.places.at(slot);
  }

  /** The session of the table's key, begun if there is none; undefined: it is refused. */
  find(ingress: UdpListener, header?: ClientHeader): Session | undefined {
    const slot = this.table.find();
    return slot >= 0 ? this.places.at(slot) : this.begin(ingress, header);
  }

  /** Ends a session after the datagrams that are still to be sent on. */
  end(session: Session, end: End): void {
    if (session.isEnded) return;
    session.holder?.flush(session);
    // Sending on may have ended it.
    if (session.isEnded) return;
    session.isEnded = true;
    session.end = end;
    const { loop, shared } = this.context;
    const { id, slot, upstreamFd, keptPort, picked } = session.start;
    loop.timers.disarm(session.timer);
    this.forgetFlow(session);
    loop.close(upstreamFd);
    if (keptPort !== 0) this.ports.closed(keptPort);
    this.places.releaseSocket();
    if (session.replyFd !== undefined) this.closeReplySocket(session, session.replyFd);
    this.places.release(slot);
    this.open.delete(session);
    this.owner.ended(session);
    if (picked !== undefined && !session.isFailed) this.router.pool?.closed(picked, id);
    shared.count(Counter.activeSessions, -1);
    if (session.receivedDatagrams === 0) shared.count(Counter.unansweredSessions, 1);
    if (end.reason === "idle-timeout") this.noteUnanswered(session);
    this.context.recordEnd(session, !isUsual(end, "udp"), this.task.logLevel);
  }

  /** A server elsewhere may have nothing to say; of one on this host the usual cause is known. */
  private noteUnanswered({ receivedDatagrams, start }: Session): void {
    const { source, upstream, client } = start;
    if (receivedDatagrams > 0 || source === "self") return;
    if (isOwn(this.router.rules, upstream.address)) {
      this.router.timedOut(upstream, client.address);
    }
  }

  /** Ends a session whose `side` has said by ICMP that nothing arrives there. */
  fail(session: Session, errno: number, side: "client" | "upstream"): void {
    if (session.isEnded) return;
    const word = errno === ECONNREFUSED ? "refused" : describeErrno(errno);
    this.context.shared.count(Counter.failedSessions, 1);
    if (side === "upstream") {
      const { peer, reached } = session.start;
      // A sender's socket that may carry others as well would hear of all of them.
      if (!this.isProxied) this.icmp.refused(peer, reached, errno);
      this.evidence.failed(session.start, session.source, word, errno);
      session.isFailed = true;
    }
    this.end(session, ended("unreachable", side, { call: "", errno }));
  }

  /** The upstream has answered for the first time: it is well. */
  answered(session: Session): void {
    const { slot } = session.start;
    this.forgetFlow(session);
    this.context.loop.timers.arm(session.timer, this.table.deadline(slot));
    this.evidence.answered(session.start);
    if (this.task.logLevel >= LogLevel.debug) this.context.record("reached", session);
  }

  /** New sessions go to the upstreams of now; the others stay where they are. */
  onCommand(command: Command): void {
    this.router.onCommand(command);
  }

  /** Datagrams of a session had no hop left: they end here, as they would at a router. */
  expired({ start: { peer, reached } }: Session, datagrams: number): void {
    this.drop("a datagram was dropped: its hop limit was used up, as in a loop", datagrams);
    if (!this.isProxied) this.icmp.expired(peer, reached);
  }

  /** Ends every session. */
  endAll(reason: EndReason): void {
    for (const session of this.open) this.end(session, ended(reason));
    this.places.stop();
    this.raw.close();
  }

  /** Counts datagrams that go nowhere, and says why. */
  drop(reason: string, datagrams: number): void {
    this.context.shared.count(Counter.droppedDatagrams, datagrams);
    this.context.warn(reason, { amount: datagrams });
  }

  /**
   * A socket by which a session's client is answered, if `open` gives one. Others are ended for it
   * if need be; `closeReplySocket` is for its end.
   */
  addReplySocket(session: Session, open: () => Fd | CallFailure): Fd | CallFailure {
    if (!this.places.claimSocket(session)) return { call: "socket", errno: EMFILE };
    // Opening it may begin and end sessions, this one too.
    const opened = open();
    if (typeof opened === "number") this.ports.opened(session.start.reached.port);
    else this.places.releaseSocket();
    return opened;
  }

  closeReplySocket({ start }: Pick<Session, "start">, fd: Fd): void {
    this.context.loop.close(fd);
    this.ports.closed(start.reached.port);
    this.places.releaseSocket();
  }

  /** Makes a socket, which `addReplySocket` has given, a session's own: 0 or a negated errno. */
  ownReplySocket(session: Session, fd: Fd): number {
    const { loop } = this.context;
    const result = session.isEnded ? -EBADF : loop.add(fd, EPOLL_MASK, session.fromClient);
    if (result >= 0) session.replyFd = fd;
    else this.closeReplySocket(session, fd);
    return result;
  }

  private begin(ingress: UdpListener, header?: ClientHeader): Session | undefined {
    const peer = clientOfKey(this.flowKey);
    const reached = originalOfKey(this.flowKey);
    if (peer.port === 0 || reached.port === 0 || isMulticast(reached.address)) {
      // Without the address: reasons are bounded, and a flood of them would displace others.
      return this.refuse("nobody can be answered from a multicast address or port 0");
    }
    if (!ingress.admits()) return this.refuse("more datagrams come than can be carried");
    const client = this.isProxied ? clientOfKey(this.table.key) : peer;
    const original = this.isProxied ? originalOfKey(this.table.key) : reached;
    const fault = sourceFault(client);
    if (fault !== "") return this.refuse(fault);
    const { pool, rules } = this.router;
    const nowhere = pool === undefined ? destinationFault(original) : "";
    if (nowhere !== "") return this.refuse(nowhere);
    const visits = this.visitsOf(peer);
    if (visits === loopRoundsMax) return this.refuseLoop(peer, reached);
    const id = ++this.begun;
    const family = upstreamFamily(rules, client);
    const picked = pool?.pick(client.address, family, id, NONE_TRIED, this.context.loop.now);
    if (pool !== undefined && picked === undefined) return this.refuse("there is no upstream");
    const passed = this.task.sendProxy && header?.passed();
    const ends = { id, ingress, peer, reached, client, original, picked, visits, passed };
    const session = this.connect(ends, picked?.address ?? original);
    if (session instanceof Session) return session;
    if (session === "unreachable") {
      this.evidence.failed(ends, rules.source.kind, "no route");
    } else if (picked !== undefined) pool?.closed(picked, id);
    return undefined;
  }

  private connect(ends: SessionEnds, upstream: SocketAddress): Session | "unreachable" | undefined {
    const { rules } = this.router;
    if (isMulticast(upstream.address)) return this.refuse("it would go to many hosts");
    const choice = dialFor(rules, ends.client, upstream);
    if ("refusal" in choice) return this.refuse(choice.refusal);
    if (choice.unspoofed !== undefined) {
      this.context.warn(`${choice.unspoofed}: sending from our own address`);
    }
    const slot = this.places.claim(ends.original.port);
    if (typeof slot === "string") return this.refuse(slot);
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
      this.refuse(describeFailure(fd));
      const { errno } = fd;
      return errno === ENETUNREACH || errno === EHOSTUNREACH ? "unreachable" : undefined;
    }
    if (ends.picked !== undefined) hearSoftErrors(fd, upstream, true);
    const source = sourceName(choice, rules);
    return this.enter({ ...ends, slot, upstream, source, keptPort, upstreamFd: fd });
  }

  private enter(start: SessionStart): Session | undefined {
    const { loop, shared } = this.context;
    const { client, original } = start;
    const header = this.task.sendProxy && encodeProxyV2(client, original, "udp", start.passed);
    const session = new Session(this.owner, this.table, start, busyDatagrams, header);
    const added = loop.add(start.upstreamFd, EPOLL_MASK, session.fromUpstream);
    if (added < 0) {
      loop.close(start.upstreamFd);
      this.places.release(start.slot);
      return this.refuse(describeFailure({ call: "epoll_ctl", errno: -added }));
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
    if (this.task.logLevel >= LogLevel.debug) this.context.record("accepted", session);
    return session;
  }

  /** How often what a new session carries has been here. */
  private visitsOf(peer: SocketAddress): number {
    const visits = this.loops.flows.find(this.flowKey);
    // Here no two sockets have one port, wherever NAT has sent what comes from it.
    return visits === 0 ? 0 : Math.max(0, this.loops.visitsOf(visits, peer));
  }

  /** The session at the other end is told as by a host where nobody listens, and so ends. */
  private refuseLoop(peer: SocketAddress, reached: SocketAddress): undefined {
    const { shared } = this.context;
    shared.count(Counter.refusedSessions, 1);
    shared.count(Counter.droppedDatagrams, 1);
    this.loops.refused(reached);
    if (isOwn(this.router.rules, peer.address)) {
      this.icmp.refusedHere(peer, reached);
    }
  }

  private forgetFlow(session: Session): void {
    if (session.flowHandle !== 0) this.loops.flows.forget(session.flowHandle);
    session.flowHandle = 0;
  }

  private refuse(reason: string): undefined {
    this.context.shared.count(Counter.refusedSessions, 1);
    this.drop(`a session was refused: ${reason}`, 1);
  }

  /** Ends a session for another one's sake. */
  evict(session: Session): void {
    this.context.shared.count(Counter.evictedSessions, 1);
    this.context.warn("a session was ended to make room for another one");
    this.end(session, ended("evicted"));
  }

  endEarly(session: Session): void {
    this.context.shared.count(Counter.expiredSessions, 1);
    this.end(session, ended("idle-shortened"));
  }

  /** A socket that is connected to the upstream, or which call failed. */
  private openUpstream({ source, upstream }: Dial): Fd | CallFailure {
    const { mark, upstreams } = this.task;
    const port = source?.port ?? 0;
    // Two sockets with the same ends on both sides would be one to the kernel: several may have a
    // client's port only where each has another upstream.
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

/** Finds how a session's answers leave from the address that its client has sent to. */

import { type CallFailure, describeFailure } from "../../../ffi/errno.ts";
import { ip6_hdr, udphdr } from "../../../ffi/layout.ts";
import { makeEnvelope } from "../../../ffi/send-batch.ts";
import type { Fd } from "../../../ffi/types.ts";
import { busyDatagrams, busyWithinMs, flowBufferBytes, ipv6MtuMin } from "../../engine/limits.ts";
import { rawWarning } from "../../engine/raw-sender.ts";
import { familyOf } from "../../engine/sockets.ts";
import { hearHopLimits } from "../../engine/transparent.ts";
import { openFlow, openReplySocket, prepareForMuch } from "../../engine/udp-sockets.ts";
import type { UdpListener } from "./listener.ts";
import { type Outlet, Outlets } from "./outlets.ts";
import type { Session } from "./session.ts";
import type { SessionManager } from "./session-manager.ts";

/** The functions that forward datagrams which are older than a new socket's. */
export interface OlderDatagrams {
  /** Forwards all that a listener has queued. */
  readonly drain: (listener: UdpListener) => void;
  /** Forwards all that a new socket at a session's destination has queued, of any client. */
  readonly takeStrays: (session: Session, fd: Fd) => void;
}

export class ReplyModes {
  private readonly manager: SessionManager;
  /** The kernel may join the datagrams of a client (UDP_GRO). */
  private readonly joins: boolean;
  private readonly older: OlderDatagrams;
  private readonly outlets = new Outlets();

  constructor(manager: SessionManager, joins: boolean, older: OlderDatagrams) {
    this.manager = manager;
    this.joins = joins;
    this.older = older;
  }

  /** Sets the session's `replyMode` at its first answer. Returns why it stays unknown, or "". */
  find(session: Session): string {
    const { listener, destination, sender } = session.start;
    const outlet = this.outlets.enter(destination);
    session.outlet = outlet;
    if (destination.port === listener.port) {
      session.envelope = makeEnvelope(listener.domain, sender, destination.address);
      session.replyFd = listener.fd;
      session.replyMode = "listener";
    } else {
      const fd = outlet.fd ?? this.openShared(session, outlet);
      if (typeof fd !== "number") {
        const warning = rawWarning(fd, destination.port);
        if (warning === undefined) {
          this.ended(session);
          return `an answer was dropped: ${describeFailure(fd)}`;
        }
        this.manager.context.warn(warning);
        session.replyMode = "raw";
        return "";
      }
      session.envelope = makeEnvelope(familyOf(destination), sender);
      session.replyFd = fd;
      session.replyMode = "shared";
    }
    if (session.isBusy) this.openOwn(session);
    return "";
  }

  /** A session has ended. */
  ended(session: Session): void {
    const { outlet } = session;
    if (outlet === undefined) return;
    session.outlet = undefined;
    if (session.ownFd !== undefined) outlet.owned--;
    const fd = this.outlets.leave(outlet);
    if (fd !== undefined) this.manager.closeReplySocket(session, fd);
  }

  /**
   * Checks whether a session has much traffic: then several of its datagrams are received and sent
   * at once. For little traffic the listener's batches, of all sessions, cost less.
   */
  watch(session: Session, now: number): void {
    const passed = session.sentDatagrams + session.receivedDatagrams;
    if (passed < session.busyAt) return;
    if (now - session.busySince <= busyWithinMs) return this.quicken(session);
    session.busyAt = passed + busyDatagrams;
    session.busySince = now;
  }

  /**
   * Checks whether an answer over IPv6 may be too large for its path. The ICMP error comes to the
   * address that the answer left from: the session's own socket receives it.
   */
  watchSize(session: Session, bytes: number): void {
    if (session.start.sender.address.length === 4) return;
    if (bytes + ip6_hdr.size + udphdr.size > ipv6MtuMin) this.openOwn(session);
  }

  /** Gives a session with much traffic larger buffers, and a socket of its own for its client. */
  private quicken(session: Session): void {
    session.busyAt = Number.POSITIVE_INFINITY;
    session.isBusy = true;
    prepareForMuch(session.start.upstreamFd, flowBufferBytes, true);
    if (session.ownFd !== undefined) {
      prepareForMuch(session.ownFd, flowBufferBytes, this.joins);
    } else this.openOwn(session);
  }

  /** Opens the socket for all answers from the session's destination; or which call failed. */
  private openShared(session: Session, outlet: Outlet): Fd | CallFailure {
    const { manager } = this;
    const { destination } = session.start;
    const open = () => openReplySocket(destination, manager.settings.transparent);
    const fd = manager.addReplySocket(session, open);
    if (typeof fd !== "number") return fd;
    outlet.fd = fd;
    // A rule before TPROXY's may have delivered datagrams to it before it was connected.
    if (!manager.isProxied) {
      manager.context.loop.defer(() => {
        if (!session.isEnded) this.older.takeStrays(session, fd);
      });
    }
    return fd;
  }

  /**
   * Opens a socket at the original destination that is connected to the client, in the next turn,
   * when no received batch is at hand. While it is bound and not connected, it may receive the
   * datagrams of others to that destination. The listener's datagrams of before are older, so they
   * are forwarded after bind; and once more before it, to keep that time short. The listener and
   * the shared socket have SO_REUSEPORT for it.
   */
  private openOwn(session: Session): void {
    const { manager } = this;
    const { listener, destination, sender } = session.start;
    // The datagrams of a sender's socket may be of several sessions: the listener reads them all.
    if (manager.isProxied || !this.hasRoom(session)) return;
    manager.context.loop.defer(() => {
      if (!this.hasRoom(session)) return;
      this.older.drain(listener);
      if (session.isEnded) return;
      const { transparent } = manager.settings;
      const ends = { local: destination, remote: sender, isConnected: true, transparent };
      const onBound = () => this.older.drain(listener);
      const open = () => openFlow({ ...ends, sharing: "joined", onBound });
      const fd = manager.addReplySocket(session, open);
      if (typeof fd !== "number") return;
      if (manager.ownReplySocket(session, fd) >= 0) this.useOwn(session, fd);
    });
  }

  private hasRoom({ isEnded, replyMode, outlet, start }: Session): boolean {
    if (isEnded || outlet === undefined) return false;
    if (replyMode !== "listener" && replyMode !== "shared") return false;
    return this.outlets.hasRoom(outlet) && !this.manager.ports.isCrowded(start.destination.port);
  }

  private useOwn(session: Session, fd: Fd): void {
    const { outlet } = session;
    if (outlet !== undefined) outlet.owned++;
    hearHopLimits(fd, familyOf(session.start.destination));
    session.replyMode = "own";
    session.replyFd = fd;
    session.envelope = undefined;
    session.isNew = true;
    session.emptiedBefore = session.start.listener.emptied;
    if (session.isBusy) prepareForMuch(fd, flowBufferBytes, this.joins);
    session.fromClient.onReady();
  }
}

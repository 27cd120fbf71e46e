/** Finds the way by which a session's answers leave from where its client has sent to (`Way`). */

import { type CallFailure, describeFailure } from "../../../ffi/errno.ts";
import { ip6_hdr, udphdr } from "../../../ffi/layout.ts";
import { makeEnvelope } from "../../../ffi/send-batch.ts";
import type { Fd } from "../../../ffi/types.ts";
import { busyDatagrams, busyWithinMs, flowBufferBytes, ipv6MtuMin } from "../../engine/limits.ts";
import { rawWarning } from "../../engine/raw-sender.ts";
import { familyOf } from "../../engine/sockets.ts";
import { hearHopLimits } from "../../engine/transparent.ts";
import { openFlow, openReplySocket, prepareForMuch } from "../../engine/udp-sockets.ts";
import { type Outlet, Outlets } from "./outlets.ts";
import type { Session } from "./session.ts";
import type { SessionManager } from "./session-manager.ts";

export class ReplyMode {
  private readonly manager: SessionManager;
  /** UDP_GRO is of use for what clients send. */
  private readonly joins: boolean;
  private readonly outlets = new Outlets();

  constructor(manager: SessionManager, joins: boolean) {
    this.manager = manager;
    this.joins = joins;
  }

  /** Sets the session's `way` at its first answer; why there is none, which leaves it unknown. */
  find(session: Session): string {
    const { ingress, reached, peer } = session.start;
    const outlet = this.outlets.enter(reached);
    session.outlet = outlet;
    if (reached.port === ingress.port) {
      session.envelope = makeEnvelope(ingress.domain, peer, reached.address);
      session.answerFd = ingress.fd;
      session.way = "listener";
    } else {
      const fd = outlet.fd ?? this.openShared(session, outlet);
      if (typeof fd !== "number") {
        const warning = rawWarning(fd, reached.port);
        if (warning === undefined) {
          this.ended(session);
          return `an answer was dropped: ${describeFailure(fd)}`;
        }
        this.manager.context.warn(warning);
        session.way = "raw";
        return "";
      }
      session.envelope = makeEnvelope(familyOf(reached), peer);
      session.answerFd = fd;
      session.way = "shared";
    }
    if (session.isBusy) this.openOwn(session);
    return "";
  }

  /** A session has ended. */
  ended(session: Session): void {
    const { outlet } = session;
    if (outlet === undefined) return;
    session.outlet = undefined;
    if (session.replyFd !== undefined) outlet.owned--;
    const fd = this.outlets.leave(outlet);
    if (fd !== undefined) this.manager.closeReplySocket(session, fd);
  }

  /**
   * Looks whether a session has much traffic: then several of its datagrams are read, and sent on,
   * at once. With few the listener's batches, of all sessions, cost less.
   */
  watch(session: Session, now: number): void {
    const passed = session.sentDatagrams + session.receivedDatagrams;
    if (passed < session.busyAt) return;
    if (now - session.busySince <= busyWithinMs) return this.quicken(session);
    session.busyAt = passed + busyDatagrams;
    session.busySince = now;
  }

  /**
   * Looks whether an answer of IPv6 may be too large for its path. The ICMP error comes to the
   * address that the answer left from: a socket of the session's own hears it.
   */
  watchSize(session: Session, bytes: number): void {
    if (session.start.peer.address.length === 4) return;
    if (bytes + ip6_hdr.size + udphdr.size > ipv6MtuMin) this.openOwn(session);
  }

  /** Gives a session with much traffic larger buffers, and a socket of its own for its client. */
  private quicken(session: Session): void {
    session.busyAt = Number.POSITIVE_INFINITY;
    session.isBusy = true;
    prepareForMuch(session.start.upstreamFd, flowBufferBytes, true);
    if (session.replyFd !== undefined) {
      prepareForMuch(session.replyFd, flowBufferBytes, this.joins);
    } else this.openOwn(session);
  }

  /** The socket by which all answers from the session's destination leave, or which call failed. */
  private openShared(session: Session, outlet: Outlet): Fd | CallFailure {
    const { manager } = this;
    const { ingress, reached } = session.start;
    const open = () => openReplySocket(reached, manager.settings.transparent);
    const fd = manager.addReplySocket(session, open);
    if (typeof fd !== "number") return fd;
    outlet.fd = fd;
    // A rule in front of TPROXY's may have given it something before it was connected.
    if (!manager.isProxied) {
      manager.context.loop.defer(() => {
        if (!session.isEnded) ingress.takeStrays(session, fd);
      });
    }
    return fd;
  }

  /**
   * A socket at the original destination that is connected to the client, made when nothing
   * received is still in hand. While it is bound and not connected, it may be given what others
   * send to that destination: what the listener holds by then is older. Its queue is emptied
   * before, to keep that time short. The listener and the shared socket have SO_REUSEPORT for it.
   */
  private openOwn(session: Session): void {
    const { manager } = this;
    const { ingress, reached, peer } = session.start;
    // What a sender's socket sends may be of several sessions, and has to be looked at by the
    // listener.
    if (manager.isProxied || !this.hasRoom(session)) return;
    manager.context.loop.defer(() => {
      if (!this.hasRoom(session)) return;
      ingress.drain();
      if (session.isEnded) return;
      const { transparent } = manager.settings;
      const ends = { local: reached, remote: peer, isConnected: true, transparent };
      const onBound = () => ingress.drain();
      const open = () => openFlow({ ...ends, sharing: "joined", onBound });
      const fd = manager.addReplySocket(session, open);
      if (typeof fd !== "number") return;
      if (manager.ownReplySocket(session, fd) >= 0) this.useOwn(session, fd);
    });
  }

  private hasRoom({ isEnded, way, outlet, start }: Session): boolean {
    if (isEnded || outlet === undefined || (way !== "listener" && way !== "shared")) return false;
    return this.outlets.hasRoom(outlet) && !this.manager.ports.isCrowded(start.reached.port);
  }

  private useOwn(session: Session, fd: Fd): void {
    const { outlet } = session;
    if (outlet !== undefined) outlet.owned++;
    hearHopLimits(fd, familyOf(session.start.reached));
    session.way = "own";
    session.answerFd = fd;
    session.envelope = undefined;
    session.isNew = true;
    session.emptiedBefore = session.start.ingress.emptied;
    if (session.isBusy) prepareForMuch(fd, flowBufferBytes, this.joins);
    session.fromClient.onReady();
  }
}

/** Finds the way by which a session's answers leave from where its client has sent to (`Way`). */

import { SO_REUSEADDR, SOL_SOCKET } from "../../ffi/constants.ts";
import { errnoName, errnoText } from "../../ffi/errno.ts";
import { ip6_hdr, udphdr } from "../../ffi/layout.ts";
import { makeEnvelope } from "../../ffi/send-batch.ts";
import * as sys from "../../ffi/sys.ts";
import { busyDatagrams, busyWithinMs, flowBufferBytes, ipv6MtuMin } from "../engine/limits.ts";
import { familyOf } from "../engine/sockets.ts";
import { rawWarning } from "./raw-sender.ts";
import type { Session } from "./session.ts";
import type { SessionKeeper } from "./session-keeper.ts";
import { failedCall, openFlow, prepareForMuch } from "./session-sockets.ts";

export class ReplyWay {
  private readonly keeper: SessionKeeper;
  /** UDP_GRO is of use for what clients send. */
  private readonly joins: boolean;

  constructor(keeper: SessionKeeper, joins: boolean) {
    this.keeper = keeper;
    this.joins = joins;
  }

  /** Sets the session's `way` at its first answer; why there is none, which leaves it unknown. */
  find(session: Session): string {
    const { ingress, reached, peer } = session.start;
    if (reached.port === ingress.port) {
      session.envelope = makeEnvelope(ingress.domain, peer, reached.address);
      session.way = "listener";
      if (session.isBusy) this.openBesideListener(session);
      return "";
    }
    const result = this.openSocket(session);
    if (result >= 0) return "";
    const warning = rawWarning(-result, reached.port);
    if (warning !== undefined) {
      this.keeper.context.warn(warning);
      session.way = "raw";
      return "";
    }
    return `an answer was dropped: ${failedCall}: ${errnoText(-result)} (${errnoName(-result)})`;
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
   * Looks whether an answer through the listener may be too large for a path of IPv6. The ICMP
   * error comes to the address that the answer left from: a socket of the session's own hears it.
   */
  watchSize(session: Session, bytes: number): void {
    if (session.way !== "listener" || session.start.peer.address.length === 4) return;
    if (bytes + ip6_hdr.size + udphdr.size > ipv6MtuMin) this.openBesideListener(session);
  }

  /** Gives a session with much traffic larger buffers, and a socket of its own for its client. */
  private quicken(session: Session): void {
    session.busyAt = Number.POSITIVE_INFINITY;
    session.isBusy = true;
    prepareForMuch(session.start.upstreamFd, flowBufferBytes, true);
    if (session.replyFd !== undefined) {
      prepareForMuch(session.replyFd, flowBufferBytes, this.joins);
    } else if (session.way === "listener") this.openBesideListener(session);
  }

  /**
   * A reply socket with the listener's own port, made when nothing received is still in hand. While
   * it is bound and not connected, it may be given what others send to that destination: what the
   * listener holds by then is older. Its queue is emptied before, to keep that time short.
   */
  private openBesideListener(session: Session): void {
    // What a sender's socket sends has to be looked at by the listener.
    if (this.keeper.isProxied) return;
    const { ingress } = session.start;
    this.keeper.context.loop.defer(() => {
      if (session.isEnded || session.way !== "listener") return;
      ingress.drain();
      if (session.isEnded) return;
      this.shareListeners(1);
      const result = this.openSocket(session, () => {
        this.shareListeners(0);
        ingress.drain();
      });
      if (result < 0) this.shareListeners(0);
      else session.fromClient.onReady();
    });
  }

  /**
   * All that have a port must have SO_REUSEADDR for another one to get it, the listeners in that
   * moment alone: with it any program here could take their traffic.
   */
  private shareListeners(value: 0 | 1): void {
    for (const fd of this.keeper.settings.listeners) {
      sys.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, value);
    }
  }

  /**
   * A socket at the original destination, connected to the client: it, or a negated errno. What a
   * sender's socket sends may be of several sessions, so towards that one it stays unconnected: the
   * kernel's look-up for TPROXY does not see it then, and the listener goes on to get everything.
   */
  private openSocket(session: Session, onBound?: () => void): number {
    const { keeper } = this;
    const { ingress, reached, peer } = session.start;
    const { transparent } = keeper.settings;
    const isConnected = !keeper.isProxied;
    const flow = { local: reached, remote: peer, isConnected, transparent, shared: true };
    const open = () => openFlow(onBound === undefined ? flow : { ...flow, onBound });
    const fd = keeper.addReplySocket(session, open);
    if (fd < 0) return fd;
    session.way = "socket";
    session.envelope = isConnected ? undefined : makeEnvelope(familyOf(reached), peer);
    if (!isConnected) return fd;
    session.isNew = true;
    session.emptiedBefore = ingress.emptied;
    if (session.isBusy) prepareForMuch(fd, flowBufferBytes, this.joins);
    return fd;
  }
}

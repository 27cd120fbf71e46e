/**
 * The places of one Worker's sessions: numbers in the table, and descriptors. When none is left, a
 * new session evicts another one (`SessionTable`), or is rejected. When few are left, silent
 * sessions of the client with the most end early.
 */

import { IdleSweep, type SweptPlaces } from "../../engine/idle-sweep.ts";
import { nearlyFull, sweptAtOnce } from "../../engine/limits.ts";
import type { EventLoop } from "../../engine/loop.ts";
import { randomWord } from "../../engine/random.ts";
import type { ForwardTimeouts, SessionSettings } from "../../workers/protocol.ts";
import { type Refusal, refusals } from "./rejection.ts";
import type { Session } from "./session.ts";
import { SessionClients } from "./session-clients.ts";
import { SessionTable } from "./session-table.ts";

/** The functions that end a session, and return its places by `release` and `releaseSocket`. */
export interface SessionEnders {
  /** Another session needs the place. */
  readonly evict: (session: Session) => void;
  /** The session is silent while nearly all places are taken. */
  readonly shorten: (session: Session) => void;
}

export class SessionPlaces implements SweptPlaces {
  readonly table: SessionTable;
  private readonly settings: SessionSettings;
  private readonly clients: SessionClients;
  /** A reload changes it. */
  private readonly timeouts: ForwardTimeouts;
  private byPort: { readonly of: unknown; readonly ms: ReadonlyMap<number, number> };
  private readonly loop: EventLoop;
  private readonly enders: SessionEnders;
  private readonly idleSweep: IdleSweep;
  /** By number in the table. */
  private readonly sessions: (Session | undefined)[] = [];
  private sockets = 0;

  constructor(
    loop: EventLoop,
    settings: SessionSettings,
    timeouts: ForwardTimeouts,
    keyWords: number,
    enders: SessionEnders,
  ) {
    this.loop = loop;
    this.table = new SessionTable(settings, randomWord, keyWords);
    this.settings = settings;
    this.clients = new SessionClients(settings);
    this.timeouts = timeouts;
    this.byPort = answeredTimeouts(timeouts);
    this.enders = enders;
    this.idleSweep = new IdleSweep(loop, this);
  }

  /** The session with this number in the table. */
  at(slot: number): Session | undefined {
    return this.sessions[slot];
  }

  /**
   * Returns a number for a session of the table's key to `port` that has room for a socket, or the
   * reason why there is none. May evict another session.
   */
  claim(port: number): number | Refusal {
    const { table, settings, clients } = this;
    const { now } = this.loop;
    // Checked before the session of any other client is evicted.
    const refusal = clients.refusal(table.key, now);
    if (refusal !== undefined) return refusal;
    while (this.sockets >= settings.socketsMax || table.isFull) {
      if (this.evict(table.victim(now))) continue;
      clients.withdraw(table.key);
      return refusals.noPlace;
    }
    const { sessionIdleMs, answeredSessions } = this.timeouts;
    if (this.byPort.of !== answeredSessions) this.byPort = answeredTimeouts(this.timeouts);
    const slot = table.create(now, sessionIdleMs, this.byPort.ms.get(port) ?? sessionIdleMs);
    clients.began(table.key, slot);
    return slot;
  }

  /** Frees a number. */
  release(slot: number): void {
    this.clients.ended(slot);
    this.table.remove(slot);
    this.sessions[slot] = undefined;
  }

  /** A session has begun, with the socket that was claimed. */
  enter(session: Session): void {
    this.sessions[session.start.slot] = session;
    this.sockets++;
    this.idleSweep.taken();
  }

  /** Claims room for one more socket of a session; false if there is none. May evict another. */
  claimSocket({ start }: Session): boolean {
    while (this.sockets >= this.settings.socketsMax) {
      if (!this.evict(this.table.victimFor(start.slot, this.loop.now))) return false;
    }
    this.sockets++;
    return true;
  }

  /** A socket of a session is closed, or a claimed one was not opened. */
  releaseSocket(): void {
    this.sockets--;
  }

  get isNearlyFull(): boolean {
    return this.isNearlyFullOf(0);
  }

  /**
   * Sessions on probation are evicted at once when need be, and may be forged. So they shorten the
   * time-outs of no confirmed session, unless confirmed ones alone take nearly all places.
   */
  sweep(): void {
    const { table, sessions, loop } = this;
    for (let i = 0; i < sweptAtOnce; i++) {
      const session = sessions[table.early(loop.now, this.isNearlyFullOf(table.newcomers))];
      if (session === undefined) return;
      this.enders.shorten(session);
    }
  }

  /** No session ends early any more. */
  stop(): void {
    this.idleSweep.stop();
  }

  private isNearlyFullOf(newcomers: number): boolean {
    const { sessionsMax, socketsMax } = this.settings;
    const isFullOf = (count: number, max: number) => count - newcomers >= nearlyFull * max;
    return isFullOf(this.table.size, sessionsMax) || isFullOf(this.sockets, socketsMax);
  }

  private evict(slot: number): boolean {
    const session = this.sessions[slot];
    if (session === undefined) return false;
    this.enders.evict(session);
    return true;
  }
}

/** By port of the original destination: how long an answered session may be silent, in ms. */
function answeredTimeouts({ answeredSessions: of }: ForwardTimeouts) {
  return { of, ms: new Map(of.map(({ port, timeoutMs }) => [port, timeoutMs])) };
}

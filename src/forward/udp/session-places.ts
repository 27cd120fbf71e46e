/**
 * The places of one Worker's sessions: numbers in the table, and descriptors. When there is none
 * left, another session ends for a new one (`SessionTable`), or the new one is rejected. When few
 * are left, silent sessions of whoever has the most end early.
 */

import { IdleSweep, type SweptPlaces } from "../../engine/idle-sweep.ts";
import { nearlyFull, sweptAtOnce } from "../../engine/limits.ts";
import type { EventLoop } from "../../engine/loop.ts";
import { randomWord } from "../../engine/random.ts";
import type { SessionSettings } from "../../workers/protocol.ts";
import type { Session } from "./session.ts";
import { SessionClients } from "./session-clients.ts";
import { SessionTable } from "./session-table.ts";

const NO_PLACE = "all places are taken, and its client has as many sessions as any";

/** Who is told that a session ends, and gives up all that it has here. */
export interface PlacesOwner {
  /** For another one's sake. */
  evict(session: Session): void;
  /** As it is silent while nearly all places are taken. */
  endEarly(session: Session): void;
}

export class SessionPlaces implements SweptPlaces {
  readonly table: SessionTable;
  private readonly settings: SessionSettings;
  private readonly clients: SessionClients;
  private readonly answeredTimeouts: ReadonlyMap<number, number>;
  private readonly loop: EventLoop;
  private readonly owner: PlacesOwner;
  private readonly idleSweep: IdleSweep;
  /** By number in the table. */
  private readonly sessions: (Session | undefined)[] = [];
  private sockets = 0;

  constructor(loop: EventLoop, settings: SessionSettings, keyWords: number, owner: PlacesOwner) {
    this.loop = loop;
    this.table = new SessionTable(settings, randomWord, keyWords);
    this.settings = settings;
    this.clients = new SessionClients(settings);
    const { answeredTimeouts } = settings;
    this.answeredTimeouts = new Map(answeredTimeouts.map((each) => [each.port, each.timeoutMs]));
    this.owner = owner;
    this.idleSweep = new IdleSweep(loop, this);
  }

  /** The session with this number in the table. */
  at(slot: number): Session | undefined {
    return this.sessions[slot];
  }

  /**
   * A number for a session of the table's key to `port`, and room for its socket, at the cost of
   * another session if need be; or why there is none.
   */
  claim(port: number): number | string {
    const { table, settings, clients } = this;
    const { now } = this.loop;
    // Before anybody else's is ended for it.
    const refusal = clients.refusal(table.key, now);
    if (refusal !== "") return refusal;
    while (this.sockets >= settings.socketsMax || table.isFull) {
      if (this.end(table.victim(now))) continue;
      clients.withdraw(table.key);
      return NO_PLACE;
    }
    const { idleTimeoutMs } = settings;
    const slot = table.create(now, idleTimeoutMs, this.answeredTimeouts.get(port) ?? idleTimeoutMs);
    clients.began(table.key, slot);
    return slot;
  }

  /** Gives back a number. */
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

  /** Room for one more socket of a session, at the cost of another session if need be. */
  claimSocket({ start }: Session): boolean {
    while (this.sockets >= this.settings.socketsMax) {
      if (!this.end(this.table.victimFor(start.slot, this.loop.now))) return false;
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
   * What is on probation gives way at once, and may be forged. So it shortens the time-outs of no
   * confirmed session, unless these nearly take all places by themselves.
   */
  sweep(): void {
    const { table, sessions, loop } = this;
    for (let i = 0; i < sweptAtOnce; i++) {
      const session = sessions[table.early(loop.now, this.isNearlyFullOf(table.newcomers))];
      if (session === undefined) return;
      this.owner.endEarly(session);
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

  private end(slot: number): boolean {
    const session = this.sessions[slot];
    if (session === undefined) return false;
    this.owner.evict(session);
    return true;
  }
}

/**
 * The places of one Worker's sessions: numbers in the table, and descriptors. When there is none
 * left, another session ends for a new one (`SessionTable`), or the new one is rejected.
 */

import type { SessionSettings } from "../engine/protocol.ts";
import { randomWord } from "../engine/random.ts";
import type { Session } from "./session.ts";
import { SessionClients } from "./session-clients.ts";
import { SessionTable } from "./session-table.ts";

const NO_PLACE = "all places are taken, and no client has more sessions that it could lose";

export class SessionPlaces {
  readonly table: SessionTable;
  private readonly settings: SessionSettings;
  private readonly clients: SessionClients;
  private readonly answeredTimeouts: ReadonlyMap<number, number>;
  private readonly evict: (session: Session) => void;
  /** By number in the table. */
  private readonly sessions: (Session | undefined)[] = [];
  private sockets = 0;

  /** `evict` ends a session for another one's sake, which gives up all that it has here. */
  constructor(settings: SessionSettings, keyWords: number, evict: (session: Session) => void) {
    this.table = new SessionTable(settings, randomWord, keyWords);
    this.settings = settings;
    this.clients = new SessionClients(settings);
    const { answeredTimeouts } = settings;
    this.answeredTimeouts = new Map(answeredTimeouts.map((each) => [each.port, each.timeoutMs]));
    this.evict = evict;
  }

  /** The session with this number in the table. */
  at(slot: number): Session | undefined {
    return this.sessions[slot];
  }

  /**
   * A number for a session of the table's key to `port`, and room for its socket, at the cost of
   * another session if need be; or why there is none.
   */
  claim(port: number, now: number): number | string {
    const { table, settings, clients } = this;
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
  }

  /** Room for one more socket of a session, at the cost of another session if need be. */
  claimSocket({ start }: Session, now: number): boolean {
    while (this.sockets >= this.settings.socketsMax) {
      if (!this.end(this.table.victimFor(start.slot, now))) return false;
    }
    this.sockets++;
    return true;
  }

  /** A socket of a session is closed, or a claimed one was not opened. */
  releaseSocket(): void {
    this.sockets--;
  }

  private end(slot: number): boolean {
    const session = this.sessions[slot];
    if (session === undefined) return false;
    this.evict(session);
    return true;
  }
}

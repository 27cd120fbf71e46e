/**
 * The sessions of UDP as numbers: who talks to whom, who was last seen when, and who has to go when
 * there is no more room. Pure: no descriptor and no clock; the time is handed in.
 *
 * A session is known by its client and the destination that the client asked for. It is on
 * probation until the client has sent again after an answer, which a spoofed source cannot do, for
 * it never sees the answer. When the table is full the least recently used of those goes first, and
 * only without any the least recently used of the others: a flood takes room from itself.
 */

import { KEY_WORDS } from "../forward/flow-key.ts";
import { KeyIndex } from "./key-index.ts";

/** Words of the client's address in front of it, and of its interface at its end. */
const CLIENT_WORDS = 5;

const UNANSWERED = 0;
const ANSWERED = 1;
const CONFIRMED = 2;
const phases = ["unanswered", "answered", "confirmed"] as const;

/** How many sessions there may be. */
export interface SessionBounds {
  readonly sessionsMax: number;
  /** Of one client's address; 0: as many as there may be at all. */
  readonly perClientMax: number;
}

/** What `create` answers when there is no room: `victim` says what to end. */
export const TABLE_IS_FULL = -1;

export class SessionTable {
  /** The key that `find` looks for and `create` puts in; written by the caller. */
  readonly key: Uint32Array;
  private readonly bounds: SessionBounds;
  private readonly index: KeyIndex;
  private readonly clients: KeyIndex;
  private readonly client = new Uint32Array(CLIENT_WORDS);
  /** By client: its sessions. By session: its client. */
  private readonly clientSessions: Int32Array;
  private readonly clientOf: Int32Array;
  private readonly stage: Uint8Array;
  private readonly seen: Float64Array;
  private readonly idleMs: Float64Array;
  private readonly answeredIdleMs: Float64Array;
  /** Two circles, most recently used first, each from and to a head of its own. */
  private readonly next: Int32Array;
  private readonly previous: Int32Array;
  private readonly probation: number;
  private readonly confirmed: number;

  /**
   * `random` answers any 32-bit number, see `KeyIndex`. Keys of more words than KEY_WORDS tell
   * apart sessions of the same ends as well.
   */
  constructor(bounds: SessionBounds, random: () => number, keyWords = KEY_WORDS) {
    const { sessionsMax } = bounds;
    this.bounds = bounds;
    this.key = new Uint32Array(keyWords);
    this.index = new KeyIndex(sessionsMax, keyWords, random);
    this.clients = new KeyIndex(sessionsMax, CLIENT_WORDS, random);
    this.clientSessions = new Int32Array(sessionsMax);
    this.clientOf = new Int32Array(sessionsMax);
    this.stage = new Uint8Array(sessionsMax);
    this.seen = new Float64Array(sessionsMax);
    this.idleMs = new Float64Array(sessionsMax);
    this.answeredIdleMs = new Float64Array(sessionsMax);
    this.next = new Int32Array(sessionsMax + 2);
    this.previous = new Int32Array(sessionsMax + 2);
    this.probation = sessionsMax;
    this.confirmed = sessionsMax + 1;
    for (const head of [this.probation, this.confirmed]) {
      this.next[head] = head;
      this.previous[head] = head;
    }
  }

  get size(): number {
    return this.index.size;
  }

  /** The session of `key`, -1 if there is none. */
  find(): number {
    return this.index.find(this.key);
  }

  /**
   * Begins the session of `key`, which is not there, and whose client is not full; the number by
   * which it is known until it is removed, or TABLE_IS_FULL. It may be silent for `idleMs`, and
   * once it has been answered for `answeredIdleMs`.
   */
  create(now: number, idleMs: number, answeredIdleMs: number): number {
    const slot = this.index.insert(this.key);
    if (slot < 0) return TABLE_IS_FULL;
    const known = this.findClient();
    const owner = known < 0 ? this.clients.insert(this.client) : known;
    this.clientSessions[owner] = (known < 0 ? 0 : (this.clientSessions[known] as number)) + 1;
    this.clientOf[slot] = owner;
    this.stage[slot] = UNANSWERED;
    this.seen[slot] = now;
    this.idleMs[slot] = idleMs;
    this.answeredIdleMs[slot] = answeredIdleMs;
    this.link(slot, this.probation);
    return slot;
  }

  /** Whether the client of `key` has as many sessions as it may have. */
  isClientFull(): boolean {
    const { perClientMax } = this.bounds;
    if (perClientMax === 0) return false;
    const known = this.findClient();
    return known >= 0 && (this.clientSessions[known] as number) >= perClientMax;
  }

  /** The number of the client of `key`, which is then in `client`; -1 if it has no session. */
  private findClient(): number {
    const { client, key } = this;
    for (let i = 0; i < 4; i++) client[i] = key[i] as number;
    client[4] = key[KEY_WORDS - 1] as number;
    return this.clients.find(client);
  }

  /** Ends a session. */
  remove(slot: number): void {
    this.unlink(slot);
    this.index.remove(slot);
    const owner = this.clientOf[slot] as number;
    const sessions = (this.clientSessions[owner] as number) - 1;
    this.clientSessions[owner] = sessions;
    if (sessions === 0) this.clients.remove(owner);
  }

  /** The client has sent. */
  asked(slot: number, now: number): void {
    if (this.stage[slot] === ANSWERED) this.stage[slot] = CONFIRMED;
    this.use(slot, now);
  }

  /** The upstream has sent. True for the first time, from which on another time-out counts. */
  answered(slot: number, now: number): boolean {
    const isFirst = this.stage[slot] === UNANSWERED;
    if (isFirst) this.stage[slot] = ANSWERED;
    this.use(slot, now);
    return isFirst;
  }

  /** When the session has been silent for too long, if nothing more is heard of it. */
  deadline(slot: number): number {
    const { seen, stage, idleMs, answeredIdleMs } = this;
    const idle = stage[slot] === UNANSWERED ? idleMs[slot] : answeredIdleMs[slot];
    return (seen[slot] as number) + (idle as number);
  }

  /** How far it has come: an answer, and the client's next datagram after it. */
  phase(slot: number): (typeof phases)[number] {
    return phases[this.stage[slot] as 0 | 1 | 2];
  }

  /** When either side has last sent. */
  lastUse(slot: number): number {
    return this.seen[slot] as number;
  }

  /** The session to end when there has to be room for another; -1 when there is none at all. */
  victim(): number {
    const { previous, probation, confirmed } = this;
    const first = previous[probation] as number;
    if (first !== probation) return first;
    const second = previous[confirmed] as number;
    return second === confirmed ? -1 : second;
  }

  private use(slot: number, now: number): void {
    this.seen[slot] = now;
    const head = this.stage[slot] === CONFIRMED ? this.confirmed : this.probation;
    if (this.next[head] === slot) return;
    this.unlink(slot);
    this.link(slot, head);
  }

  /** What is next of a head is the most recently used, what is previous the least recently used. */
  private link(slot: number, head: number): void {
    const { next, previous } = this;
    const first = next[head] as number;
    next[head] = slot;
    previous[slot] = head;
    next[slot] = first;
    previous[first] = slot;
  }

  private unlink(slot: number): void {
    const { next, previous } = this;
    const before = previous[slot] as number;
    const after = next[slot] as number;
    next[before] = after;
    previous[after] = before;
  }
}

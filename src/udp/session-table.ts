/**
 * The sessions of UDP as numbers: who talks to whom, who was last seen when, and who has to go when
 * there is no more room. Pure: no descriptor and no clock; the time is handed in.
 *
 * A session is known by its client and the destination that the client asked for. It is on
 * probation until the client has sent again after an answer, which a spoofed source cannot do, for
 * it never sees the answer.
 *
 * When the table is full, whoever has the most pays. That is the client with the most sessions,
 * which loses the one that was used least recently, those on probation first. But all that is on
 * probation counts as of one client, since sources may be spoofed: if others have more of it than
 * the heaviest client has sessions, the least recently used of that goes. So a flood takes room
 * from itself, whether from many addresses or from one that answers.
 */

import { PREFIX_WORDS } from "../engine/client-prefix.ts";
import { ClientShares } from "../engine/client-shares.ts";
import { KeyIndex } from "../engine/key-index.ts";
import { idlestOf } from "../engine/limits.ts";
import { KEY_WORDS, prefixOfKey } from "../forward/flow-key.ts";

const UNANSWERED = 0;
const ANSWERED = 1;
const CONFIRMED = 2;
const phases = ["unanswered", "answered", "confirmed"] as const;

/** How many sessions there may be. */
export interface SessionBounds {
  readonly sessionsMax: number;
}

/** What `create` answers when there is no room: `victim` says what to end. */
export const TABLE_IS_FULL = -1;

export class SessionTable {
  /** The key that `find` looks for and `create` puts in; written by the caller. */
  readonly key: Uint32Array;
  private readonly index: KeyIndex;
  /** The sessions of each client, the least recently used first. */
  private readonly shares: ClientShares;
  /** By client of `shares`: its sessions on probation; and those of all. */
  private readonly onProbation: Int32Array;
  private allOnProbation = 0;
  /** By client of `shares`: its sessions that have been answered. */
  private readonly hasAnswers: Int32Array;
  private readonly prefix = new Uint32Array(PREFIX_WORDS);
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
    this.key = new Uint32Array(keyWords);
    this.index = new KeyIndex(sessionsMax, keyWords, random);
    this.shares = new ClientShares(sessionsMax, random);
    this.onProbation = new Int32Array(sessionsMax);
    this.hasAnswers = new Int32Array(sessionsMax);
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

  /** Whether all numbers are taken. */
  get isFull(): boolean {
    return this.index.size >= this.index.capacity;
  }

  /** The session of `key`, -1 if there is none. */
  find(): number {
    return this.index.find(this.key);
  }

  /**
   * Begins the session of `key`, which is not there; the number by which it is known until it is
   * removed, or TABLE_IS_FULL. It may be silent for `idleMs`, and once it has been answered for
   * `answeredIdleMs`.
   */
  create(now: number, idleMs: number, answeredIdleMs: number): number {
    const slot = this.index.insert(this.key);
    if (slot < 0) return TABLE_IS_FULL;
    prefixOfKey(this.key, this.prefix);
    this.shares.add(slot, this.prefix);
    this.stage[slot] = UNANSWERED;
    this.seen[slot] = now;
    this.idleMs[slot] = idleMs;
    this.answeredIdleMs[slot] = answeredIdleMs;
    this.link(slot, this.probation);
    this.countProbation(slot, 1);
    return slot;
  }

  /** Ends a session. */
  remove(slot: number): void {
    this.unlink(slot);
    this.index.remove(slot);
    if (this.stage[slot] !== CONFIRMED) this.countProbation(slot, -1);
    if (this.stage[slot] !== UNANSWERED) this.countAnswered(slot, -1);
    this.shares.remove(slot);
  }

  /** The client has sent. */
  asked(slot: number, now: number): void {
    if (this.stage[slot] === ANSWERED) {
      this.stage[slot] = CONFIRMED;
      this.countProbation(slot, -1);
    }
    this.use(slot, now);
  }

  /** The upstream has sent. True for the first time, from which on another time-out counts. */
  answered(slot: number, now: number): boolean {
    const isFirst = this.stage[slot] === UNANSWERED;
    if (isFirst) {
      this.stage[slot] = ANSWERED;
      this.countAnswered(slot, 1);
    }
    this.use(slot, now);
    return isFirst;
  }

  /** Whether the client of a session has another one that has been answered: so it can be. */
  isClientAnswered(slot: number): boolean {
    return (this.hasAnswers[this.shares.client(slot)] as number) > 0;
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
    const { shares } = this;
    const client = shares.heaviest;
    if (client < 0) return -1;
    const crowd = this.allOnProbation - (this.onProbation[client] as number);
    const isOne = shares.clientCount === 1 || shares.heaviestCount === 1;
    return isOne || crowd > shares.heaviestCount ? this.leastUsed() : this.leastUsedOf(client);
  }

  /** The least recently used one, of those on probation if there are any. */
  private leastUsed(): number {
    const { previous, probation, confirmed } = this;
    const first = previous[probation] as number;
    if (first !== probation) return first;
    const second = previous[confirmed] as number;
    return second === confirmed ? -1 : second;
  }

  /** The same of one client; probation counts of those that have not been used for longest. */
  private leastUsedOf(client: number): number {
    const { shares, stage } = this;
    const first = shares.first(client);
    let slot = first;
    for (let i = 0; i < idlestOf && slot >= 0; i++) {
      if (stage[slot] !== CONFIRMED) return slot;
      slot = shares.after(slot);
    }
    return first;
  }

  private countProbation(slot: number, change: number): void {
    const client = this.shares.client(slot);
    this.onProbation[client] = (this.onProbation[client] as number) + change;
    this.allOnProbation += change;
  }

  private countAnswered(slot: number, change: number): void {
    const client = this.shares.client(slot);
    this.hasAnswers[client] = (this.hasAnswers[client] as number) + change;
  }

  private use(slot: number, now: number): void {
    this.seen[slot] = now;
    this.shares.renew(slot);
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

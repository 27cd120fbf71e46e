/**
 * The sessions of UDP as numbers: their keys, their stages, their times of last use, and the choice
 * of the one to evict when the table is full. Pure: no descriptor; the caller gives the time.
 *
 * The client and its original destination identify a session. A session is on probation until its
 * client has sent again after an answer. A forged client cannot do that: it never gets the answer.
 *
 * When the table is full, the client with the most sessions pays. But all sessions on probation
 * count as one client's, since sources may be forged: if the others have more of them than the
 * heaviest client has sessions, the least recently used of them is evicted. So a flood takes room
 * from itself, whether from many addresses or from one that answers.
 *
 * A newcomer of a client that has fewer gets the place of any session of the heaviest one, but that
 * of a lively and confirmed one only while few sessions are on probation. Another newcomer, which
 * may be forged in the heaviest client's own name, gets only the place of a session on probation,
 * or of one that has been silent for a part of its time-out (`sweptIdlePart`). If there is neither,
 * it is rejected.
 */

import { PREFIX_WORDS } from "../../engine/client-prefix.ts";
import { KEY_WORDS, prefixOfKey } from "../../engine/flow-key.ts";
import { KeyIndex } from "../../engine/key-index.ts";
import { newcomersKept, newcomersKeptShare, sweptIdlePart } from "../../engine/limits.ts";
import { UseOrder } from "../../engine/use-order.ts";
import { ClientShares } from "../../fairness/client-shares.ts";

const UNANSWERED = 0;
const ANSWERED = 1;
const CONFIRMED = 2;
const phases = ["unanswered", "answered", "confirmed"] as const;

/** How many sessions there may be. */
export interface SessionBounds {
  readonly sessionsMax: number;
}

/** Lists of sessions, of all and of each client. */
const PROBATION = 0;
const SETTLED = 1;

export class SessionTable {
  /** The key that `find` looks for and `create` puts in; written by the caller. */
  readonly key: Uint32Array;
  private readonly index: KeyIndex;
  /** How many sessions each client has. */
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
  /** All sessions, in two lists; and those of each client, two lists for each. */
  private readonly byUse: UseOrder;
  private readonly byClient: UseOrder;
  /** A client with so many on probation pays with one of these; and the number for all. */
  private readonly kept: number;
  private readonly crowdKept: number;

  /**
   * `random` returns any 32-bit number, see `KeyIndex`. Keys of more words than KEY_WORDS tell
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
    this.byUse = new UseOrder(sessionsMax, 2);
    this.byUse.clear(PROBATION);
    this.byUse.clear(SETTLED);
    this.byClient = new UseOrder(sessionsMax, 2 * sessionsMax);
    this.crowdKept = Math.ceil(newcomersKeptShare * sessionsMax);
    this.kept = Math.min(newcomersKept, this.crowdKept);
  }

  get size(): number {
    return this.index.size;
  }

  /** How many sessions are on probation. */
  get newcomers(): number {
    return this.allOnProbation;
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
   * Begins the session of `key`, which is not there. Returns its number until it is removed, or -1
   * if the table is full (see `victim`). It may be silent for `idleMs`, and after its first answer
   * for `answeredIdleMs`.
   */
  create(now: number, idleMs: number, answeredIdleMs: number): number {
    const slot = this.index.insert(this.key);
    if (slot < 0) return -1;
    prefixOfKey(this.key, this.prefix);
    this.shares.add(slot, this.prefix);
    this.stage[slot] = UNANSWERED;
    this.seen[slot] = now;
    this.idleMs[slot] = idleMs;
    this.answeredIdleMs[slot] = answeredIdleMs;
    const client = this.shares.client(slot);
    if (this.shares.countWith(slot) === 1) {
      this.byClient.clear(2 * client + PROBATION);
      this.byClient.clear(2 * client + SETTLED);
    }
    this.byUse.add(slot, PROBATION);
    this.byClient.add(slot, 2 * client + PROBATION);
    this.countProbation(slot, 1);
    return slot;
  }

  /** Ends a session. */
  remove(slot: number): void {
    this.byUse.remove(slot);
    this.byClient.remove(slot);
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

  /** The upstream has sent. Returns true the first time: then the time-out is another one. */
  answered(slot: number, now: number): boolean {
    const isFirst = this.stage[slot] === UNANSWERED;
    if (isFirst) {
      this.stage[slot] = ANSWERED;
      this.countAnswered(slot, 1);
    }
    this.use(slot, now);
    return isFirst;
  }

  /** Returns whether the client of a session has another one that has been answered. */
  isClientAnswered(slot: number): boolean {
    return (this.hasAnswers[this.shares.client(slot)] as number) > 0;
  }

  /** Returns when the session times out, if neither side sends until then. */
  deadline(slot: number): number {
    return (this.seen[slot] as number) + this.timeoutOf(slot);
  }

  /** Returns the stage: its first answer and the client's next datagram raise it. */
  phase(slot: number): (typeof phases)[number] {
    return phases[this.stage[slot] as 0 | 1 | 2];
  }

  /** Returns when either side has last sent. */
  lastUse(slot: number): number {
    return this.seen[slot] as number;
  }

  /** Returns the session to evict at `now` for a new one of `key`; -1: the new one is rejected. */
  victim(now: number): number {
    prefixOfKey(this.key, this.prefix);
    const client = this.shares.find(this.prefix);
    return this.payer(client, this.shares.count(client) + 1, now);
  }

  /** Returns the one to evict for one more socket of session `slot`, never that one; -1: none. */
  victimFor(slot: number, now: number): number {
    // Its own client's newest one on probation may be this one.
    const victim = this.payer(-1, this.shares.countWith(slot), now);
    return victim === slot ? -1 : victim;
  }

  /**
   * Returns the next session to end early at `now`, while nearly all places are taken: a silent one
   * of the client with the most, if that has more than an even share; -1 if there is none. A
   * confirmed one only if `alsoConfirmed`.
   */
  early(now: number, alsoConfirmed: boolean): number {
    const { shares, byUse, byClient, index } = this;
    const client = shares.heaviest;
    if (client < 0) return -1;
    const crowd = this.allOnProbation - (this.onProbation[client] as number);
    if (crowd > shares.heaviestCount) return this.ifSilent(byUse.oldest(PROBATION), now);
    if (!shares.isAboveShare(client, index.capacity)) return -1;
    const newcomer = this.ifSilent(byClient.oldest(2 * client + PROBATION), now);
    if (newcomer >= 0 || !alsoConfirmed) return newcomer;
    return this.ifSilent(byClient.oldest(2 * client + SETTLED), now);
  }

  /** Returns who pays for client `own` (-1: without sessions) that has `count` sessions then. */
  private payer(own: number, count: number, now: number): number {
    const { shares } = this;
    const client = shares.heaviest;
    if (client < 0) return -1;
    const most = shares.heaviestCount;
    const crowd = this.allOnProbation - (this.onProbation[client] as number);
    if (crowd > most) return this.byUse.oldest(PROBATION);
    // Clients with one each are all as heavy.
    const isAny = most === 1;
    const order = isAny ? this.byUse : this.byClient;
    const first = isAny ? 0 : 2 * client;
    const onProbation = isAny ? this.allOnProbation : (this.onProbation[client] as number);
    const newcomer = order.oldest(first + PROBATION);
    // Newcomers are kept for a while, or each would end the one before it.
    if (onProbation >= this.kept) return newcomer;
    const settled = order.oldest(first + SETTLED);
    const silent = this.ifSilent(settled, now);
    if (silent >= 0) return silent;
    if (newcomer >= 0 || count >= most) return newcomer;
    if (crowd < this.crowdKept) return settled;
    const mine = own < 0 ? -1 : this.byClient.oldest(2 * own + PROBATION);
    return mine >= 0 ? mine : this.byUse.oldest(PROBATION);
  }

  /** Returns `slot` if it has been silent for a part of its time-out, else -1. */
  private ifSilent(slot: number, now: number): number {
    if (slot < 0) return -1;
    const since = this.seen[slot] as number;
    return since + sweptIdlePart * this.timeoutOf(slot) <= now ? slot : -1;
  }

  private timeoutOf(slot: number): number {
    const { stage, idleMs, answeredIdleMs } = this;
    return (stage[slot] === UNANSWERED ? idleMs[slot] : answeredIdleMs[slot]) as number;
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
    const list = this.stage[slot] === CONFIRMED ? SETTLED : PROBATION;
    this.byUse.use(slot, list);
    this.byClient.use(slot, 2 * this.shares.client(slot) + list);
  }
}

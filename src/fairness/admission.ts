/**
 * Decides which connection gets a place in a Worker, so that no client takes all places.
 *
 * A connection is pending until its client is known (behind a PROXY protocol header that is not the
 * peer) and there is a place for it. While there are places, each newcomer gets one. When there is
 * none, the client with the most connections pays: a newcomer of a client that has less gets the
 * place of the one of its connections that has been idle longest. A newcomer of the client with the
 * most waits, and when `queueMax` are pending beyond the places, the same holds for those.
 */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { PREFIX_WORDS, PrefixRows, writePrefix } from "../engine/client-prefix.ts";
import { idlestOf, nearlyFull, sweptAtOnce } from "../engine/limits.ts";
import { randomWord } from "../engine/random.ts";
import type { EndReason } from "../workers/end-reason.ts";
import type { ClientLimits } from "./client-limits.ts";
import { ClientShares } from "./client-shares.ts";

/** The part of a connection that admission uses. */
export interface Applicant {
  /** Its number among the open ones, -1 before it has one; written here. */
  number: number;
  /** When it has last carried something. */
  readonly lastActive: number;
}

/** How many connections there may be. */
export interface AdmissionBounds {
  /** Connections with a place. */
  readonly connectionsMax: number;
  /** Connections beyond these that may be pending. */
  readonly queueMax: number;
}

/** The owner of the connections. */
export interface AdmissionOwner<T extends Applicant> {
  /** A waiting connection has got a place. */
  proceed(member: T): void;
  /** Ends a connection to make room for another one, and calls `left` for it; or it stays. */
  evict(member: T): void;
}

/** The decision on a connection whose client is known: placed, waiting, or why it ends. */
export type Admitted = "placed" | "waits" | Extract<EndReason, "client-limit" | "client-rate">;

const PENDING = 1;
const PLACED = 2;

export class Admission<T extends Applicant> {
  private readonly bounds: AdmissionBounds;
  private readonly perClient: ClientLimits;
  private readonly owner: AdmissionOwner<T>;
  private readonly pending: ClientShares;
  private readonly placed: ClientShares;
  /** By number. */
  private readonly members: (T | undefined)[] = [];
  private readonly state: Uint8Array;
  private readonly isCounted: Uint8Array;
  private readonly prefixes: PrefixRows;
  private readonly free: number[] = [];
  private readonly prefix = new Uint32Array(PREFIX_WORDS);
  /** Pending connections whose client is known, longest wait first. */
  private readonly waiting = new Set<T>();
  /** The next free place is for a newcomer, not for one that waits. */
  private isEvicting = false;

  constructor(
    bounds: AdmissionBounds,
    perClient: ClientLimits,
    owner: AdmissionOwner<T>,
    random = randomWord,
  ) {
    this.bounds = bounds;
    this.perClient = perClient;
    this.owner = owner;
    const capacity = bounds.connectionsMax + bounds.queueMax;
    this.pending = new ClientShares(capacity, random);
    this.placed = new ClientShares(capacity, random);
    this.state = new Uint8Array(capacity);
    this.isCounted = new Uint8Array(capacity);
    this.prefixes = new PrefixRows(capacity);
  }

  /** Adds a new connection of `peer`; returns false if it is to be closed. */
  arrive(member: T, peer: SocketAddress): boolean {
    const { pending, placed, bounds, prefix } = this;
    writePrefix(peer, prefix);
    if (pending.size + placed.size >= bounds.connectionsMax + bounds.queueMax) {
      if (pending.countOf(prefix) + 1 >= pending.heaviestCount) return false;
      this.evict(pending.first(pending.heaviest));
    }
    const number = this.enter(member);
    this.state[number] = PENDING;
    pending.add(number, prefix);
    return true;
  }

  /** Gives a connection a number. */
  private enter(member: T): number {
    const number = this.free.pop() ?? this.members.length;
    member.number = number;
    this.members[number] = member;
    return number;
  }

  /** Decides on a connection whose client is now known; `now` is in ms. */
  admit(member: T, client: SocketAddress, now: number): Admitted {
    const { pending, placed, prefix } = this;
    const { number } = member;
    writePrefix(client, prefix);
    if (!this.perClient.mayBegin(prefix, now)) return "client-rate";
    if (!this.perClient.take(prefix)) return "client-limit";
    this.isCounted[number] = 1;
    this.prefixes.put(number, prefix);
    if (this.isFull) {
      const isHeaviest = placed.countOf(prefix) + 1 >= placed.heaviestCount;
      if (isHeaviest || !this.evict(this.idlest(placed.heaviest))) {
        pending.remove(number);
        pending.add(number, prefix);
        this.waiting.add(member);
        return "waits";
      }
    }
    this.place(member);
    return "placed";
  }

  /**
   * Gives a place to a connection of `client` that has one in another process, whatever its bounds;
   * false: this Worker has no number for it.
   */
  adopt(member: T, client: SocketAddress): boolean {
    const { bounds, placed, prefix } = this;
    const capacity = bounds.connectionsMax + bounds.queueMax;
    if (this.pending.size + placed.size >= capacity) return false;
    const number = this.enter(member);
    writePrefix(client, prefix);
    this.perClient.takeMoved(prefix);
    this.isCounted[number] = 1;
    this.prefixes.put(number, prefix);
    placed.add(number, prefix);
    this.state[number] = PLACED;
    return true;
  }

  /** A connection has ended. The connection that has waited longest gets its place. */
  left(member: T): void {
    const { number } = member;
    const state = this.state[number];
    if (number < 0 || this.members[number] !== member) return;
    if (this.isCounted[number] === 1) this.perClient.give(this.prefixes.get(number));
    this.isCounted[number] = 0;
    (state === PLACED ? this.placed : this.pending).remove(number);
    this.members[number] = undefined;
    this.free.push(number);
    this.waiting.delete(member);
    if (this.isEvicting || this.isFull) return;
    const [next] = this.waiting;
    if (next === undefined) return;
    this.waiting.delete(next);
    this.place(next);
    this.owner.proceed(next);
  }

  /** How many places the client of a placed connection has. */
  countWith({ number }: T): number {
    return this.placed.countWith(number);
  }

  /** A number for the client of a placed connection. */
  clientOf({ number }: T): number {
    return this.placed.client(number);
  }

  /** Whether all places are taken. */
  get isFull(): boolean {
    return this.placed.size >= this.bounds.connectionsMax;
  }

  /** Whether nearly all places are taken. */
  get isNearlyFull(): boolean {
    return this.placed.size >= this.bounds.connectionsMax * nearlyFull;
  }

  /** Yields the oldest connections of the heaviest client while it has more than its share. */
  *aboveShare(): Generator<T, undefined> {
    const { placed, bounds } = this;
    const client = placed.heaviest;
    if (client < 0) return;
    let number = placed.first(client);
    for (let i = 0; i < sweptAtOnce && number >= 0; i++) {
      if (!placed.isAboveShare(client, bounds.connectionsMax)) return;
      // It may end meanwhile.
      const next = placed.after(number);
      yield this.members[number] as T;
      number = next;
    }
  }

  private place(member: T): void {
    const { number } = member;
    this.pending.remove(number);
    this.placed.add(number, this.prefixes.get(number));
    this.state[number] = PLACED;
  }

  /** Returns false for one that stays: it is on its way to another process. */
  private evict(number: number): boolean {
    const member = this.members[number] as T;
    this.isEvicting = true;
    this.owner.evict(member);
    this.isEvicting = false;
    return this.members[number] !== member;
  }

  /**
   * The idlest among the oldest connections of a client. The others are compared again after all
   * connections of the client were.
   */
  private idlest(client: number): number {
    const { placed, members } = this;
    const sampled = Math.min(idlestOf, placed.heaviestCount);
    let idlest = placed.first(client);
    for (let i = 0; i < sampled; i++) {
      const number = placed.first(client);
      const { lastActive } = members[number] as T;
      if (lastActive < (members[idlest] as T).lastActive) idlest = number;
      placed.renew(number);
    }
    return idlest;
  }
}

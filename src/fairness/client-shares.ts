/**
 * Each client's share of a common resource: its members (connections, sessions), by the
 * prefix of their clients. The client with the most members is known at any time, so that it can
 * pay when there is no room. Every call takes constant time. Nothing is allocated after the
 * constructor. Pure: the caller gives the random numbers.
 */

import { PREFIX_WORDS } from "../engine/client-prefix.ts";
import { KeyIndex } from "../engine/key-index.ts";

/** Links are 1 more than the number that they stand for: 0 is the end of a list. */
export class ClientShares {
  private readonly clients: KeyIndex;
  /** By client: its members, the oldest and the newest of them. */
  private readonly counts: Int32Array;
  private readonly oldest: Int32Array;
  private readonly newest: Int32Array;
  /** By client: the next and the previous one with as many members. */
  private readonly nextClient: Int32Array;
  private readonly previousClient: Int32Array;
  /** By number of members: a client with so many. */
  private readonly ranks: Int32Array;
  /** By member: its client, the next and the previous member of that. */
  private readonly clientOf: Int32Array;
  private readonly next: Int32Array;
  private readonly previous: Int32Array;
  private members = 0;
  private most = 0;

  /** For members with numbers below `capacity`; `random` returns any 32-bit number (`KeyIndex`). */
  constructor(capacity: number, random: () => number) {
    this.clients = new KeyIndex(capacity, PREFIX_WORDS, random);
    const [perClient, perMember] = [() => new Int32Array(capacity), () => new Int32Array(capacity)];
    this.counts = perClient();
    this.oldest = perClient();
    this.newest = perClient();
    this.nextClient = perClient();
    this.previousClient = perClient();
    this.ranks = new Int32Array(capacity + 2);
    this.clientOf = perMember();
    this.next = perMember();
    this.previous = perMember();
  }

  /** How many members there are, and clients that have one. */
  get size(): number {
    return this.members;
  }
  get clientCount(): number {
    return this.clients.size;
  }

  /** How many members the client has that has the most. */
  get heaviestCount(): number {
    return this.most;
  }

  /** A client that has the most, -1 if there are no members. */
  get heaviest(): number {
    return (this.ranks[this.most] as number) - 1;
  }

  /** The client with this prefix, -1 if it has no member. */
  find(prefix: Uint32Array): number {
    return this.clients.find(prefix);
  }

  /** How many members a client has, of which -1 has none. */
  count(client: number): number {
    return client < 0 ? 0 : (this.counts[client] as number);
  }

  /** How many members the client with this prefix has. */
  countOf(prefix: Uint32Array): number {
    return this.count(this.find(prefix));
  }

  /** How many members the client of this member has. */
  countWith(member: number): number {
    return this.counts[this.clientOf[member] as number] as number;
  }

  /** The client of this member. */
  client(member: number): number {
    return this.clientOf[member] as number;
  }

  /** Whether a client has more than an even share of `places`, beside others. */
  isAboveShare(client: number, places: number): boolean {
    const count = this.counts[client] as number;
    return this.clientCount > 1 && count > places / this.clientCount;
  }

  /** The oldest member of a client. */
  first(client: number): number {
    return (this.oldest[client] as number) - 1;
  }

  /** The next oldest member of the same client, -1 after the newest. */
  after(member: number): number {
    return (this.next[member] as number) - 1;
  }

  /** Adds `member`, which has no client, to the client with this prefix. */
  add(member: number, prefix: Uint32Array): void {
    let client = this.clients.find(prefix);
    if (client < 0) {
      client = this.clients.insert(prefix);
      this.counts[client] = 0;
      this.oldest[client] = 0;
      this.newest[client] = 0;
    } else this.unrank(client);
    this.counts[client] = (this.counts[client] as number) + 1;
    this.rank(client);
    this.members++;
    this.clientOf[member] = client;
    this.append(member, client);
    if ((this.counts[client] as number) > this.most) this.most = this.counts[client] as number;
  }

  /** Removes `member` from its client. */
  remove(member: number): void {
    const client = this.clientOf[member] as number;
    this.unlink(member, client);
    this.unrank(client);
    this.members--;
    this.counts[client] = (this.counts[client] as number) - 1;
    if (this.counts[client] === 0) this.clients.remove(client);
    else this.rank(client);
    // The client had the most. Now it has one less, and perhaps no client has as many as before.
    if (this.ranks[this.most] === 0 && this.most > 0) this.most--;
  }

  /** Makes `member` the newest of its client. */
  renew(member: number): void {
    const client = this.clientOf[member] as number;
    if (this.newest[client] === member + 1) return;
    this.unlink(member, client);
    this.append(member, client);
  }

  private append(member: number, client: number): void {
    const last = this.newest[client] as number;
    this.next[member] = 0;
    this.previous[member] = last;
    if (last === 0) this.oldest[client] = member + 1;
    else this.next[last - 1] = member + 1;
    this.newest[client] = member + 1;
  }

  private unlink(member: number, client: number): void {
    const before = this.previous[member] as number;
    const behind = this.next[member] as number;
    if (before === 0) this.oldest[client] = behind;
    else this.next[before - 1] = behind;
    if (behind === 0) this.newest[client] = before;
    else this.previous[behind - 1] = before;
  }

  private rank(client: number): void {
    const count = this.counts[client] as number;
    const first = this.ranks[count] as number;
    this.nextClient[client] = first;
    this.previousClient[client] = 0;
    if (first !== 0) this.previousClient[first - 1] = client + 1;
    this.ranks[count] = client + 1;
  }

  private unrank(client: number): void {
    const before = this.previousClient[client] as number;
    const behind = this.nextClient[client] as number;
    if (before === 0) this.ranks[this.counts[client] as number] = behind;
    else this.nextClient[before - 1] = behind;
    if (behind !== 0) this.previousClient[behind - 1] = before;
  }
}

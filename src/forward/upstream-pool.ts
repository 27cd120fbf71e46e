/**
 * The upstreams of one Worker: which one a connection gets, and which ones rest because they keep
 * failing. Pure: time is handed in, and what happens is told to a listener. Each Worker has a pool
 * of its own, so none waits for another; a dead upstream is found out once in each.
 *
 * Every `pick` is followed by one `failed`, or by one `closed` with or without `connected` before.
 * An upstream that fails several times in a row rests. When its rest is over one connection tries
 * it, and the others only if that succeeds; otherwise it rests twice as long, up to a bound.
 *
 * A client can forge an ICMP error about what is sent in its name, and an upstream may refuse it
 * alone. So a failure is evidence of the client in whose name the connection was made: an upstream
 * backs off for all when several clients are witnesses, or our own address is. A failure that one
 * client alone has seen makes the upstream back off for that client (`ClientBackOffs`). The same
 * applies to silence, which is evidence only if other upstreams have answered meanwhile.
 */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import type { Balance } from "../config/syntax.ts";
import {
  upstreamBackOffMs,
  upstreamBackOffMsMax,
  upstreamFailuresMax,
  upstreamsMax,
} from "../engine/limits.ts";
import { ClientBackOffs, type ClientKey, clientKey } from "./client-back-offs.ts";
import { hashBytes, mix } from "./hash.ts";

/** An upstream and what is known of it. Only its pool changes it. */
export interface Upstream {
  readonly address: SocketAddress;
  /** Equal for equal addresses and ports. */
  readonly key: string;
  readonly hash: number;
  /** Connections that have it: connecting or connected. */
  active: number;
  /** Failures in a row. */
  failures: number;
  /** It rests until then; 0: it does not. */
  restsUntil: number;
  /** How long it rests, or rested last. */
  restMs: number;
  lastFailedAt: number;
  /** The connection that tries it after a rest, 0 for none. */
  probe: number;
  /** Clients among the failures in a row, and failures from our own address. */
  readonly witnesses: Set<ClientKey>;
  ownFailures: number;
  /** When it has last been connected, or has answered; and the first sign of silence after that. */
  lastAnsweredAt: number;
  silentSince: number;
}

/** What is to be told: every failure, and each rest once. */
export interface PoolListener {
  fails(upstream: Upstream): void;
  /** It is left alone for `upstream.restMs`; `reason` is that of its last failure. */
  backsOff(upstream: Upstream, reason: string): void;
  /** The same for what comes from `client` alone. */
  backsOffFor(upstream: Upstream, client: Uint8Array, restMs: number, reason: string): void;
  recovered(upstream: Upstream): void;
}

/** For a first attempt, where nothing has been tried. */
export const NONE_TRIED: readonly Upstream[] = [];

export class UpstreamPool {
  private readonly balance: Balance;
  private readonly listener: PoolListener;
  private members: readonly Upstream[] = [];
  /** Whose turn it is: an index of `members`. */
  private turn = 0;
  private readonly clientRests = new ClientBackOffs<Upstream>();

  /** A pool of these addresses; of equal ones, and beyond `upstreamsMax`, the first count. */
  constructor(balance: Balance, addresses: readonly SocketAddress[], listener: PoolListener) {
    this.balance = balance;
    this.listener = listener;
    this.replace(addresses);
  }

  /** From now on these are the upstreams. What is known of those that stay is kept. */
  replace(addresses: readonly SocketAddress[]): void {
    const known = new Map(this.members.map((member) => [member.key, member]));
    const members = new Map<string, Upstream>();
    for (const address of addresses) {
      const key = `${address.address.join(".")}:${address.port}%${address.scopeId}`;
      if (members.size === upstreamsMax && !members.has(key)) break;
      members.set(key, members.get(key) ?? known.get(key) ?? fresh(address, key));
    }
    this.members = [...members.values()];
    this.clientRests.clear();
    this.turn %= Math.max(1, this.members.length);
  }

  /** Whether it is one of the current upstreams. */
  has(upstream: Upstream): boolean {
    return this.members.includes(upstream);
  }

  /**
   * An upstream for connection `id` (not 0) from the address `client`, none of `tried`; undefined
   * when all have been tried. One whose address has `family` bytes, if there is such a one; 0: any.
   * While others can be had it is none that rests; when all rest, the one that failed longest ago.
   */
  pick(
    client: Uint8Array,
    family: number,
    id: number,
    tried: readonly Upstream[],
    now: number,
  ): Upstream | undefined {
    let found = this.find(client, family, tried, now);
    if (found === undefined && family !== 0) found = this.find(client, 0, tried, now);
    if (found === undefined) return undefined;
    found.active++;
    if (found.restsUntil > 0 && found.restsUntil <= now && found.probe === 0) found.probe = id;
    return found;
  }

  /** A connection of `client` has been connected: whatever was wrong with it is over. */
  connected(upstream: Upstream, client: Uint8Array, now: number): void {
    upstream.failures = 0;
    upstream.ownFailures = 0;
    upstream.witnesses.clear();
    upstream.lastAnsweredAt = now;
    upstream.silentSince = Number.POSITIVE_INFINITY;
    this.clientRests.connected(client, upstream);
    if (upstream.restsUntil === 0) return;
    upstream.restsUntil = 0;
    upstream.restMs = 0;
    upstream.probe = 0;
    this.listener.recovered(upstream);
  }

  /**
   * Connection `id` could not be connected, and that is the upstream's doing. `client` is the one
   * in whose name that was tried; undefined: it was from an address of our own.
   */
  failed(
    upstream: Upstream,
    id: number,
    now: number,
    reason: string,
    client: Uint8Array | undefined,
  ): void {
    upstream.active--;
    this.count(upstream, id, now, reason, client);
  }

  /**
   * Session `id` of `client`, begun at `since`, has had no answer for a while; it stays open. That
   * says something of the upstream if another one has answered since, and this one has not.
   */
  silent(upstream: Upstream, id: number, now: number, client: Uint8Array, since: number): void {
    if (upstream.lastAnsweredAt >= since) return;
    upstream.silentSince = Math.min(upstream.silentSince, since);
    const { silentSince } = upstream;
    const isOdd = this.members.some(
      (other) => other !== upstream && other.lastAnsweredAt >= silentSince,
    );
    if (isOdd) this.count(upstream, id, now, "no answer", client);
  }

  private count(
    upstream: Upstream,
    id: number,
    now: number,
    reason: string,
    client: Uint8Array | undefined,
  ): void {
    upstream.failures++;
    upstream.lastFailedAt = now;
    this.listener.fails(upstream);
    const isTrial = upstream.probe === id;
    const isResting = upstream.restsUntil > 0;
    if (client === undefined) upstream.ownFailures++;
    else this.bearWitness(upstream, client, now, reason);
    const evidence = upstream.ownFailures + upstream.witnesses.size;
    // A connection that began before the back-off, or for lack of others, is no news.
    if (isResting ? !isTrial : evidence < upstreamFailuresMax) return;
    upstream.probe = 0;
    upstream.restMs = Math.min(
      Math.max(2 * upstream.restMs, upstreamBackOffMs),
      upstreamBackOffMsMax,
    );
    upstream.restsUntil = now + upstream.restMs;
    this.listener.backsOff(upstream, reason);
  }

  /** Connection `id` is over, connected or given up for a reason that is not the upstream's. */
  closed(upstream: Upstream, id: number): void {
    upstream.active--;
    if (upstream.probe === id) upstream.probe = 0;
  }

  private bearWitness(upstream: Upstream, client: Uint8Array, now: number, reason: string): void {
    const { witnesses } = upstream;
    if (witnesses.size < upstreamFailuresMax) witnesses.add(clientKey(client));
    const restMs = this.clientRests.failed(client, upstream, now);
    if (restMs > 0) this.listener.backsOffFor(upstream, client, restMs, reason);
  }

  private find(
    client: Uint8Array,
    family: number,
    tried: readonly Upstream[],
    now: number,
  ): Upstream | undefined {
    const { members, balance } = this;
    const count = members.length;
    const source = balance === "source-hash" ? hashBytes(client) : 0;
    let best = -1;
    let bestScore = 0;
    let rested: Upstream | undefined;
    const avoided = this.clientRests.of(client);
    for (let i = 0; i < count; i++) {
      const at = (this.turn + i) % count;
      const member = members[at] as Upstream;
      if (family !== 0 && member.address.address.length !== family) continue;
      if (tried.length > 0 && isAmong(tried, member)) continue;
      const rests = member.restsUntil > 0 && (member.restsUntil > now || member.probe !== 0);
      if (rests || (avoided?.get(member)?.restsUntil ?? 0) > now) {
        if (rested === undefined || member.lastFailedAt < rested.lastFailedAt) rested = member;
        continue;
      }
      const score = balance === "source-hash" ? mix(source, member.hash) : -member.active;
      if (best >= 0 && score <= bestScore) continue;
      best = at;
      bestScore = score;
      if (balance === "round-robin") break;
    }
    if (best < 0) return rested;
    this.turn = (best + 1) % count;
    return members[best];
  }
}

function isAmong(tried: readonly Upstream[], { key }: Upstream): boolean {
  for (const one of tried) if (one.key === key) return true;
  return false;
}

function fresh(address: SocketAddress, key: string): Upstream {
  return {
    address,
    key,
    hash: mix(hashBytes(address.address), address.port),
    active: 0,
    failures: 0,
    restsUntil: 0,
    restMs: 0,
    lastFailedAt: 0,
    probe: 0,
    witnesses: new Set(),
    ownFailures: 0,
    lastAnsweredAt: Number.NEGATIVE_INFINITY,
    silentSince: Number.POSITIVE_INFINITY,
  };
}

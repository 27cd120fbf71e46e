/**
 * The choice among the upstreams of a pool that take connections. Pure. Where all have one share,
 * it is made in one pass, in turn; otherwise in proportion to their shares.
 */

import type { Balance } from "../config/syntax.ts";
import { UpstreamState } from "../workers/upstream-board.ts";
import { mix, rendezvousScore } from "./hash.ts";
import type { Upstream } from "./upstream.ts";

/** Among which upstreams, and for whom. One object of a pool, which fills it in for each pick. */
export interface Scope {
  members: readonly Upstream[];
  balance: Balance;
  /** Bytes of the address that is wanted; 0: any. */
  family: number;
  tried: readonly Upstream[];
  /** Those that back off for this client alone. */
  avoided: ReadonlyMap<Upstream, { readonly backsOffUntil: number }> | undefined;
  /** The slot of the client (`clientSlot`), for `source-hash`. */
  source: number;
  /** The index whose turn it is. */
  turn: number;
  now: number;
}

/** The index of the one whose turn it is, from `from` to below `to`; -1: none takes connections. */
export function chooseInTurn(scope: Scope, from: number, to: number): number {
  const { members, balance, source } = scope;
  let best = -1;
  let bestScore = 0;
  let at = scope.turn < to && scope.turn > from ? scope.turn : from;
  for (let left = to - from; left > 0; left--, at = at + 1 === to ? from : at + 1) {
    const member = members[at] as Upstream;
    if (!takes(member, scope)) continue;
    const score = balance === "source-hash" ? mix(source, member.hash) : -member.active;
    if (best >= 0 && score <= bestScore) continue;
    best = at;
    bestScore = score;
    if (balance === "round-robin") break;
  }
  return best;
}

/**
 * The same by shares. `round-robin` is smooth: each earns its share, and the one with the most pays
 * what all have earned (nginx, upstream round robin). `least-connections` compares connections by
 * share, and is smooth among equals. `source-hash` is weighted rendezvous hashing: a client changes
 * its upstream only to one whose share grew, or from one whose share shrank (Schindelhauer and
 * Schomaker, 2005); with equal shares it chooses as `chooseInTurn` does.
 */
export function chooseByShare(scope: Scope, from: number, to: number): number {
  const { members, balance, source } = scope;
  if (balance === "round-robin") return chooseSmoothly(scope, from, to, Number.POSITIVE_INFINITY);
  let best = -1;
  let bestScore = 0;
  for (let at = from; at < to; at++) {
    const member = members[at] as Upstream;
    if (!takes(member, scope)) continue;
    const score =
      balance === "source-hash"
        ? rendezvousScore(source, member.hash, member.share)
        : -member.active / member.share;
    if (best >= 0 && score <= bestScore) continue;
    best = at;
    bestScore = score;
  }
  if (balance === "source-hash" || best < 0) return best;
  return chooseSmoothly(scope, from, to, -bestScore);
}

/** Among those that have at most `load` connections by share. */
function chooseSmoothly(scope: Scope, from: number, to: number, load: number): number {
  const { members } = scope;
  let best = -1;
  let total = 0;
  for (let at = from; at < to; at++) {
    const member = members[at] as Upstream;
    if (!takes(member, scope) || member.active / member.share > load) continue;
    total += member.share;
    member.credit += member.share;
    if (best < 0 || member.credit > (members[best] as Upstream).credit) best = at;
  }
  if (best >= 0) (members[best] as Upstream).credit -= total;
  return best;
}

/** Whether an upstream takes a connection now. */
function takes(member: Upstream, { family, tried, avoided, now }: Scope): boolean {
  if (member.share === 0) return false;
  if (family !== 0 && member.address.address.length !== family) return false;
  if (tried.length > 0 && isAmong(tried, member)) return false;
  const { backsOffUntil, probe } = member;
  if (backsOffUntil > 0 && (backsOffUntil > now || probe !== 0)) return false;
  return avoided === undefined || (avoided.get(member)?.backsOffUntil ?? 0) <= now;
}

/** Of those that are down by a check, or back off, the one for longest. */
export function downLongest({ members, family, tried }: Scope): Upstream | undefined {
  let found: Upstream | undefined;
  let foundSince = 0;
  for (const member of members) {
    const { state, weight, lastFailedAt, downSince } = member;
    // What an administrator has taken out is not tried.
    if (weight === 0 || (state & ~UpstreamState.checkDown) !== 0) continue;
    if (family !== 0 && member.address.address.length !== family) continue;
    if (tried.length > 0 && isAmong(tried, member)) continue;
    const since = state === 0 ? lastFailedAt : Math.max(lastFailedAt, downSince);
    if (found !== undefined && since >= foundSince) continue;
    found = member;
    foundSince = since;
  }
  return found;
}

/** Whether one of `tried` has the same address. */
function isAmong(tried: readonly Upstream[], { key }: Upstream): boolean {
  for (const one of tried) if (one.key === key) return true;
  return false;
}

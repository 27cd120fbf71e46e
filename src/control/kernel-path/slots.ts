/**
 * Which upstream each slot of the kernel path's map leads to. Pure.
 *
 * A rule of the kernel chooses a slot for every new connection, in turn or by a hash of its client,
 * and the map has the slot's upstream. The rule never changes: weights, health, slow start and
 * reloads change what slots lead to, and only slots that have to change do.
 */

import { rendezvousScore } from "../../forward/hash.ts";

/** An upstream that slots may lead to. */
export interface SlotMember {
  /** Equal for equal addresses and ports. */
  readonly key: string;
  /** Its share among the others; 0: it gets no new connections. */
  readonly weight: number;
}

/** By slot, the key of the upstream that it leads to; undefined: nowhere. */
export type Slots = readonly (string | undefined)[];

/**
 * Slots for connections that are spread in turn. Each upstream has its share of them, to less than
 * one slot (and one slot at least, if there are enough), and the slots of one are far apart, so
 * that turns alternate. Of the slots in `previous` as few as possible change.
 */
export function assignSlots(
  members: readonly SlotMember[],
  count: number,
  previous: Slots = [],
): Slots {
  const quotas = quotasOf(members, count);
  const ideal = spread(quotas);
  const deficits = new Map(quotas);
  const slots: (string | undefined)[] = Array.from({ length: count }, (_, i) => previous[i]);
  const surplus = new Map<string, number[]>();
  for (const [i, key] of slots.entries()) {
    const room = key === undefined ? undefined : deficits.get(key);
    if (key === undefined || room === undefined) slots[i] = undefined;
    else surplus.set(key, [...(surplus.get(key) ?? []), i]);
  }
  for (const [key, owned] of surplus) {
    const excess = owned.length - (quotas.get(key) ?? 0);
    deficits.set(key, Math.max(0, -excess));
    for (const i of released(owned, excess, key, ideal)) slots[i] = undefined;
  }
  return filled(slots, ideal, deficits);
}

/**
 * Slots for connections that are spread by a hash of their client: for each slot the upstream with
 * the largest hash of both wins, weighted (rendezvous hashing). So an upstream that goes loses its
 * slots to all others, one that comes takes its own from all, and no other slot changes. Shares
 * differ from the weights as chance has it. `UpstreamPool` of the relay chooses in the same way.
 */
export function hashedSlots(
  members: readonly (SlotMember & { readonly hash: number })[],
  count: number,
): Slots {
  return Array.from({ length: count }, (_, slot) => {
    let best: string | undefined;
    let bestScore = Number.NEGATIVE_INFINITY;
    for (const { key, weight, hash } of members) {
      if (weight <= 0) continue;
      const score = rendezvousScore(slot, hash, weight);
      if (score > bestScore) [best, bestScore] = [key, score];
    }
    return best;
  });
}

/**
 * Weights with which new connections even out what is open, for slots that are assigned anew every
 * few seconds: an approximation of least-connections, since a rule of the kernel cannot count.
 * With them, `expected` more connections bring all as near as possible to open connections in
 * proportion to their weights. An upstream that has too many gets none until then.
 */
export function leastConnectionWeights(
  members: readonly (SlotMember & { readonly open: number })[],
  expected: number,
): SlotMember[] {
  const live = members.filter(({ weight }) => weight > 0);
  // Fill up from below: those that are above the level for all get nothing, and no part in it.
  let filledUp = live;
  let level = 0;
  for (;;) {
    const weights = sum(filledUp.map(({ weight }) => weight));
    level = (sum(filledUp.map(({ open }) => open)) + Math.max(1, expected)) / weights;
    const below = filledUp.filter(({ open, weight }) => open < level * weight);
    if (below.length === filledUp.length || below.length === 0) break;
    filledUp = below;
  }
  return members.map(({ key, weight, open }) => {
    return { key, weight: weight > 0 ? Math.max(0, level * weight - open) : 0 };
  });
}

/** Slots by upstream, in whole numbers: the largest remainders get what is left over. */
function quotasOf(members: readonly SlotMember[], count: number): Map<string, number> {
  const live = members.filter(({ weight }) => weight > 0);
  const weights = sum(live.map(({ weight }) => weight));
  const shares = live.map(({ key, weight }) => ({ key, share: (count * weight) / weights }));
  const least = live.length <= count ? 1 : 0;
  const quotas = new Map(shares.map(({ key, share }) => [key, Math.max(least, Math.floor(share))]));
  const byRemainder = shares.toSorted((a, b) => (b.share % 1) - (a.share % 1));
  const add = (key: string, change: number) => quotas.set(key, (quotas.get(key) ?? 0) + change);
  let left = count - sum([...quotas.values()]);
  for (let i = 0; left > 0 && byRemainder.length > 0; i = (i + 1) % byRemainder.length) {
    const { key, share } = byRemainder[i] as (typeof byRemainder)[number];
    if (share < 1 && least === 1) continue;
    add(key, 1);
    left--;
  }
  // Those that got one instead of less had it from those with the most.
  for (; left < 0; left++) {
    const [key] = [...quotas].reduce((most, each) => (each[1] > most[1] ? each : most));
    add(key, -1);
  }
  return quotas;
}

/** All slots, with those of each upstream as far apart as they can be. */
function spread(quotas: ReadonlyMap<string, number>): string[] {
  const total = sum([...quotas.values()]);
  const turns = [...quotas].map(([key, quota]) => ({ key, quota, credit: 0 }));
  return Array.from({ length: total }, () => {
    for (const turn of turns) turn.credit += turn.quota;
    const next = turns.reduce((most, each) => (each.credit > most.credit ? each : most));
    next.credit -= total;
    return next.key;
  });
}

/**
 * Which `excess` of an upstream's slots it gives away: those that it would not have by itself
 * first, and otherwise some at equal distances.
 */
function released(
  owned: readonly number[],
  excess: number,
  key: string,
  ideal: readonly string[],
): number[] {
  if (excess <= 0) return [];
  const foreign = owned.filter((slot) => ideal[slot] !== key);
  if (foreign.length >= excess) return atDistances(foreign, excess);
  const own = owned.filter((slot) => ideal[slot] === key);
  return [...foreign, ...atDistances(own, excess - foreign.length)];
}

function atDistances(slots: readonly number[], count: number): number[] {
  return Array.from(
    { length: count },
    (_, i) => slots[Math.floor((i * slots.length) / count)] as number,
  );
}

/** The slots with each free one given to an upstream that lacks some. */
function filled(
  slots: readonly (string | undefined)[],
  ideal: readonly string[],
  deficits: Map<string, number>,
): Slots {
  const result = [...slots];
  const take = (slot: number, key: string) => {
    result[slot] = key;
    deficits.set(key, (deficits.get(key) ?? 0) - 1);
  };
  for (const [slot, key] of ideal.entries()) {
    if (result[slot] === undefined && (deficits.get(key) ?? 0) > 0) take(slot, key);
  }
  const rest = spread(new Map([...deficits].filter(([, lack]) => lack > 0)));
  for (const [slot, key] of result.entries()) {
    if (key !== undefined) continue;
    const next = rest.shift();
    if (next !== undefined) take(slot, next);
  }
  return result;
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, each) => total + each, 0);
}

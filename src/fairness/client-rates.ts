/**
 * Limits how fast each client begins something: a token bucket for each prefix, which holds one
 * second of the rate. A client without a bucket counts as one with a full bucket, so the buckets
 * that were quiet longest make room for others. Pure: the caller gives the time.
 */

import { PREFIX_WORDS } from "../engine/client-prefix.ts";

/** Buckets in a set: the least recently used one makes room. */
const WAYS = 4;
/** A power of two. */
const SETS = 4_096;

export class ClientRates {
  private readonly perSecond: number;
  private readonly burst: number;
  private readonly keys: Uint32Array;
  private readonly prefixes = new Uint32Array(SETS * WAYS * PREFIX_WORDS);
  /** By bucket: its tokens at its last use. An unused one is full, with the prefix ::/64. */
  private readonly tokens = new Float64Array(SETS * WAYS);
  private readonly usedAt = new Float64Array(SETS * WAYS);

  /** `perSecond` for one client; `random` returns any 32-bit number. */
  constructor(perSecond: number, random: () => number) {
    this.perSecond = perSecond;
    this.burst = Math.max(1, perSecond);
    this.tokens.fill(this.burst);
    this.keys = Uint32Array.from({ length: PREFIX_WORDS + 1 }, () => random() | 1);
  }

  /** Whether the client with this prefix may begin another one at `now` (ms); counts it if so. */
  take(prefix: Uint32Array, now: number): boolean {
    const bucket = this.find(prefix);
    const { tokens, usedAt, burst, perSecond } = this;
    const passed = Math.max(0, now - (usedAt[bucket] as number)) / 1000;
    const left = Math.min(burst, (tokens[bucket] as number) + passed * perSecond);
    usedAt[bucket] = now;
    tokens[bucket] = left >= 1 ? left - 1 : left;
    return left >= 1;
  }

  private find(prefix: Uint32Array): number {
    const { keys, prefixes, usedAt } = this;
    let hash = keys[PREFIX_WORDS] as number;
    for (let i = 0; i < PREFIX_WORDS; i++) {
      hash = Math.imul(hash ^ (prefix[i] as number), keys[i] as number);
      hash ^= hash >>> 15;
    }
    const first = (hash & (SETS - 1)) * WAYS;
    let quietest = first;
    for (let bucket = first; bucket < first + WAYS; bucket++) {
      if (this.isAt(bucket, prefix)) return bucket;
      if ((usedAt[bucket] as number) < (usedAt[quietest] as number)) quietest = bucket;
    }
    prefixes.set(prefix, quietest * PREFIX_WORDS);
    this.tokens[quietest] = this.burst;
    return quietest;
  }

  private isAt(bucket: number, prefix: Uint32Array): boolean {
    const at = bucket * PREFIX_WORDS;
    for (let i = 0; i < PREFIX_WORDS; i++) if (this.prefixes[at + i] !== prefix[i]) return false;
    return true;
  }
}

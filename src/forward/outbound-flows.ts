/**
 * The flows that all Workers of this process have opened towards upstreams. An accepted connection
 * that is one of them has returned to the proxy that opened it.
 *
 * This is a lock-free hash table of fixed size in shared memory. An entry has two words: the hash
 * of its own end and the hash of both ends. A full bucket overwrites one of its entries, so a flow
 * may be missing; its loop is then detected one round later. The multipliers are random: a look-up
 * of a flow that is not in the table finds one with a probability of some 2^-59; a look-up of one
 * end, with 2^-32 for each entry of its bucket.
 */

import { KEY_WORDS } from "../engine/flow-key.ts";
import { loopRoundsMax, ownFlowsMax } from "../engine/limits.ts";

/** The result of `find` for a flow that begins at an end of ours and goes elsewhere. */
export const OWN_END = -1;

const ENTRY_WORDS = 2;
const BUCKET_WORDS = 8 * ENTRY_WORDS;

/** The words before the entries: random multipliers for the hash of one end and of both. */
const END_WORDS = 5;
const FLOW_WORDS = KEY_WORDS - 1;
const HEADER_WORDS = BUCKET_WORDS;

/** The bits of an entry's second word that count the visits of its flow. */
const ROUNDS = loopRoundsMax;

/** A flowHandle is the place of an entry and, below that, its second word. */
const PLACE = 2 ** 32;

export class OutboundFlows {
  private readonly words: Int32Array;
  private readonly mask: number;
  private readonly protocol: number;

  /**
   * Makes the memory of an empty table, which every Worker gets. `random` returns any 32-bit
   * number: a sender that cannot guess them cannot forge ends that match another flow.
   */
  static memory(random: () => number): SharedArrayBuffer {
    const words = new Int32Array(
      new SharedArrayBuffer((HEADER_WORDS + ownFlowsMax * ENTRY_WORDS) * 4),
    );
    for (let at = 0; at < END_WORDS + FLOW_WORDS; at++) words[at] = random() | 1;
    return words.buffer;
  }

  /**
   * Removes all flows from `memory` after a Worker died, which cannot remove its own. Flows of
   * other Workers are removed too: a loop then goes one more round.
   */
  static clear(memory: SharedArrayBuffer): void {
    new Int32Array(memory).fill(0, HEADER_WORDS);
  }

  /** One protocol's part of the table in `memory`. */
  constructor(memory: SharedArrayBuffer, protocol: "tcp" | "udp") {
    this.words = new Int32Array(memory);
    this.mask = (this.words.length - HEADER_WORDS) / BUCKET_WORDS - 1;
    this.protocol = protocol === "tcp" ? 1 : 2;
  }

  /**
   * Adds a flow of ours: in `key` the client is our own end and the original destination is the
   * upstream. `visits` counts how many times its traffic has passed here, from 1 to
   * `loopRoundsMax`. Returns a handle for `forget`, never 0.
   */
  enter(key: Uint32Array, visits: number): number {
    const { words } = this;
    const end = this.endHash(key);
    const flow = (this.flowHash(key) & ~ROUNDS) | visits;
    const bucket = this.bucketOf(end);
    let at = bucket;
    const after = bucket + BUCKET_WORDS;
    while (at < after && Atomics.compareExchange(words, at, 0, end) !== 0) at += ENTRY_WORDS;
    if (at === after) {
      at = bucket + ((flow >>> 5) % 8) * ENTRY_WORDS;
      Atomics.store(words, at + 1, 0);
      Atomics.store(words, at, end);
    }
    Atomics.store(words, at + 1, flow);
    return at * PLACE + (flow >>> 0);
  }

  /** Removes the entry that `enter` added, unless another flow has overwritten it. */
  forget(flowHandle: number): void {
    const at = Math.floor(flowHandle / PLACE);
    const flow = flowHandle | 0;
    if (Atomics.compareExchange(this.words, at + 1, flow, 0) !== flow) return;
    Atomics.store(this.words, at, 0);
  }

  /**
   * Looks up a flow that has arrived: returns its visits, or 0 if it is not ours. Returns OWN_END
   * if its client is an end of another flow of ours, for example after NAT of the destination.
   */
  find(key: Uint32Array): number {
    const { words } = this;
    const end = this.endHash(key);
    const bucket = this.bucketOf(end);
    let found = 0;
    for (let at = bucket; at < bucket + BUCKET_WORDS; at += ENTRY_WORDS) {
      if (Atomics.load(words, at) !== end) continue;
      const flow = Atomics.load(words, at + 1);
      if (((flow ^ this.flowHash(key)) & ~ROUNDS) === 0) return flow & ROUNDS;
      found = OWN_END;
    }
    return found;
  }

  private bucketOf(end: number): number {
    return HEADER_WORDS + (end & this.mask) * BUCKET_WORDS;
  }

  /** The hash of the client's end, never 0. */
  private endHash(key: Uint32Array): number {
    const { words } = this;
    let hash = this.protocol;
    for (let i = 0; i < 4; i++) hash = step(hash, key[i] as number, words[i] as number);
    // The client's port is the upper half of the word of both.
    const port = (key[8] as number) >>> 16;
    return step(hash, port, words[4] as number) || 1;
  }

  private flowHash(key: Uint32Array): number {
    const { words } = this;
    let hash = this.protocol;
    for (let i = 0; i < FLOW_WORDS; i++) {
      hash = step(hash, key[i] as number, words[END_WORDS + i] as number);
    }
    return hash;
  }
}

function step(hash: number, word: number, multiplier: number): number {
  const product = Math.imul(hash ^ word, multiplier);
  return product ^ (product >>> 15);
}

/**
 * A hash table from keys of a few 32-bit words to numbers: nothing is allocated for a look-up, and
 * nothing for an entry after the constructor. Pure; the random numbers are handed in.
 */

/** Keys of one width, each with a slot from 0 to `capacity - 1` while it is in the table. */
export class KeyIndex {
  readonly capacity: number;
  private readonly width: number;
  /** By slot: its key. */
  private readonly keys: Uint32Array;
  /** By slot, 0 for the end: 1 more than the next slot of the bucket, or of the free list. */
  private readonly next: Int32Array;
  /** By bucket, 0 for none: 1 more than its first slot. */
  private readonly buckets: Int32Array;
  private readonly multipliers: Uint32Array;
  private readonly mask: number;
  private free = 0;
  /** Slots from here on have never been used. */
  private fresh = 0;
  private used = 0;

  /**
   * Room for `capacity` keys of `width` words. `random` returns any 32-bit number: a sender that
   * cannot guess them cannot choose keys (source addresses of a flood) that fall into one bucket.
   */
  constructor(capacity: number, width: number, random: () => number) {
    this.capacity = capacity;
    this.width = width;
    this.keys = new Uint32Array(capacity * width);
    this.next = new Int32Array(capacity);
    let buckets = 16;
    while (buckets < capacity) buckets *= 2;
    this.buckets = new Int32Array(buckets);
    this.mask = buckets - 1;
    this.multipliers = Uint32Array.from({ length: width + 1 }, () => random() | 1);
  }

  /** How many keys are in the table. */
  get size(): number {
    return this.used;
  }

  /** The slot of `key`, -1 if it is not in the table. */
  find(key: Uint32Array): number {
    let link = this.buckets[this.bucketOf(key, 0)] as number;
    while (link !== 0) {
      if (this.isAt(link - 1, key)) return link - 1;
      link = this.next[link - 1] as number;
    }
    return -1;
  }

  /** Puts in a key that is not there; its slot, -1 when the table is full. */
  insert(key: Uint32Array): number {
    let slot: number;
    if (this.free !== 0) {
      slot = this.free - 1;
      this.free = this.next[slot] as number;
    } else if (this.fresh < this.capacity) slot = this.fresh++;
    else return -1;
    const at = slot * this.width;
    for (let i = 0; i < this.width; i++) this.keys[at + i] = key[i] as number;
    const bucket = this.bucketOf(key, 0);
    this.next[slot] = this.buckets[bucket] as number;
    this.buckets[bucket] = slot + 1;
    this.used++;
    return slot;
  }

  /** Takes out the key at `slot`, which is given to another one later. */
  remove(slot: number): void {
    const bucket = this.bucketOf(this.keys, slot * this.width);
    let link = this.buckets[bucket] as number;
    if (link === slot + 1) this.buckets[bucket] = this.next[slot] as number;
    else {
      while (this.next[link - 1] !== slot + 1) link = this.next[link - 1] as number;
      this.next[link - 1] = this.next[slot] as number;
    }
    this.next[slot] = this.free;
    this.free = slot + 1;
    this.used--;
  }

  private isAt(slot: number, key: Uint32Array): boolean {
    const at = slot * this.width;
    for (let i = 0; i < this.width; i++) if (this.keys[at + i] !== key[i]) return false;
    return true;
  }

  private bucketOf(words: Uint32Array, at: number): number {
    const { multipliers, width } = this;
    let hash = multipliers[width] as number;
    for (let i = 0; i < width; i++) {
      hash = Math.imul(hash ^ (words[at + i] as number), multipliers[i] as number);
      hash ^= hash >>> 15;
    }
    return hash & this.mask;
  }
}

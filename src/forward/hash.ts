/** Hashes for spreading load, not for secrets. Pure, and the same in every Worker. */

/** A hash of two numbers, each bit of it from all bits of both: MurmurHash3's finalizer. */
export function mix(a: number, b: number): number {
  let hash = a ^ Math.imul(b, 0x9e3779b1);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/**
 * How well `hash` goes with `source`, both 32 bits: of several the one with the largest score has
 * it, in proportion to the shares (weighted rendezvous hashing). One that goes or comes, or whose
 * share changes, takes from the others or gives to them, and they exchange nothing.
 */
export function rendezvousScore(source: number, hash: number, share: number): number {
  // The logarithm of a number between 0 and 1, neither of them.
  return share / -Math.log((mix(source, hash) + 1) / 0x1_0000_0001);
}

/**
 * The slot that a client's address of 4 or 16 bytes has among `count`, as the kernel computes it
 * for `jhash … mod COUNT seed SEED` (nft_hash.c): the relay and the kernel give it one upstream.
 */
export function clientSlot(address: Uint8Array, count: number, seed: number): number {
  return Math.floor((jhash(address, seed) * count) / 2 ** 32);
}

const rotated = (word: number, by: number) => (word << by) | (word >>> (32 - by));

/** Jenkins' lookup3 of 4 or 16 bytes (include/linux/jhash.h of Linux), 32 bits. */
function jhash(bytes: Uint8Array, seed: number): number {
  const word = (at: number) =>
    (bytes[at] as number) |
    ((bytes[at + 1] as number) << 8) |
    ((bytes[at + 2] as number) << 16) |
    ((bytes[at + 3] as number) << 24);
  let a = (0xdeadbeef + bytes.length + seed) | 0;
  let b = a;
  let c = a;
  let at = 0;
  if (bytes.length === 16) {
    a = (a + word(0)) | 0;
    b = (b + word(4)) | 0;
    c = (c + word(8)) | 0;
    a = ((a - c) ^ rotated(c, 4)) | 0;
    c = (c + b) | 0;
    b = ((b - a) ^ rotated(a, 6)) | 0;
    a = (a + c) | 0;
    c = ((c - b) ^ rotated(b, 8)) | 0;
    b = (b + a) | 0;
    a = ((a - c) ^ rotated(c, 16)) | 0;
    c = (c + b) | 0;
    b = ((b - a) ^ rotated(a, 19)) | 0;
    a = (a + c) | 0;
    c = ((c - b) ^ rotated(b, 4)) | 0;
    b = (b + a) | 0;
    at = 12;
  }
  a = (a + word(at)) | 0;
  c = ((c ^ b) - rotated(b, 14)) | 0;
  a = ((a ^ c) - rotated(c, 11)) | 0;
  b = ((b ^ a) - rotated(a, 25)) | 0;
  c = ((c ^ b) - rotated(b, 16)) | 0;
  a = ((a ^ c) - rotated(c, 4)) | 0;
  b = ((b ^ a) - rotated(a, 14)) | 0;
  c = ((c ^ b) - rotated(b, 24)) | 0;
  return c >>> 0;
}

/** A hash for telling texts and addresses apart, not for secrets. Pure, and the same everywhere. */

/** FNV-1a of some bytes, 32 bits (draft-eastlake-fnv). */
export function hashBytes(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

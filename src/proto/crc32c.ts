/** The reflected form of Castagnoli's polynomial. */
const POLYNOMIAL = 0x82f63b78;

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let remainder = byte;
  for (let bit = 0; bit < 8; bit++) {
    remainder = remainder & 1 ? (remainder >>> 1) ^ POLYNOMIAL : remainder >>> 1;
  }
  return remainder;
});

/** CRC32c (RFC 4960, appendix B) of the pieces one after the other, as an unsigned number. */
export function crc32c(...pieces: readonly Uint8Array[]): number {
  let remainder = 0xffffffff;
  for (const piece of pieces) {
    for (const byte of piece) {
      remainder = (table[(remainder ^ byte) & 0xff] as number) ^ (remainder >>> 8);
    }
  }
  return ~remainder >>> 0;
}

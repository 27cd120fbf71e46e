/** The reflected form of Castagnoli's polynomial. */
const POLYNOMIAL = 0x82f63b78;

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let remainder = byte;
  for (let bit = 0; bit < 8; bit++) {
    remainder = remainder & 1 ? (remainder >>> 1) ^ POLYNOMIAL : remainder >>> 1;
  }
  return remainder;
});

/**
 * CRC32c (RFC 4960, appendix B) of the bytes from `from` to `end`, as an unsigned number. What
 * follows on other bytes is handed their sum as `before`.
 */
export function crc32c(bytes: Uint8Array, from = 0, end = bytes.length, before = 0): number {
  let remainder = ~before;
  for (let i = from; i < end; i++) {
    remainder = (table[(remainder ^ (bytes[i] as number)) & 0xff] as number) ^ (remainder >>> 8);
  }
  return ~remainder >>> 0;
}

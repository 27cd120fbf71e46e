/**
 * The prefix that identifies a client where clients share something: an IPv4 address, or the /64 of
 * an IPv6 one, since the owner of one address of a /64 has them all. Pure.
 */

import type { SocketAddress } from "../../ffi/sockaddr.ts";

/** Words of a prefix: two of the address, and the interface of a link-local one. */
export const PREFIX_WORDS = 3;

/** Instead of an interface: the first word is an IPv4 address. */
export const IPV4_PREFIX = 0xffffffff;

/** Writes the prefix of an address of 4 or 16 bytes. */
export function writePrefix({ address, scopeId }: SocketAddress, prefix: Uint32Array): void {
  const isV4 = address.length === 4;
  prefix[0] = wordAt(address, 0);
  prefix[1] = isV4 ? 0 : wordAt(address, 4);
  prefix[2] = isV4 ? IPV4_PREFIX : scopeId;
}

/** A prefix for each of some numbers. Words are copied: to make a view of an array takes 1 us. */
export class PrefixRows {
  private readonly words: Uint32Array;
  private readonly row = new Uint32Array(PREFIX_WORDS);

  /** For numbers below `capacity`. */
  constructor(capacity: number) {
    this.words = new Uint32Array(capacity * PREFIX_WORDS);
  }

  put(number: number, prefix: Uint32Array): void {
    const at = number * PREFIX_WORDS;
    for (let i = 0; i < PREFIX_WORDS; i++) this.words[at + i] = prefix[i] as number;
  }

  /** The prefix of `number`, valid until the next call. */
  get(number: number): Uint32Array {
    const { row, words } = this;
    const at = number * PREFIX_WORDS;
    for (let i = 0; i < PREFIX_WORDS; i++) row[i] = words[at + i] as number;
    return row;
  }
}

function wordAt(bytes: Uint8Array, at: number): number {
  const high = ((bytes[at] as number) << 24) | ((bytes[at + 1] as number) << 16);
  return (high | ((bytes[at + 2] as number) << 8) | (bytes[at + 3] as number)) >>> 0;
}

/**
 * The key of a flow, a client and the destination that it asked for: 32-bit words read straight
 * from the kernel's structures, in its byte order. IPv4 addresses are in their mapped form, so that
 * keys from AF_INET and AF_INET6 sockets are equal. Pure.
 *
 * With a PROXY header the key has two halves: the ends that the header names, and the ends of the
 * datagram that carried it, since a sender's socket may carry many clients.
 */

import { AF_INET, AF_INET6 } from "../../ffi/constants.ts";
import { sockaddr_in, sockaddr_in6 } from "../../ffi/layout.ts";
import { encodeSockaddr, type SocketAddress } from "../../ffi/sockaddr.ts";
import { IPV4_PREFIX } from "./client-prefix.ts";

/** Words of a key: two addresses of 4 words, both ports, and an interface. */
export const KEY_WORDS = 10;

const ORIGINAL = 4;
const PORTS = 8;
const SCOPE = 9;

const V4_ADDRESS = sockaddr_in.sin_addr / 4;
const V6_ADDRESS = sockaddr_in6.sin6_addr / 4;
const V6_SCOPE = sockaddr_in6.sin6_scope_id / 4;

/** The third word of `::ffff:a.b.c.d` in memory. */
const MAPPED = 0xffff0000;

/** Words of a key whose ends come from a header. */
export const PROXIED_KEY_WORDS = 2 * KEY_WORDS;

/** Four words of address at word `at` of `key`; false for another family. */
function readAddress(words: Uint32Array, from: number, key: Uint32Array, at: number): boolean {
  const family = (words[from] as number) & 0xffff;
  if (family === AF_INET) {
    key[at] = 0;
    key[at + 1] = 0;
    key[at + 2] = MAPPED;
    key[at + 3] = words[from + V4_ADDRESS] as number;
    return true;
  }
  for (let i = 0; i < 4; i++) key[at + i] = words[from + V6_ADDRESS + i] as number;
  return family === AF_INET6;
}

/**
 * Writes the key of a datagram or connection: the socket address of its client begins at word
 * `nameAt` of `names`, its original destination at word `destinationAt` of `controls`. False if one
 * of them is no IP address.
 */
export function readKey(
  names: Uint32Array,
  nameAt: number,
  controls: Uint32Array,
  destinationAt: number,
  key: Uint32Array,
): boolean {
  if (!readAddress(names, nameAt, key, 0)) return false;
  if (!readAddress(controls, destinationAt, key, ORIGINAL)) return false;
  const clientPort = (names[nameAt] as number) >>> 16;
  const originalPort = (controls[destinationAt] as number) >>> 16;
  key[PORTS] = (clientPort << 16) | originalPort;
  // Only a link-local address has an interface; the kernel writes 0 for others.
  const isV6 = ((names[nameAt] as number) & 0xffff) === AF_INET6;
  key[SCOPE] = isV6 ? (names[nameAt + V6_SCOPE] as number) : 0;
  return true;
}

/**
 * Writes the two ends of a header: two addresses of `bytes` (4 or 16) each, one after the
 * other from word `at` of `words` on, then both ports.
 */
export function readEnds(words: Uint32Array, at: number, bytes: 4 | 16, key: Uint32Array): void {
  const size = bytes / 4;
  for (let end = 0; end <= ORIGINAL; end += ORIGINAL) {
    key[end] = 0;
    key[end + 1] = 0;
    key[end + 2] = MAPPED;
    const from = at + (end === 0 ? 0 : size);
    for (let i = 0; i < size; i++) key[end + 4 - size + i] = words[from + i] as number;
  }
  const ports = words[at + 2 * size] as number;
  key[PORTS] = (ports << 16) | (ports >>> 16);
  key[SCOPE] = 0;
}

const scratch = new DataView(new ArrayBuffer(2 * sockaddr_in6.size));
const scratchWords = new Uint32Array(scratch.buffer);

/** Writes these two ends. */
export function writeEnds(client: SocketAddress, original: SocketAddress, key: Uint32Array): void {
  encodeSockaddr(scratch, 0, client.address, client.port, client.scopeId);
  encodeSockaddr(scratch, sockaddr_in6.size, original.address, original.port);
  readKey(scratchWords, 0, scratchWords, sockaddr_in6.size / 4, key);
}

/** Scratch space for one address. Copies from it share no ArrayBuffer, which would cost more. */
const addressWords = new Uint32Array(4);
const addressBytes = new Uint8Array(addressWords.buffer);

/** The client of this key. */
export function clientOfKey(key: Uint32Array): SocketAddress {
  return addressOf(key, 0, (key[PORTS] as number) >>> 16);
}

/** The original destination of this key. */
export function originalOfKey(key: Uint32Array): SocketAddress {
  return addressOf(key, ORIGINAL, (key[PORTS] as number) & 0xffff);
}

/** Writes the prefix of this key's client (`writePrefix`, in the kernel's byte order). */
export function prefixOfKey(key: Uint32Array, prefix: Uint32Array): void {
  const isV4 = isMappedKey(key, 0);
  prefix[0] = key[isV4 ? 3 : 0] as number;
  prefix[1] = isV4 ? 0 : (key[1] as number);
  prefix[2] = isV4 ? IPV4_PREFIX : (key[SCOPE] as number);
}

/** Whether the address at word `at` of a key is an IPv4 one. */
export function isMappedKey(key: Uint32Array, at: number): boolean {
  return key[at] === 0 && key[at + 1] === 0 && key[at + 2] === MAPPED;
}

/** Whether the address at word `at` of a key is of fe80::/10. */
function isLinkLocal(key: Uint32Array, at: number): boolean {
  return ((key[at] as number) & 0xc0ff) === 0x80fe;
}

/** `port` is in network order. */
function addressOf(key: Uint32Array, at: number, port: number): SocketAddress {
  for (let i = 0; i < 4; i++) addressWords[i] = key[at + i] as number;
  return {
    address: addressBytes.slice(isMappedKey(key, at) ? 12 : 0),
    port: ((port & 0xff) << 8) | (port >>> 8),
    scopeId: isLinkLocal(key, at) ? (key[SCOPE] as number) : 0,
  };
}

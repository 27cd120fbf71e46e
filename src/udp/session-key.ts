/**
 * The key of a session, as `SessionTable` compares it: 32-bit words read straight from what the
 * kernel has written, in its byte order. IPv4 addresses are in their IPv4-mapped form, so that it
 * does not matter whether a socket of one or of both families has received the datagram. Pure.
 */

import { AF_INET, AF_INET6 } from "../../ffi/constants.ts";
import { sockaddr_in, sockaddr_in6 } from "../../ffi/layout.ts";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { KEY_WORDS } from "./session-table.ts";

const ORIGINAL = 4;
const PORTS = 8;
const SCOPE = 9;

const V4_ADDRESS = sockaddr_in.sin_addr / 4;
const V6_ADDRESS = sockaddr_in6.sin6_addr / 4;
const V6_SCOPE = sockaddr_in6.sin6_scope_id / 4;

/** The third word of `::ffff:a.b.c.d` in memory. */
const MAPPED = 0xffff0000;

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
 * Writes the key of a datagram: the socket address of its sender begins at word `nameAt` of
 * `names`, its original destination at word `destinationAt` of `controls`. False if one of them is
 * no IP address.
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
  // Only a link-local address needs its interface; the kernel says 0 for others.
  const isV6 = ((names[nameAt] as number) & 0xffff) === AF_INET6;
  key[SCOPE] = isV6 ? (names[nameAt + V6_SCOPE] as number) : 0;
  return true;
}

/** Who sent the datagrams of this key. */
export function clientOfKey(key: Uint32Array): SocketAddress {
  return addressOf(key, 0, (key[PORTS] as number) >>> 16);
}

/** Where they were sent to. */
export function originalOfKey(key: Uint32Array): SocketAddress {
  return addressOf(key, ORIGINAL, (key[PORTS] as number) & 0xffff);
}

/** `port` is in network order. */
function addressOf(key: Uint32Array, at: number, port: number): SocketAddress {
  const bytes = new Uint8Array(key.slice(0, KEY_WORDS).buffer, at * 4, 16);
  const isMapped = key[at] === 0 && key[at + 1] === 0 && key[at + 2] === MAPPED;
  return {
    address: bytes.slice(isMapped ? 12 : 0),
    port: ((port & 0xff) << 8) | (port >>> 8),
    scopeId: isMapped ? 0 : (key[SCOPE] as number),
  };
}

/** Addresses in their text form, for tests. */

import ipaddr from "ipaddr.js";

/** The 4 or 16 bytes of an address. */
export function ip(text: string): Uint8Array {
  return Uint8Array.from(ipaddr.parse(text).toByteArray());
}

/** An address and prefix length, as in `10.0.0.0/8`. */
export function prefix(text: string): { address: Uint8Array; length: number } {
  const [address, length] = ipaddr.parseCIDR(text);
  return { address: Uint8Array.from(address.toByteArray()), length };
}

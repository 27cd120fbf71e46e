/** Classifies an address of 4 or 16 bytes. Pure. */

/** 0.0.0.0 and ::, which stand for no address or for all. */
export function isUnspecified(address: Uint8Array): boolean {
  for (let i = 0; i < address.length; i++) if (address[i] !== 0) return false;
  return true;
}

/** 224.0.0.0/4, 255.255.255.255 and ff00::/8: addresses that nobody sends from. */
export function isMulticast(address: Uint8Array): boolean {
  const first = address[0] as number;
  if (address.length === 16) return first === 0xff;
  return (first >= 224 && first < 240) || address.every((byte) => byte === 255);
}

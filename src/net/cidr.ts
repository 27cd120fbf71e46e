import { type Address, type Family, formatBytes, parseAddress } from "./address.ts";
import { ok, type Parsed, quote, refuse } from "./result.ts";

/** An IP network: all addresses whose first `prefix` bits are those of `bytes`. */
export interface Cidr {
  readonly family: Family;
  /** 4 or 16 bytes, network order; every bit after the prefix is 0. */
  readonly bytes: Uint8Array;
  /** 0 to 32, or 0 to 128. */
  readonly prefix: number;
}

/** The number of bits in an address of a family. */
export function addressBits(family: Family): 32 | 128 {
  return family === 4 ? 32 : 128;
}

/**
 * Parses `ADDRESS/PREFIX`, or a lone address, which is the network of that host alone. Bits set
 * after the prefix are refused: `10.0.0.1/8` is either a typing error or a misunderstanding.
 */
export function parseCidr(text: string): Parsed<Cidr> {
  const plain = plainNetwork(text);
  if (plain !== undefined) return ok(plain);
  const slash = text.indexOf("/");
  const address = parseAddress(slash < 0 ? text : text.slice(0, slash));
  if (!address.ok) {
    return refuse(
      `${quote(text)} is not a network: give an address, "192.0.2.1" or "2001:db8::1", ` +
        `or ADDRESS/PREFIX, "192.0.2.0/24" or "2001:db8::/32"`,
    );
  }
  const { family, bytes } = address.value;
  const bits = addressBits(family);
  if (slash < 0) return ok({ family, bytes, prefix: bits });
  const prefixText = text.slice(slash + 1);
  if (!/^(0|[1-9][0-9]{0,2})$/.test(prefixText) || Number(prefixText) > bits) {
    return refuse(
      `${quote(text)} is not a network: the prefix of an IPv${family} network is a number ` +
        `from 0 to ${bits}`,
    );
  }
  const prefix = Number(prefixText);
  if (hasHostBits(bytes, prefix)) {
    const network = networkOf(address.value, prefix);
    return refuse(
      `${quote(text)} has bits set after its prefix: give ${quote(formatCidr(network))} for the ` +
        `network, or ${quote(formatBytes(bytes))} for the one address`,
    );
  }
  return ok({ family, bytes, prefix });
}

const ZERO = 0x30;
const DOT = 0x2e;
const SLASH = 0x2f;

/**
 * A network of IPv4 that is written as it should be, in one pass: lists have 200,000 of them.
 * Undefined for all else.
 */
function plainNetwork(text: string): Cidr | undefined {
  let address = 0;
  let parts = 0;
  let number = 0;
  let digits = 0;
  let isPrefix = false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === DOT || code === SLASH) {
      const isDue = code === DOT ? parts < 3 : parts === 3;
      if (digits === 0 || isPrefix || !isDue) return undefined;
      address = address * 256 + number;
      parts++;
      isPrefix = code === SLASH;
      number = 0;
      digits = 0;
      continue;
    }
    const digit = code - ZERO;
    if (digit < 0 || digit > 9 || (digits > 0 && number === 0)) return undefined;
    number = number * 10 + digit;
    digits++;
    if (number > (isPrefix ? 32 : 255)) return undefined;
  }
  if (digits === 0 || parts < 3) return undefined;
  if (!isPrefix) address = address * 256 + number;
  const prefix = isPrefix ? number : 32;
  if (address % 2 ** (32 - prefix) !== 0) return undefined;
  const bytes = new Uint8Array(4);
  for (let i = 3; i >= 0; i--) {
    bytes[i] = address;
    address = Math.floor(address / 256);
  }
  return { family: 4, bytes, prefix };
}

/** Whether any bit behind the prefix is set. */
export function hasHostBits(bytes: Uint8Array, prefix: number): boolean {
  for (let i = prefix >> 3; i < bytes.length; i++) {
    if (((bytes[i] as number) & (0xff >> Math.max(prefix - i * 8, 0))) !== 0) return true;
  }
  return false;
}

/** The network of `prefix` bits that an address is in. */
export function networkOf(address: Address, prefix: number): Cidr {
  const bytes = address.bytes.map((byte, i) => byte & (0xff00 >> clamp(prefix - i * 8, 0, 8)));
  return { family: address.family, bytes, prefix };
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(Math.max(value, low), high);
}

/** The canonical text: `192.0.2.0/24`, and without a prefix for a single address. */
export function formatCidr(cidr: Cidr): string {
  const address = formatBytes(cidr.bytes);
  return cidr.prefix === addressBits(cidr.family) ? address : `${address}/${cidr.prefix}`;
}

/** Whether an address, or the whole of another network, lies inside a network. */
export function cidrContains(cidr: Cidr, inner: Address | Cidr): boolean {
  if (cidr.family !== inner.family) return false;
  const innerPrefix = "prefix" in inner ? inner.prefix : addressBits(inner.family);
  if (innerPrefix < cidr.prefix) return false;
  for (let i = 0; i * 8 < cidr.prefix; i++) {
    const differing = (cidr.bytes[i] as number) ^ (inner.bytes[i] as number);
    if ((differing & (0xff00 >> clamp(cidr.prefix - i * 8, 0, 8)) & 0xff) !== 0) return false;
  }
  return true;
}

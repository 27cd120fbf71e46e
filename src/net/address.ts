import ipaddr from "ipaddr.js";
import { interfaceName } from "./interface.ts";
import { ok, type Parsed, quote, refuse } from "./result.ts";

/** An IP version. */
export type Family = 4 | 6;

/** An IP address. */
export interface Address {
  readonly family: Family;
  /** 4 or 16 bytes, network order. */
  readonly bytes: Uint8Array;
  /** The interface of a link-local IPv6 address (`fe80::1%eth0`), where one was given. */
  readonly zone?: string;
}

const dottedTail = /(^|:)([0-9]+\.[0-9.]*)$/;

/**
 * Parses an IPv4 address of four decimal parts or an IPv6 address in any form of RFC 4291.
 * Refuses the other spellings of inet_aton(3) (`1`, `1.2.3`, `010.1.1.1`, `0x7f.1`), which read
 * differently from program to program. A zone (RFC 4007) is accepted only with `zone: true`.
 */
export function parseAddress(text: string, options: { zone?: boolean } = {}): Parsed<Address> {
  const percent = text.indexOf("%");
  if (percent >= 0) return options.zone === true ? parseZoned(text, percent) : refused(text);
  if (!text.includes(":")) {
    const bytes = dottedBytes(text);
    return bytes === undefined ? refused(text) : ok({ family: 4, bytes });
  }
  // ipaddr.js takes ::1.2.3.4 for ::ffff:1.2.3.4 and allows leading zeros in the dotted part, so
  // that part goes in as two groups of hexadecimal digits.
  const tail = dottedTail.exec(text)?.[2];
  const embedded = tail === undefined ? undefined : dottedBytes(tail);
  if (embedded === undefined && text.includes(".")) return refused(text);
  const groups =
    tail === undefined || embedded === undefined
      ? text
      : text.slice(0, -tail.length) + dottedGroups(embedded);
  if (!ipaddr.IPv6.isValid(groups)) return refused(text);
  return ok({ family: 6, bytes: Uint8Array.from(ipaddr.IPv6.parse(groups).toByteArray()) });
}

function parseZoned(text: string, percent: number): Parsed<Address> {
  const zone = text.slice(percent + 1);
  const address = parseAddress(text.slice(0, percent));
  if (!address.ok || address.value.family !== 6 || !interfaceName.test(zone)) return refused(text);
  return ok({ ...address.value, zone });
}

function refused(text: string) {
  return refuse(
    `${quote(text)} is not an IP address: give IPv4 as four decimal numbers, "192.0.2.1", ` +
      `or IPv6, "2001:db8::1"`,
  );
}

const DOT = 0x2e;
const ZERO = 0x30;

/**
 * The bytes of four decimal numbers from 0 to 255 without leading zeros, or undefined. By hand:
 * lists have 200,000 of them.
 */
function dottedBytes(text: string): Uint8Array | undefined {
  const bytes = new Uint8Array(4);
  let part = 0;
  let digits = 0;
  let value = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    const digit = code - ZERO;
    if (code === DOT) {
      if (digits === 0 || part === 3) return undefined;
      bytes[part++] = value;
      digits = 0;
      value = 0;
    } else {
      const isDigit = digit >= 0 && digit <= 9;
      value = value * 10 + digit;
      if (!isDigit || value > 255 || (digits > 0 && value < 10)) return undefined;
      digits++;
    }
  }
  if (part !== 3 || digits === 0) return undefined;
  bytes[3] = value;
  return bytes;
}

function dottedGroups([a = 0, b = 0, c = 0, d = 0]: Uint8Array): string {
  return `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
}

/** The canonical text of an address: dotted decimal, or RFC 5952 for IPv6, with its zone if any. */
export function formatAddress(address: Address): string {
  const text = formatBytes(address.bytes);
  return address.zone === undefined ? text : `${text}%${address.zone}`;
}

/**
 * The canonical text of an address given as 4 or 16 bytes in network order, as inet_ntop(3)
 * writes it: RFC 5952, with the last four bytes of an IPv4-mapped address in decimal.
 */
export function formatBytes(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join(".");
  const groups: number[] = [];
  for (let i = 0; i < 16; i += 2) {
    groups.push(((bytes[i] as number) << 8) | (bytes[i + 1] as number));
  }
  const mapped = groups[5] === 0xffff && groups.slice(0, 5).every((group) => group === 0);
  if (mapped) return `::ffff:${bytes.subarray(12).join(".")}`;
  const hex = (part: number[]) => part.map((group) => group.toString(16)).join(":");
  const { start, length } = longestZeroRun(groups);
  if (length < 2) return hex(groups);
  return `${hex(groups.slice(0, start))}::${hex(groups.slice(start + length))}`;
}

function longestZeroRun(groups: readonly number[]): { start: number; length: number } {
  let best = { start: 0, length: 0 };
  let length = 0;
  for (const [i, group] of groups.entries()) {
    length = group === 0 ? length + 1 : 0;
    if (length > best.length) best = { start: i - length + 1, length };
  }
  return best;
}

/** Whether an address is of the host that looks: 127.0.0.0/8 or ::1. */
export function isLoopback({ family, bytes }: Address): boolean {
  if (family === 4) return bytes[0] === 127;
  return bytes.every((byte, i) => byte === (i === 15 ? 1 : 0));
}

/** 127.0.0.1 or ::1. */
export function loopbackOf(family: Family): Address {
  if (family === 4) return { family, bytes: Uint8Array.of(127, 0, 0, 1) };
  return { family, bytes: Uint8Array.from({ length: 16 }, (_, i) => (i === 15 ? 1 : 0)) };
}

/** Lists of networks: the fewest networks, and the fewest ranges, that cover the same addresses. */

import { isNext } from "../../../ffi/netlink/nftables/set.ts";
import type { Family } from "../../net/address.ts";
import { formatBytes } from "../../net/address.ts";
import { addressBits, type Cidr, cidrContains, formatCidr, networkOf } from "../../net/cidr.ts";

/** First and last address of a range, both within; 4 or 16 bytes in network order. */
export interface AddressRange {
  readonly first: Uint8Array;
  readonly last: Uint8Array;
}

/**
 * The networks of one family, ascending, each once, none inside another and no two that are the
 * halves of one. Every address is the one network of prefix 0.
 */
export function aggregate(networks: readonly Cidr[], family: Family): readonly Cidr[] {
  const kept: Cidr[] = [];
  for (const network of sorted(networks.filter((each) => each.family === family))) {
    const last = kept[kept.length - 1];
    if (last !== undefined && cidrContains(last, network)) continue;
    kept.push(network);
    joinHalves(kept);
  }
  return kept;
}

/** Long lists have mostly been sorted before. */
function sorted(networks: Cidr[]): Cidr[] {
  for (let i = 1; i < networks.length; i++) {
    if (order(networks[i - 1] as Cidr, networks[i] as Cidr) > 0) return networks.sort(order);
  }
  return networks;
}

function order(a: Cidr, b: Cidr): number {
  for (let i = 0; i < a.bytes.length; i++) {
    const difference = (a.bytes[i] as number) - (b.bytes[i] as number);
    if (difference !== 0) return difference;
  }
  return a.prefix - b.prefix;
}

/** Replaces the last two by the network that they are the halves of, as long as they are. */
function joinHalves(networks: Cidr[]): void {
  for (;;) {
    const low = networks[networks.length - 2];
    const high = networks[networks.length - 1];
    if (low === undefined || high === undefined || !areHalves(low, high)) return;
    networks.splice(-2, 2, networkOf(low, low.prefix - 1));
  }
}

/** Whether two networks, the lower one first, differ in the last bit of their prefix alone. */
function areHalves(low: Cidr, high: Cidr): boolean {
  if (low.prefix !== high.prefix || low.prefix === 0) return false;
  const at = (low.prefix - 1) >> 3;
  for (let i = at; i >= 0; i--) {
    const bit = i === at ? 1 << (7 - ((low.prefix - 1) & 7)) : 0;
    if (((low.bytes[i] as number) ^ (high.bytes[i] as number)) !== bit) return false;
  }
  return true;
}

/** Networks that `aggregate` has made, as ranges that do not touch: an interval set's elements. */
export function rangesOf(networks: readonly Cidr[]): readonly AddressRange[] {
  const ranges: AddressRange[] = [];
  for (const { bytes, prefix } of networks) {
    const last = bytes.slice();
    for (let i = prefix >> 3; i < last.length; i++) {
      last[i] = (last[i] as number) | (0xff >> Math.max(prefix - 8 * i, 0));
    }
    const previous = ranges.at(-1);
    if (previous !== undefined && isNext(previous.last, bytes)) {
      ranges[ranges.length - 1] = { first: previous.first, last };
    } else {
      ranges.push({ first: bytes, last });
    }
  }
  return ranges;
}

/** The text of a range as nft(8) takes it: `192.0.2.0/24`, or `192.0.2.1-192.0.2.2`. */
export function formatRange({ first, last }: AddressRange): string {
  const family = first.length === 4 ? 4 : 6;
  const size = numberOf(last) - numberOf(first) + 1n;
  const hostBits = size.toString(2).length - 1;
  const network = { family, bytes: first, prefix: addressBits(family) - hostBits } as const;
  const isNetwork = size === 1n << BigInt(hostBits) && numberOf(first) % size === 0n;
  return isNetwork ? formatCidr(network) : `${formatBytes(first)}-${formatBytes(last)}`;
}

function numberOf(bytes: Uint8Array): bigint {
  return BigInt(`0x${bytes.toHex()}`);
}

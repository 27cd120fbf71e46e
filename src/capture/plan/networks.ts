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
  for (const network of networks.filter((each) => each.family === family).sort(order)) {
    const last = kept.at(-1);
    if (last !== undefined && cidrContains(last, network)) continue;
    kept.push(network);
    joinHalves(kept);
  }
  return kept;
}

function order(a: Cidr, b: Cidr): number {
  return Buffer.compare(a.bytes, b.bytes) || a.prefix - b.prefix;
}

/** Replaces the last two by the network that they are the halves of, as long as they are. */
function joinHalves(networks: Cidr[]): void {
  for (;;) {
    const low = networks.at(-2);
    const high = networks.at(-1);
    if (low === undefined || high === undefined || low.prefix !== high.prefix) return;
    const prefix = low.prefix - 1;
    if (!cidrContains({ ...low, prefix }, high)) return;
    networks.splice(-2, 2, networkOf(low, prefix));
  }
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

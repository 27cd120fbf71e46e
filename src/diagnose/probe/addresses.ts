/** Addresses for a probe's cable that nobody here knows. Pure. */

import type { Address, Family } from "../../net/address.ts";
import { type Cidr, cidrContains, networkOf } from "../../net/cidr.ts";
import type { PolicyTables } from "../policy.ts";

/** Both ends of the cable, and the length of the prefix that they share. */
export interface ProbeAddresses {
  readonly host: Address;
  readonly client: Address;
  readonly prefixLength: number;
}

const attemptsMax = 64;

/**
 * Two addresses of 198.18.0.0/15 (RFC 2544, for tests of networks) or of an fd74:… network
 * (RFC 4193): the first pair of which no route but a default one says anything, and which is not
 * that of the destination. Undefined if all that were tried are taken.
 */
export function chooseAddresses(
  { routes, rules }: PolicyTables,
  destination: Address,
): ProbeAddresses | undefined {
  const { family } = destination;
  const taken = [...routes, ...rules].flatMap(({ destination: to, source }) => [to, source]);
  const known = taken.flatMap((prefix): Cidr[] => {
    if (prefix === undefined || prefix.length === 0) return [];
    return [{ family, bytes: prefix.address, prefix: prefix.length }];
  });
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    const pair = pairOf(family, attempt);
    const network = networkOf(pair.host, pair.prefixLength);
    const isFree = known.every(
      (each) => !cidrContains(each, network) && !cidrContains(network, each),
    );
    if (isFree && !cidrContains(network, destination)) return pair;
  }
  return undefined;
}

function pairOf(family: Family, attempt: number): ProbeAddresses {
  if (family === 4) {
    const end = (last: number): Address => ({
      family,
      bytes: Uint8Array.of(198, 19, 255 - attempt, 252 + last),
    });
    return { host: end(1), client: end(2), prefixLength: 30 };
  }
  const end = (last: number): Address => ({
    family,
    bytes: Uint8Array.of(
      0xfd,
      0x74,
      0x70,
      0x72,
      0x6f,
      0x78,
      0x79,
      attempt,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      last,
    ),
  });
  return { host: end(1), client: end(2), prefixLength: 64 };
}

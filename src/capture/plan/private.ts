/** The networks that `--bypass-private` leaves alone. */

import { type Cidr, parseCidr } from "../../net/cidr.ts";

/**
 * Networks outside the public Internet, by the registries of RFC 6890. Documentation networks
 * (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32) are not in it: nobody has them.
 */
const table: readonly (readonly [network: string, rfc: number, what: string])[] = [
  ["0.0.0.0/8", 1122, "this network"],
  ["10.0.0.0/8", 1918, "private"],
  ["100.64.0.0/10", 6598, "shared, behind a carrier's NAT"],
  ["127.0.0.0/8", 1122, "loopback"],
  ["169.254.0.0/16", 3927, "link-local"],
  ["172.16.0.0/12", 1918, "private"],
  ["192.0.0.0/24", 6890, "protocol assignments"],
  ["192.168.0.0/16", 1918, "private"],
  ["198.18.0.0/15", 2544, "benchmarks"],
  ["224.0.0.0/4", 5771, "multicast"],
  ["240.0.0.0/4", 1112, "reserved, and the limited broadcast (RFC 8190)"],
  ["::/128", 4291, "unspecified"],
  ["::1/128", 4291, "loopback"],
  ["100::/64", 6666, "discarded"],
  ["fc00::/7", 4193, "unique local"],
  ["fe80::/10", 4291, "link-local"],
  ["ff00::/8", 4291, "multicast"],
];

/** The table's networks. */
export const privateNetworks: readonly Cidr[] = table.map(([text]) => {
  const parsed = parseCidr(text);
  if (!parsed.ok) throw new Error(parsed.error);
  return parsed.value;
});

/** Endpoints that a user gave, as socket addresses: defaults, zones and names resolved. */

import { lookup } from "node:dns/promises";
import { readFileSync } from "node:fs";
import type { SocketAddress } from "../../ffi/sockaddr.ts";
import { type Address, formatAddress, parseAddress } from "../net/address.ts";
import type { Endpoint } from "../net/endpoint.ts";
import { quote } from "../net/result.ts";
import { formatTarget, type Target } from "../net/target.ts";
import { CommandError, UsageError } from "./failure.ts";

const ANY: Address = { family: 4, bytes: new Uint8Array(4) };

/** Where to bind for `endpoint`; without an address it is 0.0.0.0, as in the seed. */
export function bindAddress(endpoint: Endpoint): SocketAddress {
  return toSocketAddress(endpoint.address ?? ANY, endpoint.port);
}

/**
 * The socket address of a target of the same family as `local`. A name is looked up.
 * @throws UsageError for an address of the other family, CommandError for a name without one.
 */
export async function resolveTarget(
  target: Target,
  local: Pick<Endpoint, "address">,
): Promise<SocketAddress> {
  const family = local.address?.family;
  if (typeof target.host === "string") {
    const address = await resolveName(target.host, family);
    return toSocketAddress(address, target.port);
  }
  if (family !== undefined && target.host.family !== family) {
    const own = formatAddress(local.address as Address);
    throw new UsageError(
      `--to ${quote(formatTarget(target))} is IPv${target.host.family} and ${quote(own)} is ` +
        `IPv${family}: give two addresses of one family`,
    );
  }
  return toSocketAddress(target.host, target.port);
}

async function resolveName(name: string, family: 4 | 6 | undefined): Promise<Address> {
  try {
    const found = await lookup(name, { family: family ?? 0 });
    const address = parseAddress(found.address);
    if (address.ok) return address.value;
  } catch {
    // Said below, in the words of the user.
  }
  const wanted = family === undefined ? "" : `IPv${family} `;
  throw new CommandError(`--to: the name ${quote(name)} has no ${wanted}address`);
}

/** An address as the kernel takes it. @throws CommandError for a zone that is no interface */
export function toSocketAddress(address: Address, port: number): SocketAddress {
  return { address: address.bytes, port, scopeId: scopeOf(address) };
}

/** The interface index of a zone (`%eth0`, `%2`), 0 without one. */
function scopeOf(address: Address): number {
  const { zone } = address;
  if (zone === undefined) return 0;
  try {
    return Number(readFileSync(`/sys/class/net/${zone}/ifindex`, "latin1"));
  } catch {
    if (/^[0-9]+$/.test(zone)) return Number(zone);
    throw new CommandError(
      `there is no interface ${quote(zone)}, as ${quote(formatAddress(address))} says`,
    );
  }
}

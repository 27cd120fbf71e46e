/** Endpoints that a user gave, as socket addresses: defaults, zones and names resolved. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import type { Mark } from "../../ffi/types.ts";
import { CommandError, UsageError } from "../errors.ts";
import { type Address, formatAddress } from "../net/address.ts";
import type { Endpoint } from "../net/endpoint.ts";
import { quote } from "../net/result.ts";
import { formatTarget, type Target } from "../net/target.ts";
import { lookUp, scopeOf } from "./look-up.ts";

const ANY: Address = { family: 4, bytes: new Uint8Array(4) };

/** Where to bind for `endpoint`; without an address it is 0.0.0.0, as in the seed. */
export function bindAddress(endpoint: Endpoint): SocketAddress {
  return toSocketAddress(endpoint.address ?? ANY, endpoint.port);
}

/**
 * The socket address of a target of the same family as `local`. A name is looked up, by
 * sockets with `mark`.
 * @throws UsageError for an address of the other family, CommandError for a name without one.
 */
export async function resolveTarget(
  target: Target,
  local: Pick<Endpoint, "address">,
  mark?: Mark,
): Promise<SocketAddress> {
  const family = local.address?.family;
  if (typeof target.host === "string") {
    const address = await resolveName(target.host, family, mark);
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

async function resolveName(
  name: string,
  family: 4 | 6 | undefined,
  mark: Mark | undefined,
): Promise<Address> {
  const { addresses, problem } = await lookUp(name, () => mark);
  const found = addresses.find((address) => family === undefined || address.family === family);
  if (found !== undefined) return found;
  const wanted = family === undefined ? "" : `IPv${family} `;
  const why = problem === "" ? "" : ` (${problem})`;
  throw new CommandError(`--to: the name ${quote(name)} has no ${wanted}address${why}`);
}

/** An address as the kernel takes it. @throws CommandError for a zone that is no interface */
export function toSocketAddress(address: Address, port: number): SocketAddress {
  const scopeId = scopeOf(address);
  if (scopeId >= 0) return { address: address.bytes, port, scopeId };
  throw new CommandError(
    `there is no interface ${quote(address.zone ?? "")}, as ${quote(formatAddress(address))} says`,
  );
}

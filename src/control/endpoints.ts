/** Endpoints that a user gave, as socket addresses: defaults, zones and names resolved. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import type { Mark } from "../../ffi/types.ts";
import { CommandError } from "../errors.ts";
import { type Address, formatAddress } from "../net/address.ts";
import type { Endpoint } from "../net/endpoint.ts";
import { quote } from "../net/result.ts";
import type { Target } from "../net/target.ts";
import { lookUp, scopeOf } from "./look-up.ts";

const ANY: Address = { family: 4, bytes: new Uint8Array(4) };

/** Where to bind for `endpoint`; without an address it is 0.0.0.0. */
export function bindAddress(endpoint: Endpoint): SocketAddress {
  return toSocketAddress(endpoint.address ?? ANY, endpoint.port);
}

/**
 * The socket address of a target: an address of the family of `local`, or a name, which sockets
 * with `mark` look up.
 * @throws CommandError for a name without an address of that family
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
  throw new CommandError(`The name ${quote(name)} has no ${wanted}address${why}`);
}

/** An address as the kernel takes it. @throws CommandError for a zone that is no interface */
export function toSocketAddress(address: Address, port: number): SocketAddress {
  const scopeId = scopeOf(address);
  if (scopeId >= 0) return { address: address.bytes, port, scopeId };
  throw new CommandError(
    `No interface has the name ${quote(address.zone ?? "")} of ${quote(formatAddress(address))}`,
  );
}

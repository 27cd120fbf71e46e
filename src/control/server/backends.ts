/** The upstreams of a service as hosts whose replies the rules have to know. */

import type { SocketAddress } from "../../../ffi/sockaddr.ts";
import type { Port } from "../../../ffi/types.ts";
import type { BackendRequest } from "../../capture/plan/intent.ts";
import type { Pool } from "../../config/pool.ts";
import { isLocalAddress } from "../../diagnose/snapshot/refusal-facts.ts";

/** A backend, and whether it is on this host. */
export function placed(backend: BackendRequest): BackendRequest {
  return { ...backend, here: isLocalAddress(backend.address.bytes) === true };
}

/** An upstream's address as a backend. */
export function backendOf({ address, port }: Pick<SocketAddress, "address" | "port">) {
  const family = address.length === 4 ? 4 : 6;
  const own = port === 0 ? {} : { port: port as Port };
  return placed({ address: { family, bytes: address }, ...own });
}

/** The upstreams of a pool that are addresses. */
export function namedBackends({ upstreams }: Pool): BackendRequest[] {
  return upstreams.flatMap(({ to }) => {
    if (to === "original" || typeof to.host === "string") return [];
    return [backendOf({ address: to.host.bytes, port: to.port })];
  });
}

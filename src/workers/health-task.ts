/** The task of the Worker that checks upstreams. */

import type { SocketAddress } from "../../ffi/sockaddr.ts";
import type { Mark } from "../../ffi/types.ts";
import type { HealthCheck } from "../config/pool.ts";

/** Checks upstreams at intervals. */
export interface HealthTask {
  readonly kind: "health";
  readonly targets: readonly HealthTarget[];
  /** The memory of the `UpstreamBoard`. */
  readonly board: SharedArrayBuffer;
}

/** An address that is checked. */
export interface HealthTarget {
  readonly slot: number;
  readonly address: SocketAddress;
  /** The host name to ask for, where the check does not name one. */
  readonly host: string;
  readonly mark: Mark | undefined;
  readonly check: HealthCheck;
}

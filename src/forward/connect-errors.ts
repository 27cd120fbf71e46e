/** The errors of connect(2) to an upstream: who causes each, and how it is counted. Pure. */

import {
  type CallFailure,
  EADDRNOTAVAIL,
  ECONNREFUSED,
  ECONNRESET,
  ENOBUFS,
  ENOMEM,
  EPERM,
  ETIMEDOUT,
} from "../../ffi/errno.ts";
import type { ConnectFailure } from "../workers/upstream-board.ts";

/** By errno; every other error is `unreachable`. */
const kinds: Readonly<Record<number, ConnectFailure>> = {
  [ETIMEDOUT]: "timeout",
  [ECONNREFUSED]: "refused",
  [ECONNRESET]: "reset",
  // This host causes them: no free port, its own firewall, no memory.
  [EADDRNOTAVAIL]: "local",
  [EPERM]: "local",
  [ENOBUFS]: "local",
  [ENOMEM]: "local",
};

/** How a failed attempt to connect is counted; without an errno it took too long. */
export function failureKind(errno: number = ETIMEDOUT): ConnectFailure {
  return kinds[errno] ?? "unreachable";
}

/** Whether the upstream caused a failure: it refused the connection or does not answer. */
export function isUpstreamsFault({ call, errno }: CallFailure): boolean {
  return call === "connect" && failureKind(errno) !== "local";
}

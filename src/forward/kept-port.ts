/** Why a client's port cannot be kept towards the upstream, from the call that failed. Pure. */

import { type CallFailure, EACCES, EADDRINUSE, EADDRNOTAVAIL } from "../../ffi/errno.ts";

/** The reason, by call and errno. */
const refusals: Readonly<Record<string, Readonly<Record<number, string>>>> = {
  bind: {
    [EADDRINUSE]: "is in use",
    // The port is below 1024.
    [EACCES]: "needs CAP_NET_BIND_SERVICE",
  },
  connect: {
    // The client uses the port towards this upstream already.
    [EADDRNOTAVAIL]: "is in use",
  },
};

/** Undefined if a socket was opened, or failed for a reason other than its port. */
export function keptPortRefusal(opened: number | CallFailure): string | undefined {
  return typeof opened === "number" ? undefined : refusals[opened.call]?.[opened.errno];
}

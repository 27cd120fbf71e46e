/** Keeping a client's port towards the upstream: what a failed call means for it. Pure. */

import { type CallFailure, EACCES, EADDRINUSE, EADDRNOTAVAIL } from "../../ffi/errno.ts";

/** Why the port cannot be had, by the call that told so. */
const refusals: Readonly<Record<string, Readonly<Record<number, string>>>> = {
  bind: {
    [EADDRINUSE]: "is in use",
    // It is below 1024.
    [EACCES]: "needs CAP_NET_BIND_SERVICE",
  },
  connect: {
    // The client has it towards this upstream already.
    [EADDRNOTAVAIL]: "is in use",
  },
};

/** Undefined where a socket was opened, or failed for another reason than its port. */
export function keptPortRefusal(opened: number | CallFailure): string | undefined {
  return typeof opened === "number" ? undefined : refusals[opened.call]?.[opened.errno];
}

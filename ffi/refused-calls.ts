/**
 * Calls that a sandbox may refuse (a seccomp filter, gVisor) and that have a plain substitute.
 * Whether one is refused is asked with a descriptor that does not exist, as this file is loaded: a
 * kernel that knows the call and lets us make it answers EBADF.
 */

import { SOCK_CLOEXEC } from "./constants.ts";
import { EBADF } from "./errno.ts";
import * as sys from "./sys.ts";

const refusal = (result: number) => (result === -EBADF ? 0 : -result);

/** The errno with which a call is refused, 0 if it is not. */
export const refused = {
  // With a flag: without one musl calls accept(2).
  accept4: refusal(sys.accept4(-1, 0, 0, SOCK_CLOEXEC)),
  recvmmsg: refusal(sys.recvmmsg(-1, 0, 1, 0)),
  sendmmsg: refusal(sys.sendmmsg(-1, 0, 1, 0)),
  splice: refusal(sys.splice(-1, -1, 1, 0)),
} as const;

/** The limit on open files, which is what bounds connections. */

import { RLIMIT_NOFILE } from "../../ffi/constants.ts";
import * as sys from "../../ffi/sys.ts";
import * as limits from "../engine/limits.ts";

/** Raises the soft limit to the hard one; how many descriptors connections may have. */
export function raiseDescriptorLimit(): number {
  const limit = sys.getrlimit(RLIMIT_NOFILE);
  if (typeof limit === "number") return limits.connectionsMax;
  if (limit.soft < limit.hard) sys.setrlimit(RLIMIT_NOFILE, limit.hard, limit.hard);
  return Math.max(1, Math.min(limits.connectionsMax, limit.hard - limits.reservedDescriptors));
}

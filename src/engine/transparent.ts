/** IP_TRANSPARENT on the sockets that a Worker makes itself. */

import {
  AF_INET,
  IP_TRANSPARENT,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_TRANSPARENT,
} from "../../ffi/constants.ts";
import * as sys from "../../ffi/sys.ts";
import type { Result } from "../../ffi/types.ts";

/** Lets a socket of family `domain` have an own end that is not this host's: 0 or -errno. */
export function setTransparent(fd: number, domain: number): Result {
  if (domain === AF_INET) return sys.setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, 1);
  return sys.setsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1);
}

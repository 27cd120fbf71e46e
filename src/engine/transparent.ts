/** Options of the sockets that a Worker makes itself. */

import {
  AF_INET,
  IP_MTU_DISCOVER,
  IP_PMTUDISC_DONT,
  IP_RECVTTL,
  IP_TRANSPARENT,
  IP_TTL,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPV6_RECVHOPLIMIT,
  IPV6_TRANSPARENT,
  IPV6_UNICAST_HOPS,
} from "../../ffi/constants.ts";
import * as sys from "../../ffi/sys.ts";
import type { Result } from "../../ffi/types.ts";

/** Lets a socket of family `domain` use a local address of another host: 0 or -errno. */
export function setTransparent(fd: number, domain: number): Result {
  if (domain === AF_INET) return sys.setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, 1);
  return sys.setsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1);
}

/**
 * Lets routers fragment IPv4 packets, so that nothing is lost on a narrower path. Over IPv6 only
 * the source may fragment: the first datagram that is too large is lost, the kernel learns the MTU
 * by ICMP, and fragments the next ones.
 */
export function allowFragments(fd: number, domain: number): void {
  if (domain === AF_INET) sys.setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT);
}

/**
 * Makes the kernel report the TTL or hop limit of each received datagram. A socket of IPv6 may get
 * IPv4 as well. Without it, as in a sandbox, hop limits do not end loops of proxies.
 */
export function hearHopLimits(fd: number, domain: number): void {
  if (domain !== AF_INET) sys.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
  sys.setsockopt(fd, IPPROTO_IP, IP_RECVTTL, 1);
}

/** Sets the TTL or hop limit, 1 to 255, of packets that a socket of family `domain` sends. */
export function setHopLimit(fd: number, domain: number, hops: number): void {
  if (domain === AF_INET) sys.setsockopt(fd, IPPROTO_IP, IP_TTL, hops);
  else sys.setsockopt(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, hops);
}

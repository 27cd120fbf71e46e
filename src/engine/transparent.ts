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

/** Lets a socket of family `domain` have an own end that is not this host's: 0 or -errno. */
export function setTransparent(fd: number, domain: number): Result {
  if (domain === AF_INET) return sys.setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, 1);
  return sys.setsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1);
}

/**
 * Lets routers fragment what leaves by IPv4, so that nothing is lost where a path further on is
 * narrower. Over IPv6 only the source may: the first datagram that is too large is lost, the kernel
 * hears of it by ICMP, and the next ones are sent in fragments.
 */
export function allowFragments(fd: number, domain: number): void {
  if (domain === AF_INET) sys.setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT);
}

/**
 * Has each datagram tell the TTL or hop limit with which it has arrived. A socket of IPv6 may get
 * IPv4 as well. What a sandbox lacks of it costs that: loops of proxies do not end by it.
 */
export function hearHopLimits(fd: number, domain: number): void {
  if (domain !== AF_INET) sys.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
  sys.setsockopt(fd, IPPROTO_IP, IP_RECVTTL, 1);
}

/** The TTL or hop limit, 1 to 255, with which a socket of family `domain` sends from now on. */
export function setHopLimit(fd: number, domain: number, hops: number): void {
  if (domain === AF_INET) sys.setsockopt(fd, IPPROTO_IP, IP_TTL, hops);
  else sys.setsockopt(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, hops);
}

/**
 * Sizes and offsets in bytes of the C structs that cross the boundary. All are little endian,
 * 64-bit; glibc and musl agree on every one of them. Only `epoll_event` differs by architecture.
 * `test/unit/ffi/abi.test.ts` compares each with a C program, per libc and per architecture.
 */

/** The differences between the architectures that tproxy is built for. */
export interface EpollEventLayout {
  readonly size: number;
  readonly events: number;
  readonly data: number;
}

/** By the names of <sys/syscall.h>. */
interface SystemCallNumbers {
  readonly SYS_recvmmsg: number;
  readonly SYS_sendmmsg: number;
  readonly SYS_setresuid: number;
}

/**
 * `struct epoll_event`: packed on x86_64 only (`EPOLL_PACKED` in linux/eventpoll.h).
 * @throws on an architecture whose layout nobody has checked.
 */
export function epollEventLayout(arch: string): EpollEventLayout {
  if (arch === "x64") return { size: 12, events: 0, data: 4 };
  if (arch === "arm64") return { size: 16, events: 0, data: 8 };
  throw new Error(`unsupported architecture "${arch}": tproxy runs on x64 and arm64`);
}

/** The numbers of the system calls that are made by `syscall(2)`, for an architecture. */
export function systemCallNumbers(arch: string): SystemCallNumbers {
  if (arch === "x64") return { SYS_recvmmsg: 299, SYS_sendmmsg: 307, SYS_setresuid: 117 };
  if (arch === "arm64") return { SYS_recvmmsg: 243, SYS_sendmmsg: 269, SYS_setresuid: 147 };
  throw new Error(`unsupported architecture "${arch}": tproxy runs on x64 and arm64`);
}

/** `struct sockaddr_in` (linux/in.h). */
export const sockaddr_in = { size: 16, sin_family: 0, sin_port: 2, sin_addr: 4 } as const;

/** `struct sockaddr_in6` (linux/in6.h). */
export const sockaddr_in6 = {
  size: 28,
  sin6_family: 0,
  sin6_port: 2,
  sin6_flowinfo: 4,
  sin6_addr: 8,
  sin6_scope_id: 24,
} as const;

/** `struct sockaddr_nl` (linux/netlink.h). */
export const sockaddr_nl = {
  size: 12,
  nl_family: 0,
  nl_pad: 2,
  nl_pid: 4,
  nl_groups: 8,
} as const;

/** `struct sockaddr_un` (linux/un.h). */
export const sockaddr_un = { size: 110, sun_family: 0, sun_path: 2 } as const;

/** `struct sockaddr_storage`: room for any socket address. */
export const sockaddr_storage = { size: 128 } as const;

/** `struct msghdr`. musl's paddings fall where glibc has the high halves of its `size_t`s. */
export const msghdr = {
  size: 56,
  msg_name: 0,
  msg_namelen: 8,
  msg_iov: 16,
  msg_iovlen: 24,
  msg_control: 32,
  msg_controllen: 40,
  msg_flags: 48,
} as const;

/** `struct mmsghdr`: a msghdr, then how many bytes of it were received or sent. */
export const mmsghdr = { size: 64, msg_hdr: 0, msg_len: 56 } as const;

/** `struct sock_filter` and `struct sock_fprog` (linux/filter.h). */
export const sock_filter = { size: 8, code: 0, jt: 2, jf: 3, k: 4 } as const;
export const sock_fprog = { size: 16, len: 0, filter: 8 } as const;

/** `struct iovec`. */
export const iovec = { size: 16, iov_base: 0, iov_len: 8 } as const;

/** `struct cmsghdr`; the data follow at 16 and messages are aligned to 8. */
export const cmsghdr = { size: 16, cmsg_len: 0, cmsg_level: 8, cmsg_type: 12, align: 8 } as const;

/** `struct in_pktinfo` (linux/in.h). */
export const in_pktinfo = { size: 12, ipi_ifindex: 0, ipi_spec_dst: 4, ipi_addr: 8 } as const;

/** `struct in6_pktinfo` (linux/ipv6.h). */
export const in6_pktinfo = { size: 20, ipi6_addr: 0, ipi6_ifindex: 16 } as const;

/** `struct rlimit` (64-bit). */
export const rlimit = { size: 16, rlim_cur: 0, rlim_max: 8 } as const;

/** `struct timeval` (64-bit). */
export const timeval = { size: 16, tv_sec: 0, tv_usec: 8 } as const;

/** `struct timespec` (64-bit). */
export const timespec = { size: 16, tv_sec: 0, tv_nsec: 8 } as const;

/** `struct linger`. */
export const linger = { size: 8, l_onoff: 0, l_linger: 4 } as const;

/** `struct iphdr` (netinet/ip.h). Version and header length are the bit fields of byte 0. */
export const iphdr = {
  size: 20,
  tos: 1,
  tot_len: 2,
  id: 4,
  frag_off: 6,
  ttl: 8,
  protocol: 9,
  check: 10,
  saddr: 12,
  daddr: 16,
} as const;

/** `struct ip6_hdr` (netinet/ip6.h). */
export const ip6_hdr = {
  size: 40,
  ip6_flow: 0,
  ip6_plen: 4,
  ip6_nxt: 6,
  ip6_hops: 7,
  ip6_src: 8,
  ip6_dst: 24,
} as const;

/** `struct udphdr` (netinet/udp.h). */
export const udphdr = { size: 8, source: 0, dest: 2, len: 4, check: 6 } as const;

/** `struct icmphdr` (netinet/ip_icmp.h); ICMPv6 has the same (netinet/icmp6.h). */
export const icmphdr = { size: 8, type: 0, code: 1, checksum: 2 } as const;

/** `struct __user_cap_header_struct` (linux/capability.h). */
export const __user_cap_header_struct = { size: 8, version: 0, pid: 4 } as const;

/** `struct __user_cap_data_struct`: 32 capabilities; version 3 has two of them. */
export const __user_cap_data_struct = {
  size: 12,
  effective: 0,
  permitted: 4,
  inheritable: 8,
} as const;

/**
 * System calls: one function each, answering a result >= 0 or a negated errno. Nothing here throws
 * for an error of the kernel, and nothing allocates: values that the kernel reads or writes
 * go through scratch buffers of this thread, overwritten by the next call.
 *
 * Addresses are those of a `NativeBuffer`; the caller keeps the buffer. See each call's page 2 of
 * the manual; the names are the same.
 */

import {
  CLOCK_MONOTONIC,
  EPOLL_CLOEXEC,
  IFNAMSIZ,
  O_CLOEXEC,
  SO_BINDTODEVICE,
  SO_LINGER,
  SO_RCVTIMEO,
  SOL_SOCKET,
  TIOCOUTQ,
} from "./constants.ts";
import { EINVAL, ENODEV } from "./errno.ts";
import { linger, rlimit, systemCallNumbers, timespec, timeval } from "./layout.ts";
import { errno, libc } from "./libc.ts";
import { allocate } from "./memory.ts";
import type { Address, Result } from "./types.ts";

const scratch = allocate(64);
const scratchLength = allocate(8);
const names = allocate(512);

const SCRATCH = scratch.address;
const SCRATCH_LENGTH = scratchLength.address;
const NULL = 0;
/** (uid_t)-1 and (gid_t)-1. */
const UNCHANGED = 0xffff_ffff;
const { SYS_recvmmsg, SYS_sendmmsg } = systemCallNumbers(process.arch);

const latch = (result: number): Result => (result < 0 ? -errno() : result);

/** By number: 1 for each descriptor that this thread has made and not closed. */
let openFds: Uint8Array = new Uint8Array(0);

const opened = (fd: number): Result => {
  if (fd < 0) return -errno();
  openFds[fd] = 1;
  return fd;
};

/**
 * Keeps account in `bytes`: `bytes[fd]` is 1 from when this thread makes a descriptor (socket,
 * accept4, epoll_create1, eventfd, pipe2, socketpair) until it closes it. Descriptors belong to the
 * process, so when this thread dies another one can close just those. Numbers beyond the end are
 * not kept.
 */
export function keepOpenFds(bytes: Uint8Array): void {
  openFds = bytes;
}

/**
 * Notes that another process may use the same socket or pipe as `fd` (`isLent`): meanwhile the
 * death of this thread must not reset it.
 */
export function lendFd(fd: number, isLent: boolean): void {
  openFds[fd] = isLent ? 0 : 1;
}

/** `socket(2)`: a descriptor. Pass SOCK_CLOEXEC and SOCK_NONBLOCK in `type`. */
export function socket(domain: number, type: number, protocol: number): Result {
  return opened(libc.socket(domain, type, protocol));
}

/** `socketpair(2)`: two sockets connected to each other, or the negated errno as a number. */
export function socketpair(domain: number, type: number): [first: number, second: number] | Result {
  if (libc.socketpair(domain, type, 0, SCRATCH) < 0) return -errno();
  return [opened(scratch.view.getInt32(0, true)), opened(scratch.view.getInt32(4, true))];
}

/** `setsockopt(2)` of an int option. */
export function setsockopt(fd: number, level: number, option: number, value: number): Result {
  scratch.view.setInt32(0, value, true);
  return latch(libc.setsockopt(fd, level, option, SCRATCH, 4));
}

/** `getsockopt(2)` of an int option whose value is not negative. */
export function getsockopt(fd: number, level: number, option: number): Result {
  scratchLength.view.setUint32(0, 4, true);
  const result = libc.getsockopt(fd, level, option, SCRATCH, SCRATCH_LENGTH);
  return result < 0 ? -errno() : scratch.view.getInt32(0, true);
}

/** `setsockopt(2)` of an option whose value is `length` bytes at `address`. */
export function setsockoptBytes(
  fd: number,
  level: number,
  option: number,
  address: Address,
  length: number,
): Result {
  return latch(libc.setsockopt(fd, level, option, address, length));
}

/** SO_BINDTODEVICE (socket(7)): ties the socket to one interface. Needs CAP_NET_RAW. */
export function bindToDevice(fd: number, device: string): Result {
  const name = new TextEncoder().encode(device);
  if (name.length >= IFNAMSIZ) return -ENODEV;
  scratch.bytes.fill(0, 0, IFNAMSIZ);
  scratch.bytes.set(name);
  return latch(libc.setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, SCRATCH, name.length + 1));
}

/** SO_LINGER (socket(7)). `seconds` 0 makes `close` send a reset. */
export function setLinger(fd: number, on: boolean, seconds: number): Result {
  scratch.view.setInt32(linger.l_onoff, on ? 1 : 0, true);
  scratch.view.setInt32(linger.l_linger, seconds, true);
  return latch(libc.setsockopt(fd, SOL_SOCKET, SO_LINGER, SCRATCH, linger.size));
}

/** SO_RCVTIMEO (socket(7)): how long a blocking receive waits before it returns EAGAIN. */
export function setReceiveTimeoutMs(fd: number, milliseconds: number): Result {
  const seconds = Math.floor(milliseconds / 1000);
  scratch.view.setBigInt64(timeval.tv_sec, BigInt(seconds), true);
  scratch.view.setBigInt64(timeval.tv_usec, BigInt((milliseconds - seconds * 1000) * 1000), true);
  return latch(libc.setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, SCRATCH, timeval.size));
}

/** `bind(2)` to the `length` bytes of socket address at `address`. */
export function bind(fd: number, address: Address, length: number): Result {
  return latch(libc.bind(fd, address, length));
}

/** `connect(2)`; a non-blocking stream returns EINPROGRESS. */
export function connect(fd: number, address: Address, length: number): Result {
  return latch(libc.connect(fd, address, length));
}

/** `listen(2)`. The kernel lowers `backlog` to net.core.somaxconn. */
export function listen(fd: number, backlog: number): Result {
  return latch(libc.listen(fd, backlog));
}

/**
 * `accept4(2)`: the new descriptor. The peer's address goes to `address`, whose capacity is
 * `length` bytes; both 0 when the peer is not asked for.
 */
export function accept4(fd: number, address: Address, length: number, flags: number): Result {
  if (address === 0) return opened(libc.accept4(fd, NULL, NULL, flags));
  scratchLength.view.setUint32(0, length, true);
  return opened(libc.accept4(fd, address, SCRATCH_LENGTH, flags));
}

/** `accept(2)`, the same without flags. */
export function accept(fd: number, address: Address, length: number): Result {
  scratchLength.view.setUint32(0, length, true);
  return opened(libc.accept(fd, address, SCRATCH_LENGTH));
}

/**
 * `getsockname(2)` into `length` bytes at `address`: on a connection that a transparent listener
 * accepted, the address that the peer asked for.
 */
export function getsockname(fd: number, address: Address, length: number): Result {
  scratchLength.view.setUint32(0, length, true);
  return latch(libc.getsockname(fd, address, SCRATCH_LENGTH));
}

/** `getsockopt(2)` of an option whose value takes at most `length` bytes at `address`. */
export function getsockoptBytes(
  fd: number,
  level: number,
  option: number,
  address: Address,
  length: number,
): Result {
  scratchLength.view.setUint32(0, length, true);
  return latch(libc.getsockopt(fd, level, option, address, SCRATCH_LENGTH));
}

/** How many bytes of a TCP socket its peer has not acknowledged (SIOCOUTQ, tcp(7)). */
export function unacknowledged(fd: number): Result {
  const result = libc.ioctl(fd, TIOCOUTQ, SCRATCH);
  return result < 0 ? -errno() : scratch.view.getInt32(0, true);
}

/** `getpeername(2)` into `length` bytes at `address`. */
export function getpeername(fd: number, address: Address, length: number): Result {
  scratchLength.view.setUint32(0, length, true);
  return latch(libc.getpeername(fd, address, SCRATCH_LENGTH));
}

/** `recv(2)`: bytes read, 0 at the end of a stream. */
export function recv(fd: number, address: Address, length: number, flags: number): Result {
  return latch(libc.recv(fd, address, length, flags));
}

/** `send(2)`: bytes taken. Always MSG_NOSIGNAL: a closed peer is EPIPE, never a signal. */
export function send(fd: number, address: Address, length: number, flags: number): Result {
  return latch(libc.send(fd, address, length, flags));
}

/**
 * `recvmmsg(2)` without time-out: how many of the `count` mmsghdrs at `messages` were filled. The
 * kernel is called directly, here and in `sendmmsg`: musl's functions of these names read the
 * headers even where the kernel would not, and musl's sendmmsg sends one by one.
 */
export function recvmmsg(fd: number, messages: Address, count: number, flags: number): Result {
  return latch(libc.syscall(SYS_recvmmsg, fd, messages, count, flags, NULL));
}

/** `recvmsg(2)` by the msghdr at `message`: bytes read. */
export function recvmsg(fd: number, message: Address, flags: number): Result {
  return latch(libc.recvmsg(fd, message, flags));
}

/** `sendmsg(2)` of the msghdr at `message`: bytes taken. */
export function sendmsg(fd: number, message: Address, flags: number): Result {
  return latch(libc.sendmsg(fd, message, flags));
}

/** `sendmmsg(2)`: how many of the `count` mmsghdrs at `messages` were sent. */
export function sendmmsg(fd: number, messages: Address, count: number, flags: number): Result {
  return latch(libc.syscall(SYS_sendmmsg, fd, messages, count, flags, NULL));
}

/** `shutdown(2)` with SHUT_RD, SHUT_WR or SHUT_RDWR. */
export function shutdown(fd: number, how: number): Result {
  return latch(libc.shutdown(fd, how));
}

/** `close(2)`. The descriptor is gone whatever it returns. */
export function close(fd: number): Result {
  openFds[fd] = 0;
  return latch(libc.close(fd));
}

/** `read(2)`: bytes read, 0 at the end. */
export function read(fd: number, address: Address, length: number): Result {
  return latch(libc.read(fd, address, length));
}

/** `write(2)`: bytes taken. */
export function write(fd: number, address: Address, length: number): Result {
  return latch(libc.write(fd, address, length));
}

/** `epoll_create1(2)`, close-on-exec. */
export function epollCreate(): Result {
  return opened(libc.epoll_create1(EPOLL_CLOEXEC));
}

/** `epoll_ctl(2)`; `event` is the address of one epoll_event, 0 for EPOLL_CTL_DEL. */
export function epollCtl(epoll: number, operation: number, fd: number, event: Address): Result {
  return latch(libc.epoll_ctl(epoll, operation, fd, event));
}

/** `epoll_wait(2)`: how many events were written at `events`. `timeoutMs` -1 waits for ever. */
export function epollWait(
  epoll: number,
  events: Address,
  count: number,
  timeoutMs: number,
): Result {
  return latch(libc.epoll_wait(epoll, events, count, timeoutMs));
}

/** `eventfd(2)`: a counter that wakes an epoll. */
export function eventfd(initial: number, flags: number): Result {
  return opened(libc.eventfd(initial, flags));
}

/** Adds 1 to an eventfd: safe from any thread. */
export function eventfdSignal(fd: number): Result {
  scratch.view.setBigUint64(0, 1n, true);
  return latch(libc.write(fd, SCRATCH, 8));
}

/** Takes an eventfd's count back to 0; -EAGAIN when it is 0 and non-blocking. */
export function eventfdDrain(fd: number): Result {
  return latch(libc.read(fd, SCRATCH, 8));
}

/** `pipe2(2)`, close-on-exec: the two ends, or the negated errno as a number. */
export function pipe(flags: number): [readEnd: number, writeEnd: number] | Result {
  const result = libc.pipe2(SCRATCH, flags | O_CLOEXEC);
  if (result < 0) return -errno();
  return [opened(scratch.view.getInt32(0, true)), opened(scratch.view.getInt32(4, true))];
}

/** `splice(2)` without offsets: bytes moved, 0 at the end of the input. */
export function splice(from: number, to: number, length: number, flags: number): Result {
  return latch(libc.splice(from, NULL, to, NULL, length, flags));
}

/** `fcntl(2)` with an integer argument. */
export function fcntl(fd: number, command: number, argument: number): Result {
  return latch(libc.fcntl(fd, command, argument));
}

/** `fchown(2)`: another owner, and the group as before. EPERM without CAP_CHOWN. */
export function setOwner(fd: number, uid: number): Result {
  return latch(libc.fchown(fd, uid, UNCHANGED));
}

/** `setns(2)`: moves the calling thread alone. Its sockets stay where they were made. */
export function setns(fd: number, type: number): Result {
  return latch(libc.setns(fd, type));
}

/** `unshare(2)`: of the calling thread alone. CLONE_NEWUSER is EINVAL in a process with threads. */
export function unshare(flags: number): Result {
  return latch(libc.unshare(flags));
}

/** A resource limit of this process (`getrlimit(2)`); Infinity for RLIM_INFINITY. */
export function getrlimit(resource: number): { soft: number; hard: number } | Result {
  if (libc.prlimit(0, resource, NULL, SCRATCH) < 0) return -errno();
  return {
    soft: fromRlim(scratch.view.getBigUint64(rlimit.rlim_cur, true)),
    hard: fromRlim(scratch.view.getBigUint64(rlimit.rlim_max, true)),
  };
}

/** Sets a resource limit of this process (`setrlimit(2)`). */
export function setrlimit(resource: number, soft: number, hard: number): Result {
  scratch.view.setBigUint64(rlimit.rlim_cur, toRlim(soft), true);
  scratch.view.setBigUint64(rlimit.rlim_max, toRlim(hard), true);
  return latch(libc.prlimit(0, resource, SCRATCH, NULL));
}

const RLIM_INFINITY = 0xffff_ffff_ffff_ffffn;
const fromRlim = (value: bigint) => (value === RLIM_INFINITY ? Infinity : Number(value));
const toRlim = (value: number) => (value === Infinity ? RLIM_INFINITY : BigInt(value));

/** CLOCK_MONOTONIC in whole microseconds (`clock_gettime(2)`), as other processes read it. */
export function monotonicUs(): bigint {
  libc.clock_gettime(CLOCK_MONOTONIC, SCRATCH);
  const seconds = scratch.view.getBigInt64(timespec.tv_sec, true);
  return seconds * 1_000_000n + scratch.view.getBigInt64(timespec.tv_nsec, true) / 1000n;
}

/**
 * `getxattr(2)` of `name` on the file `path`, both ASCII and 255 bytes at most: the size of the
 * value, -ENODATA without one.
 */
export function getxattrSize(path: string, name: string): Result {
  for (const [at, text] of [path, name].entries()) {
    if (text.length > 255) return -EINVAL;
    names.bytes.set(new TextEncoder().encode(`${text}\0`), at * 256);
  }
  return latch(libc.getxattr(names.address, names.address + 256, NULL, 0));
}

/** `getppid(2)`: what the micro-benchmark of this layer calls. */
export function getppid(): Result {
  return libc.getppid();
}

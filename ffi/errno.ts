/** errno numbers, names and texts (asm-generic/errno-base.h, asm-generic/errno.h). */

import type { Errno, Result } from "./types.ts";

export const EPERM = 1;
export const ENOENT = 2;
export const EINTR = 4;
export const EIO = 5;
export const EBADF = 9;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EACCES = 13;
export const EBUSY = 16;
export const EEXIST = 17;
export const ENODEV = 19;
export const EINVAL = 22;
export const ENFILE = 23;
export const EMFILE = 24;
export const EPIPE = 32;
export const EMSGSIZE = 90;
export const ENOSYS = 38;
export const ENOPROTOOPT = 92;
export const EPROTONOSUPPORT = 93;
export const ENODATA = 61;
export const EOPNOTSUPP = 95;
export const EAFNOSUPPORT = 97;
export const EADDRINUSE = 98;
export const EADDRNOTAVAIL = 99;
export const ENETDOWN = 100;
export const ENETUNREACH = 101;
export const ECONNABORTED = 103;
export const ECONNRESET = 104;
export const ENOBUFS = 105;
export const EISCONN = 106;
export const ENOTCONN = 107;
export const ETOOMANYREFS = 109;
export const ETIMEDOUT = 110;
export const ECONNREFUSED = 111;
export const EHOSTUNREACH = 113;
export const EINPROGRESS = 115;

/** Names and texts of the errnos that the calls of `sys.ts` can answer. */
const known: Readonly<Record<number, readonly [name: string, text: string]>> = {
  1: ["EPERM", "Operation not permitted"],
  2: ["ENOENT", "No such file or directory"],
  3: ["ESRCH", "No such process"],
  4: ["EINTR", "Interrupted system call"],
  5: ["EIO", "Input/output error"],
  6: ["ENXIO", "No such device or address"],
  7: ["E2BIG", "Argument list too long"],
  9: ["EBADF", "Bad file descriptor"],
  11: ["EAGAIN", "Resource temporarily unavailable"],
  12: ["ENOMEM", "Cannot allocate memory"],
  13: ["EACCES", "Permission denied"],
  14: ["EFAULT", "Bad address"],
  16: ["EBUSY", "Device or resource busy"],
  17: ["EEXIST", "File exists"],
  19: ["ENODEV", "No such device"],
  20: ["ENOTDIR", "Not a directory"],
  21: ["EISDIR", "Is a directory"],
  22: ["EINVAL", "Invalid argument"],
  23: ["ENFILE", "Too many open files in system"],
  24: ["EMFILE", "Too many open files"],
  27: ["EFBIG", "File too large"],
  28: ["ENOSPC", "No space left on device"],
  29: ["ESPIPE", "Illegal seek"],
  32: ["EPIPE", "Broken pipe"],
  34: ["ERANGE", "Numerical result out of range"],
  38: ["ENOSYS", "Function not implemented"],
  61: ["ENODATA", "No data available"],
  71: ["EPROTO", "Protocol error"],
  75: ["EOVERFLOW", "Value too large for defined data type"],
  87: ["EUSERS", "Too many users"],
  88: ["ENOTSOCK", "Socket operation on non-socket"],
  89: ["EDESTADDRREQ", "Destination address required"],
  90: ["EMSGSIZE", "Message too long"],
  91: ["EPROTOTYPE", "Protocol wrong type for socket"],
  92: ["ENOPROTOOPT", "Protocol not available"],
  93: ["EPROTONOSUPPORT", "Protocol not supported"],
  94: ["ESOCKTNOSUPPORT", "Socket type not supported"],
  95: ["EOPNOTSUPP", "Operation not supported"],
  97: ["EAFNOSUPPORT", "Address family not supported by protocol"],
  98: ["EADDRINUSE", "Address already in use"],
  99: ["EADDRNOTAVAIL", "Cannot assign requested address"],
  100: ["ENETDOWN", "Network is down"],
  101: ["ENETUNREACH", "Network is unreachable"],
  103: ["ECONNABORTED", "Software caused connection abort"],
  104: ["ECONNRESET", "Connection reset by peer"],
  105: ["ENOBUFS", "No buffer space available"],
  106: ["EISCONN", "Transport endpoint is already connected"],
  107: ["ENOTCONN", "Transport endpoint is not connected"],
  109: ["ETOOMANYREFS", "Too many references: cannot splice"],
  110: ["ETIMEDOUT", "Connection timed out"],
  111: ["ECONNREFUSED", "Connection refused"],
  112: ["EHOSTDOWN", "Host is down"],
  113: ["EHOSTUNREACH", "No route to host"],
  114: ["EALREADY", "Operation already in progress"],
  115: ["EINPROGRESS", "Operation now in progress"],
};

/** The header's name of an errno, as `EADDRNOTAVAIL`; `errno 200` for one that has none here. */
export function errnoName(errno: number): string {
  return known[errno]?.[0] ?? `errno ${errno}`;
}

/** `strerror(3)`'s text of an errno in the C locale. */
export function errnoText(errno: number): string {
  return known[errno]?.[1] ?? `Unknown error ${errno}`;
}

/** Both: `Address already in use (EADDRINUSE)`. */
export function describeErrno(errno: number): string {
  return `${errnoText(errno)} (${errnoName(errno)})`;
}

/** A failed system call, where functions of several calls return failures and do not throw. */
export interface CallFailure {
  readonly call: string;
  readonly errno: number;
}

/** `bind: Address already in use (EADDRINUSE)` */
export function describeFailure({ call, errno }: CallFailure): string {
  return `${call}: ${describeErrno(errno)}`;
}

/** A failed system call off the hot path. `detail` names the address, option or file. */
export class SyscallError extends Error {
  override readonly name: string = "SyscallError";
  readonly call: string;
  readonly errno: Errno;
  readonly code: string;
  readonly detail: string;

  constructor(call: string, errno: number, detail = "") {
    const subject = detail === "" ? call : `${call} ${detail}`;
    super(`${subject}: ${describeErrno(errno)}`);
    this.call = call;
    this.errno = errno as Errno;
    this.code = errnoName(errno);
    this.detail = detail;
  }
}

/**
 * The result of a system call that must not fail.
 * @throws SyscallError when `result` is a negated errno.
 */
export function check(result: Result, call: string, detail = ""): number {
  if (result < 0) throw new SyscallError(call, -result, detail);
  return result;
}

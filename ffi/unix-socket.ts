/**
 * Unix sockets that keep the bounds of messages (SOCK_DGRAM, SOCK_SEQPACKET), and descriptors that
 * travel with a message (SCM_RIGHTS): see unix(7), cmsg(3) and scm_send() in net/core/scm.c.
 *
 * The kernel takes at most 253 descriptors a message (SCM_MAX_FD); one more is EINVAL. musl's
 * sendmsg(3) takes 1,024 bytes of control messages, and so one less; one more is ENOMEM. The kernel
 * bounds those that are sent and not yet received by RLIMIT_NOFILE (ETOOMANYREFS without
 * CAP_SYS_RESOURCE and CAP_SYS_ADMIN): so let each message be acknowledged before the next one.
 */

import {
  AF_UNIX,
  MSG_CMSG_CLOEXEC,
  MSG_CTRUNC,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  MSG_TRUNC,
  SCM_RIGHTS,
  SOL_SOCKET,
} from "./constants.ts";
import { EINVAL, EMSGSIZE } from "./errno.ts";
import { cmsghdr, iovec, msghdr, sockaddr_un } from "./layout.ts";
import { allocate } from "./memory.ts";
import * as sys from "./sys.ts";
import type { Result } from "./types.ts";

/** The most that one message carries: SCM_MAX_FD of the kernel, and less by musl's bound. */
export const descriptorsPerMessage = 252;

/** The largest message that is sent or received here, in bytes. */
export const unixMessageBytes = 64 * 1024;

/** A message with the descriptors that came with it. */
export interface UnixMessage {
  /** A copy, owned by the caller. */
  readonly bytes: Uint8Array;
  /** Owned by the caller; each has FD_CLOEXEC. */
  readonly descriptors: readonly number[];
}

const INT = 4;
const header = allocate(msghdr.size);
const vector = allocate(iovec.size);
const payload = allocate(unixMessageBytes);
const control = allocate(cmsghdr.size + 256 * INT);
const name = allocate(sockaddr_un.size);

/**
 * Writes the address of a Unix socket into `view` and returns its length. `@` in front is an
 * abstract name, which is no file. -EINVAL for an empty name or one that is too long.
 */
export function encodeSockaddrUn(view: DataView, path: string): Result {
  const bytes = new TextEncoder().encode(path);
  const isAbstract = path.startsWith("@");
  // A path ends with a zero byte; an abstract name ends with the address.
  const length = sockaddr_un.sun_path + bytes.length + (isAbstract ? 0 : 1);
  if (bytes.length === 0 || bytes.includes(0) || length > sockaddr_un.size) return -EINVAL;
  view.setUint16(0, AF_UNIX, true);
  for (const [at, byte] of bytes.entries()) view.setUint8(sockaddr_un.sun_path + at, byte);
  if (isAbstract) view.setUint8(sockaddr_un.sun_path, 0);
  else view.setUint8(length - 1, 0);
  return length;
}

/**
 * Sends one message, never blocking, with descriptors that stay open here: bytes taken, or a
 * negated errno. To the socket at `path` (`@name`: abstract), or to the peer of a connected one.
 */
export function sendUnix(
  fd: number,
  bytes: Uint8Array,
  descriptors: readonly number[] = [],
  path?: string,
): Result {
  if (bytes.length > payload.size) return -EMSGSIZE;
  if (descriptors.length > descriptorsPerMessage) return -EINVAL;
  const nameLength = path === undefined ? 0 : encodeSockaddrUn(name.view, path);
  if (nameLength < 0) return nameLength;
  payload.bytes.set(bytes);
  let controlLength = 0;
  if (descriptors.length > 0) {
    const size = cmsghdr.size + descriptors.length * INT;
    control.view.setBigUint64(cmsghdr.cmsg_len, BigInt(size), true);
    control.view.setInt32(cmsghdr.cmsg_level, SOL_SOCKET, true);
    control.view.setInt32(cmsghdr.cmsg_type, SCM_RIGHTS, true);
    for (const [index, each] of descriptors.entries()) {
      control.view.setInt32(cmsghdr.size + index * INT, each, true);
    }
    controlLength = Math.ceil(size / cmsghdr.align) * cmsghdr.align;
  }
  prepare(nameLength, bytes.length, controlLength);
  return sys.sendmsg(fd, header.address, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/**
 * Receives one message, never blocking: -EAGAIN if there is none, other negated errnos of
 * recvmsg(2). An end of the peer is a message of 0 bytes. -EMSGSIZE if the message or its
 * descriptors were cut off; those that came with it are closed.
 */
export function receiveUnix(fd: number): UnixMessage | Result {
  prepare(0, payload.size, control.size);
  const length = sys.recvmsg(fd, header.address, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (length < 0) return length;
  const descriptors = receivedDescriptors();
  const flags = header.view.getInt32(msghdr.msg_flags, true);
  if ((flags & (MSG_TRUNC | MSG_CTRUNC)) !== 0) {
    for (const each of descriptors) sys.close(each);
    return -EMSGSIZE;
  }
  return { bytes: payload.bytes.slice(0, length), descriptors };
}

function prepare(nameLength: number, length: number, controlLength: number): void {
  const { view } = header;
  view.setBigUint64(msghdr.msg_name, BigInt(nameLength === 0 ? 0 : name.address), true);
  view.setUint32(msghdr.msg_namelen, nameLength, true);
  view.setBigUint64(msghdr.msg_iov, BigInt(vector.address), true);
  view.setBigUint64(msghdr.msg_iovlen, 1n, true);
  view.setBigUint64(msghdr.msg_control, BigInt(controlLength === 0 ? 0 : control.address), true);
  view.setBigUint64(msghdr.msg_controllen, BigInt(controlLength), true);
  view.setInt32(msghdr.msg_flags, 0, true);
  vector.view.setBigUint64(iovec.iov_base, BigInt(payload.address), true);
  vector.view.setBigUint64(iovec.iov_len, BigInt(length), true);
}

/** Of all control messages of the last received message. */
function receivedDescriptors(): number[] {
  const descriptors: number[] = [];
  const end = Number(header.view.getBigUint64(msghdr.msg_controllen, true));
  for (let at = 0; at + cmsghdr.size <= end; ) {
    const size = Number(control.view.getBigUint64(at + cmsghdr.cmsg_len, true));
    if (size < cmsghdr.size || at + size > end) break;
    const level = control.view.getInt32(at + cmsghdr.cmsg_level, true);
    const type = control.view.getInt32(at + cmsghdr.cmsg_type, true);
    if (level === SOL_SOCKET && type === SCM_RIGHTS) {
      for (let data = cmsghdr.size; data + INT <= size; data += INT) {
        descriptors.push(control.view.getInt32(at + data, true));
      }
    }
    at += Math.ceil(size / cmsghdr.align) * cmsghdr.align;
  }
  return descriptors;
}

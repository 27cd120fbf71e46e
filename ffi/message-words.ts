/** Where the fields of `struct mmsghdr` and `struct iovec` lie, in 32-bit words: for batches. */

import { iovec, mmsghdr, msghdr } from "./layout.ts";

export const WORD = 4;
export const HEADER_WORDS = mmsghdr.size / WORD;
export const IOVEC_WORDS = iovec.size / WORD;
export const NAMELEN = msghdr.msg_namelen / WORD;
export const IOV = msghdr.msg_iov / WORD;
export const IOVLEN = msghdr.msg_iovlen / WORD;
export const CONTROL = msghdr.msg_control / WORD;
export const CONTROLLEN = msghdr.msg_controllen / WORD;
export const LENGTH = mmsghdr.msg_len / WORD;

/** Room for a socket address of either family. */
export const NAME_BYTES = 32;

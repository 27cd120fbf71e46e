/** Where the fields of `struct mmsghdr` and `struct iovec` lie, in 32-bit words: for batches. */

import { iovec, mmsghdr, msghdr } from "./layout.ts";

const WORD = 4;

/** Sizes and offsets in words; one object, for an exported number is the kernel's own here. */
export const messageWords = {
  WORD,
  HEADER_WORDS: mmsghdr.size / WORD,
  IOVEC_WORDS: iovec.size / WORD,
  NAMELEN: msghdr.msg_namelen / WORD,
  IOV: msghdr.msg_iov / WORD,
  IOVLEN: msghdr.msg_iovlen / WORD,
  CONTROL: msghdr.msg_control / WORD,
  CONTROLLEN: msghdr.msg_controllen / WORD,
  LENGTH: mmsghdr.msg_len / WORD,
  /** Bytes of room for a socket address of either family. */
  NAME_BYTES: 32,
} as const;

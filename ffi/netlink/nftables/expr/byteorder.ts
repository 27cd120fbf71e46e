/** `byteorder`: turns numbers in a register from one order of bytes to the other. Pure. */

import { be32, fieldCodec } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFTA_BYTEORDER_SREG = 1;
export const NFTA_BYTEORDER_DREG = 2;
export const NFTA_BYTEORDER_OP = 3;
export const NFTA_BYTEORDER_LEN = 4;
export const NFTA_BYTEORDER_SIZE = 5;

/** Turns each number of `size` bytes round, in the first `length` bytes of a register. */
export interface Byteorder {
  readonly kind: "byteorder";
  readonly sreg: number;
  readonly dreg: number;
  /** Which way; on a little-endian machine both do the same. */
  readonly op: number;
  readonly length: number;
  readonly size: number;
}

export const byteorderCodec = fieldCodec<Byteorder>("byteorder", {
  sreg: be32({ NFTA_BYTEORDER_SREG }),
  dreg: be32({ NFTA_BYTEORDER_DREG }),
  op: be32({ NFTA_BYTEORDER_OP }),
  length: be32({ NFTA_BYTEORDER_LEN }),
  size: be32({ NFTA_BYTEORDER_SIZE }),
});

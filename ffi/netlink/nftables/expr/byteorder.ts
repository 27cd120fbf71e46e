/** `byteorder`: turns numbers in a register from one order of bytes to the other. Pure. */

import { required } from "../../wire.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

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

export const byteorderCodec: ExpressionCodec<Byteorder> = {
  name: "byteorder",
  kinds: ["byteorder"],
  encode(to, { sreg, dreg, op, length, size }) {
    to.be32(NFTA_BYTEORDER_SREG, sreg);
    to.be32(NFTA_BYTEORDER_DREG, dreg);
    to.be32(NFTA_BYTEORDER_OP, op);
    to.be32(NFTA_BYTEORDER_LEN, length);
    to.be32(NFTA_BYTEORDER_SIZE, size);
  },
  decode(from) {
    return {
      kind: "byteorder",
      sreg: required(from.be32(NFTA_BYTEORDER_SREG), "NFTA_BYTEORDER_SREG"),
      dreg: required(from.be32(NFTA_BYTEORDER_DREG), "NFTA_BYTEORDER_DREG"),
      op: required(from.be32(NFTA_BYTEORDER_OP), "NFTA_BYTEORDER_OP"),
      length: required(from.be32(NFTA_BYTEORDER_LEN), "NFTA_BYTEORDER_LEN"),
      size: required(from.be32(NFTA_BYTEORDER_SIZE), "NFTA_BYTEORDER_SIZE"),
    };
  },
};

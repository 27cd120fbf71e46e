/** `range`: compares a register with two constants. Pure. */

import { required } from "../../wire.ts";
import { readData, writeData } from "../data.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

// linux/netfilter/nf_tables.h
export const NFT_RANGE_EQ = 0;
export const NFT_RANGE_NEQ = 1;
export const NFTA_RANGE_SREG = 1;
export const NFTA_RANGE_OP = 2;
export const NFTA_RANGE_FROM_DATA = 3;
export const NFTA_RANGE_TO_DATA = 4;

/** Goes on if the register is within `from` and `to`, or with NFT_RANGE_NEQ if it is not. */
export interface RangeCompare {
  readonly kind: "range";
  readonly op: number;
  readonly sreg: number;
  readonly from: Uint8Array;
  readonly to: Uint8Array;
}

export const rangeCodec: ExpressionCodec<RangeCompare> = {
  name: "range",
  kinds: ["range"],
  encode(to, { op, sreg, from, to: last }) {
    to.be32(NFTA_RANGE_SREG, sreg);
    to.be32(NFTA_RANGE_OP, op);
    writeData(to, NFTA_RANGE_FROM_DATA, from);
    writeData(to, NFTA_RANGE_TO_DATA, last);
  },
  decode(from) {
    return {
      kind: "range",
      op: required(from.be32(NFTA_RANGE_OP), "NFTA_RANGE_OP"),
      sreg: required(from.be32(NFTA_RANGE_SREG), "NFTA_RANGE_SREG"),
      from: required(readData(from, NFTA_RANGE_FROM_DATA), "NFTA_RANGE_FROM_DATA"),
      to: required(readData(from, NFTA_RANGE_TO_DATA), "NFTA_RANGE_TO_DATA"),
    };
  },
};

/** `cmp`: compares a register with a constant. Pure. */

import { NFT_REG_1 } from "../../constants.ts";
import { required } from "../../wire.ts";
import { readData, writeData } from "../data.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

// linux/netfilter/nf_tables.h
export const NFT_CMP_EQ = 0;
export const NFT_CMP_NEQ = 1;
export const NFT_CMP_LT = 2;
export const NFT_CMP_LTE = 3;
export const NFT_CMP_GT = 4;
export const NFT_CMP_GTE = 5;
export const NFTA_CMP_SREG = 1;
export const NFTA_CMP_OP = 2;
export const NFTA_CMP_DATA = 3;

/** Goes on if the register compares as NFT_CMP_* with `data`. */
export interface Compare {
  readonly kind: "cmp";
  readonly op: number;
  readonly sreg: number;
  readonly data: Uint8Array;
}

/** `[ cmp eq reg 1 data ]`; NFT_CMP_NEQ and the orders, bytewise from the first, in `op`. */
export function compare(data: Uint8Array, op: number = NFT_CMP_EQ): Compare {
  return { kind: "cmp", op, sreg: NFT_REG_1, data };
}

export const cmpCodec: ExpressionCodec<Compare> = {
  name: "cmp",
  kinds: ["cmp"],
  encode(to, { op, sreg, data }) {
    to.be32(NFTA_CMP_SREG, sreg);
    to.be32(NFTA_CMP_OP, op);
    writeData(to, NFTA_CMP_DATA, data);
  },
  decode(from) {
    return {
      kind: "cmp",
      op: required(from.be32(NFTA_CMP_OP), "NFTA_CMP_OP"),
      sreg: required(from.be32(NFTA_CMP_SREG), "NFTA_CMP_SREG"),
      data: required(readData(from, NFTA_CMP_DATA), "NFTA_CMP_DATA"),
    };
  },
};

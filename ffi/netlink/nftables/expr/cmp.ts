/** `cmp`: compares a register with a constant. Pure. */

import { NFT_REG_1 } from "../../constants.ts";
import { be32, data, fieldCodec } from "../fields.ts";

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

export const cmpCodec = fieldCodec<Compare>("cmp", {
  sreg: be32({ NFTA_CMP_SREG }),
  op: be32({ NFTA_CMP_OP }),
  data: data({ NFTA_CMP_DATA }),
});

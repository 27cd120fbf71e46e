/** `range`: compares a register with two constants. Pure. */

import { be32, data, fieldCodec } from "../fields.ts";

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

export const rangeCodec = fieldCodec<RangeCompare>("range", {
  sreg: be32({ NFTA_RANGE_SREG }),
  op: be32({ NFTA_RANGE_OP }),
  from: data({ NFTA_RANGE_FROM_DATA }),
  to: data({ NFTA_RANGE_TO_DATA }),
});

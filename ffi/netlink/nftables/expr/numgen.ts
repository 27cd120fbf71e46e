/** `numgen`: numbers in turn or at random. Pure. */

import { NFT_REG_1 } from "../../constants.ts";
import { be32, fieldCodec, or } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFT_NG_INCREMENTAL = 0;
export const NFT_NG_RANDOM = 1;
export const NFTA_NG_DREG = 1;
export const NFTA_NG_MODULUS = 2;
export const NFTA_NG_TYPE = 3;
export const NFTA_NG_OFFSET = 4;

/** Loads `offset` and a number below `modulus`: a u32 in host order. */
export interface NumberGenerator {
  readonly kind: "numgen";
  readonly dreg: number;
  readonly modulus: number;
  /** NFT_NG_*. */
  readonly type: number;
  readonly offset: number;
}

/** `[ numgen reg 1 = inc mod 256 ]`: NFT_NG_INCREMENTAL or NFT_NG_RANDOM. */
export function numgen(modulus: number, type: number): NumberGenerator {
  return { kind: "numgen", dreg: NFT_REG_1, modulus, type, offset: 0 };
}

export const numgenCodec = fieldCodec<NumberGenerator>("numgen", {
  dreg: be32({ NFTA_NG_DREG }),
  modulus: be32({ NFTA_NG_MODULUS }),
  type: be32({ NFTA_NG_TYPE }),
  offset: or(be32({ NFTA_NG_OFFSET }), 0),
});

/** `hash`: a number below a modulus that depends on a register, or on the packet's flow. Pure. */

import { NFT_REG_1, NFT_REG_2 } from "../../constants.ts";
import { be32, fieldCodec, optional, or } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFT_HASH_JENKINS = 0;
export const NFT_HASH_SYM = 1;
export const NFTA_HASH_SREG = 1;
export const NFTA_HASH_DREG = 2;
export const NFTA_HASH_LEN = 3;
export const NFTA_HASH_MODULUS = 4;
export const NFTA_HASH_SEED = 5;
export const NFTA_HASH_OFFSET = 6;
export const NFTA_HASH_TYPE = 7;

/** Loads `offset` and a hash modulo `modulus`: a u32 in host order. */
export interface Hash {
  readonly kind: "hash";
  /** The register and its bytes that NFT_HASH_JENKINS reads. */
  readonly sreg?: number;
  readonly length?: number;
  readonly dreg: number;
  readonly modulus: number;
  /** Of NFT_HASH_JENKINS. Without one the kernel draws it. */
  readonly seed?: number;
  readonly offset: number;
  /** NFT_HASH_*. */
  readonly type: number;
}

/** `[ hash reg 1 = jhash(reg 2, length, seed) % mod modulus ]` */
export function jhash(length: number, modulus: number, seed: number): Hash {
  const registers = { sreg: NFT_REG_2, length, dreg: NFT_REG_1 };
  return { kind: "hash", ...registers, modulus, seed, offset: 0, type: NFT_HASH_JENKINS };
}

export const hashCodec = fieldCodec<Hash>("hash", {
  sreg: optional(be32({ NFTA_HASH_SREG })),
  dreg: be32({ NFTA_HASH_DREG }),
  length: optional(be32({ NFTA_HASH_LEN })),
  modulus: be32({ NFTA_HASH_MODULUS }),
  seed: optional(be32({ NFTA_HASH_SEED })),
  offset: or(be32({ NFTA_HASH_OFFSET }), 0),
  type: or(be32({ NFTA_HASH_TYPE }), NFT_HASH_JENKINS),
});

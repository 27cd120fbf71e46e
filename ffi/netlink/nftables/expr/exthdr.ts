/** `exthdr`: extension headers of IPv6, and options of TCP, IPv4, SCTP and DCCP. Pure. */

import { be32, fieldCodec, optional, or, u8, unlessZero } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFT_EXTHDR_F_PRESENT = 1;
export const NFT_EXTHDR_OP_IPV6 = 0;
export const NFTA_EXTHDR_DREG = 1;
export const NFTA_EXTHDR_TYPE = 2;
export const NFTA_EXTHDR_OFFSET = 3;
export const NFTA_EXTHDR_LEN = 4;
export const NFTA_EXTHDR_FLAGS = 5;
export const NFTA_EXTHDR_OP = 6;
export const NFTA_EXTHDR_SREG = 7;

/**
 * Loads bytes of a header or an option, or with NFT_EXTHDR_F_PRESENT whether it is there; or writes
 * them, or removes it.
 */
export interface ExtensionHeader {
  readonly kind: "exthdr";
  /** NFT_EXTHDR_OP_*. */
  readonly op: number;
  readonly type: number;
  readonly offset: number;
  readonly length: number;
  /** NFT_EXTHDR_F_*; absent for none. */
  readonly flags?: number;
  /** Of one that loads. */
  readonly dreg?: number;
  /** Of one that writes. */
  readonly sreg?: number;
}

export const exthdrCodec = fieldCodec<ExtensionHeader>("exthdr", {
  dreg: optional(be32({ NFTA_EXTHDR_DREG })),
  sreg: optional(be32({ NFTA_EXTHDR_SREG })),
  type: u8({ NFTA_EXTHDR_TYPE }),
  offset: or(be32({ NFTA_EXTHDR_OFFSET }), 0),
  length: or(be32({ NFTA_EXTHDR_LEN }), 0),
  op: or(be32({ NFTA_EXTHDR_OP }), NFT_EXTHDR_OP_IPV6),
  flags: unlessZero(be32({ NFTA_EXTHDR_FLAGS })),
});

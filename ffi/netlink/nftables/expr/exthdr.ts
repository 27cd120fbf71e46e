/** `exthdr`: extension headers of IPv6, and options of TCP, IPv4, SCTP and DCCP. Pure. */

import { defined, required } from "../../wire.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

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

export const exthdrCodec: ExpressionCodec<ExtensionHeader> = {
  name: "exthdr",
  kinds: ["exthdr"],
  encode(to, { op, type, offset, length, flags, dreg, sreg }) {
    if (dreg !== undefined) to.be32(NFTA_EXTHDR_DREG, dreg);
    if (sreg !== undefined) to.be32(NFTA_EXTHDR_SREG, sreg);
    to.u8(NFTA_EXTHDR_TYPE, type);
    to.be32(NFTA_EXTHDR_OFFSET, offset);
    to.be32(NFTA_EXTHDR_LEN, length);
    to.be32(NFTA_EXTHDR_OP, op);
    if (flags !== undefined) to.be32(NFTA_EXTHDR_FLAGS, flags);
  },
  decode(from) {
    return defined({
      kind: "exthdr",
      op: from.be32(NFTA_EXTHDR_OP) ?? NFT_EXTHDR_OP_IPV6,
      type: required(from.u8(NFTA_EXTHDR_TYPE), "NFTA_EXTHDR_TYPE"),
      offset: from.be32(NFTA_EXTHDR_OFFSET) ?? 0,
      length: from.be32(NFTA_EXTHDR_LEN) ?? 0,
      flags: from.be32(NFTA_EXTHDR_FLAGS) || undefined,
      dreg: from.be32(NFTA_EXTHDR_DREG),
      sreg: from.be32(NFTA_EXTHDR_SREG),
    });
  },
};

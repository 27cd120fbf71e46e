/** `quota`: how many bytes have come in all. Pure. */

import { required } from "../../wire.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

// linux/netfilter/nf_tables.h
export const NFT_QUOTA_F_INV = 1;
export const NFTA_QUOTA_BYTES = 1;
export const NFTA_QUOTA_FLAGS = 2;
export const NFTA_QUOTA_CONSUMED = 4;

/** Goes on up to `bytes`, or with NFT_QUOTA_F_INV above them. */
export interface Quota {
  readonly kind: "quota";
  readonly bytes: bigint;
  readonly consumed: bigint;
  readonly flags: number;
}

export const quotaCodec: ExpressionCodec<Quota> = {
  name: "quota",
  kinds: ["quota"],
  encode(to, { bytes, consumed, flags }) {
    to.be64(NFTA_QUOTA_BYTES, bytes);
    to.be64(NFTA_QUOTA_CONSUMED, consumed);
    to.be32(NFTA_QUOTA_FLAGS, flags);
  },
  decode(from) {
    return {
      kind: "quota",
      bytes: required(from.be64(NFTA_QUOTA_BYTES), "NFTA_QUOTA_BYTES"),
      consumed: from.be64(NFTA_QUOTA_CONSUMED) ?? 0n,
      flags: from.be32(NFTA_QUOTA_FLAGS) ?? 0,
    };
  },
};

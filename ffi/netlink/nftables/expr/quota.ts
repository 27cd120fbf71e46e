/** `quota`: how many bytes have come in all. Pure. */

import { be32, be64, fieldCodec, or } from "../fields.ts";

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

export const quotaCodec = fieldCodec<Quota>("quota", {
  bytes: be64({ NFTA_QUOTA_BYTES }),
  consumed: or(be64({ NFTA_QUOTA_CONSUMED }), 0n),
  flags: or(be32({ NFTA_QUOTA_FLAGS }), 0),
});

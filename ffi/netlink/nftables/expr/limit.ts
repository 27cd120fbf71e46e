/** `limit`: how many packets or bytes come in a time. Pure. */

import { be32, be64, fieldCodec, or } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFT_LIMIT_F_INV = 1;
export const NFTA_LIMIT_RATE = 1;
export const NFTA_LIMIT_UNIT = 2;
export const NFTA_LIMIT_BURST = 3;
export const NFTA_LIMIT_TYPE = 4;
export const NFTA_LIMIT_FLAGS = 5;

/** Goes on up to a rate, or with NFT_LIMIT_F_INV above it. */
export interface Limit {
  readonly kind: "limit";
  /** So many in `unit` seconds. */
  readonly rate: bigint;
  readonly unit: bigint;
  readonly burst: number;
  /** Packets (0) or bytes (1). */
  readonly type: number;
  readonly flags: number;
}

export const limitCodec = fieldCodec<Limit>("limit", {
  rate: be64({ NFTA_LIMIT_RATE }),
  unit: be64({ NFTA_LIMIT_UNIT }),
  burst: or(be32({ NFTA_LIMIT_BURST }), 0),
  type: or(be32({ NFTA_LIMIT_TYPE }), 0),
  flags: or(be32({ NFTA_LIMIT_FLAGS }), 0),
});

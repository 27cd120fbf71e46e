/** `connlimit`: how many connections there are. Pure. */

import { be32, fieldCodec, or } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFT_CONNLIMIT_F_INV = 1;
export const NFTA_CONNLIMIT_COUNT = 1;
export const NFTA_CONNLIMIT_FLAGS = 2;

/** Goes on up to `count` connections, or with NFT_CONNLIMIT_F_INV above it. */
export interface ConnectionLimit {
  readonly kind: "connlimit";
  readonly count: number;
  readonly flags: number;
}

export const connlimitCodec = fieldCodec<ConnectionLimit>("connlimit", {
  count: be32({ NFTA_CONNLIMIT_COUNT }),
  flags: or(be32({ NFTA_CONNLIMIT_FLAGS }), 0),
});

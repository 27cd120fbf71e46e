/** `reject`: drops the packet and sends its sender an error. Pure. */

import { be32, fieldCodec, optional, u8 } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFT_REJECT_ICMP_UNREACH = 0;
export const NFT_REJECT_TCP_RST = 1;
export const NFT_REJECT_ICMPX_UNREACH = 2;
export const NFTA_REJECT_TYPE = 1;
export const NFTA_REJECT_ICMP_CODE = 2;

/** Answers with a reset (NFT_REJECT_TCP_RST) or with an error of ICMP, of this code. */
export interface Reject {
  readonly kind: "reject";
  /** NFT_REJECT_*. */
  readonly type: number;
  readonly code?: number;
}

export const rejectCodec = fieldCodec<Reject>("reject", {
  type: be32({ NFTA_REJECT_TYPE }),
  code: optional(u8({ NFTA_REJECT_ICMP_CODE })),
});

/** `reject`: drops the packet and tells its sender. Pure. */

import { defined, required } from "../../wire.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

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

export const rejectCodec: ExpressionCodec<Reject> = {
  name: "reject",
  kinds: ["reject"],
  encode(to, { type, code }) {
    to.be32(NFTA_REJECT_TYPE, type);
    if (code !== undefined) to.u8(NFTA_REJECT_ICMP_CODE, code);
  },
  decode(from) {
    return defined({
      kind: "reject",
      type: required(from.be32(NFTA_REJECT_TYPE), "NFTA_REJECT_TYPE"),
      code: from.u8(NFTA_REJECT_ICMP_CODE),
    });
  },
};

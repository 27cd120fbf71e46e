/** `limit`: how many packets or bytes come in a time. Pure. */

import { required } from "../../wire.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

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

export const limitCodec: ExpressionCodec<Limit> = {
  name: "limit",
  kinds: ["limit"],
  encode(to, { rate, unit, burst, type, flags }) {
    to.be64(NFTA_LIMIT_RATE, rate);
    to.be64(NFTA_LIMIT_UNIT, unit);
    to.be32(NFTA_LIMIT_BURST, burst);
    to.be32(NFTA_LIMIT_TYPE, type);
    to.be32(NFTA_LIMIT_FLAGS, flags);
  },
  decode(from) {
    return {
      kind: "limit",
      rate: required(from.be64(NFTA_LIMIT_RATE), "NFTA_LIMIT_RATE"),
      unit: required(from.be64(NFTA_LIMIT_UNIT), "NFTA_LIMIT_UNIT"),
      burst: from.be32(NFTA_LIMIT_BURST) ?? 0,
      type: from.be32(NFTA_LIMIT_TYPE) ?? 0,
      flags: from.be32(NFTA_LIMIT_FLAGS) ?? 0,
    };
  },
};

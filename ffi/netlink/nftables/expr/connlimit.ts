/** `connlimit`: how many connections there are. Pure. */

import { required } from "../../wire.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

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

export const connlimitCodec: ExpressionCodec<ConnectionLimit> = {
  name: "connlimit",
  kinds: ["connlimit"],
  encode(to, { count, flags }) {
    to.be32(NFTA_CONNLIMIT_COUNT, count);
    to.be32(NFTA_CONNLIMIT_FLAGS, flags);
  },
  decode(from) {
    return {
      kind: "connlimit",
      count: required(from.be32(NFTA_CONNLIMIT_COUNT), "NFTA_CONNLIMIT_COUNT"),
      flags: from.be32(NFTA_CONNLIMIT_FLAGS) ?? 0,
    };
  },
};

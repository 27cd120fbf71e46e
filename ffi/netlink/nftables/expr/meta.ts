/** `meta`: what the kernel knows of a packet beside its bytes. Pure. */

import { NFT_REG_1 } from "../../constants.ts";
import { required } from "../../wire.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

// linux/netfilter/nf_tables.h
export const NFT_META_PROTOCOL = 1;
export const NFT_META_MARK = 3;
export const NFT_META_IIF = 4;
export const NFT_META_OIF = 5;
export const NFT_META_IIFNAME = 6;
export const NFT_META_OIFNAME = 7;
export const NFT_META_IIFTYPE = 8;
export const NFT_META_OIFTYPE = 9;
export const NFT_META_SKUID = 10;
export const NFT_META_SKGID = 11;
export const NFT_META_NFTRACE = 12;
export const NFT_META_NFPROTO = 15;
export const NFT_META_L4PROTO = 16;
export const NFT_META_PKTTYPE = 19;
export const NFT_META_IIFGROUP = 21;
export const NFT_META_OIFGROUP = 22;
export const NFT_META_SECPATH = 25;
export const NFT_META_IIFKIND = 26;
export const NFT_META_OIFKIND = 27;
export const NFTA_META_DREG = 1;
export const NFTA_META_KEY = 2;
export const NFTA_META_SREG = 3;

/** Loads a NFT_META_*. */
export interface MetaLoad {
  readonly kind: "meta";
  readonly key: number;
  readonly dreg: number;
}

/** Sets a NFT_META_* from a register. */
export interface MetaSet {
  readonly kind: "meta set";
  readonly key: number;
  readonly sreg: number;
}

/** `[ meta load key => reg 1 ]`: marks and uids u32 in host order, protocols 1 byte. */
export function meta(key: number): MetaLoad {
  return { kind: "meta", key, dreg: NFT_REG_1 };
}

/** `[ meta set key with reg 1 ]` */
export function metaSet(key: number): MetaSet {
  return { kind: "meta set", key, sreg: NFT_REG_1 };
}

export const metaCodec: ExpressionCodec<MetaLoad | MetaSet> = {
  name: "meta",
  kinds: ["meta", "meta set"],
  encode(to, expression) {
    to.be32(NFTA_META_KEY, expression.key);
    if (expression.kind === "meta") to.be32(NFTA_META_DREG, expression.dreg);
    else to.be32(NFTA_META_SREG, expression.sreg);
  },
  decode(from) {
    const key = required(from.be32(NFTA_META_KEY), "NFTA_META_KEY");
    const dreg = from.be32(NFTA_META_DREG);
    if (dreg !== undefined) return { kind: "meta", key, dreg };
    return { kind: "meta set", key, sreg: required(from.be32(NFTA_META_SREG), "NFTA_META_SREG") };
  },
};

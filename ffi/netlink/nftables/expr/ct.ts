/** `ct`: what connection tracking knows of a packet's connection. Pure. */

import { NFT_REG_1 } from "../../constants.ts";
import { defined, required } from "../../wire.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

// linux/netfilter/nf_tables.h
export const NFT_CT_STATE = 0;
export const NFT_CT_DIRECTION = 1;
export const NFT_CT_STATUS = 2;
export const NFT_CT_MARK = 3;
export const NFT_CT_HELPER = 6;
export const NFT_CT_PROTOCOL = 10;
export const NFT_CT_PROTO_SRC = 11;
export const NFT_CT_ZONE = 17;
export const NFT_CT_SRC_IP = 19;
export const NFT_CT_SRC_IP6 = 21;
export const NFTA_CT_DREG = 1;
export const NFTA_CT_KEY = 2;
export const NFTA_CT_DIRECTION = 3;
export const NFTA_CT_SREG = 4;

// linux/netfilter/nf_conntrack_common.h
export const IP_CT_DIR_ORIGINAL = 0;
export const IP_CT_DIR_REPLY = 1;
export const IPS_SEEN_REPLY = 0x02;
export const IPS_ASSURED = 0x04;
export const IPS_CONFIRMED = 0x08;
export const IPS_SRC_NAT = 0x10;
export const IPS_DST_NAT = 0x20;

/** Loads a NFT_CT_* of the packet's connection, and for some keys of which direction of it. */
export interface ConntrackLoad {
  readonly kind: "ct";
  readonly key: number;
  readonly dreg: number;
  /** IP_CT_DIR_*. */
  readonly direction?: number;
}

/** Sets a NFT_CT_* from a register. */
export interface ConntrackSet {
  readonly kind: "ct set";
  readonly key: number;
  readonly sreg: number;
  /** IP_CT_DIR_*. */
  readonly direction?: number;
}

/** `[ ct load key => reg 1 ]`; NFT_CT_DIRECTION is 1 byte, IP_CT_DIR_*. */
export function conntrack(key: number): ConntrackLoad {
  return { kind: "ct", key, dreg: NFT_REG_1 };
}

export const ctCodec: ExpressionCodec<ConntrackLoad | ConntrackSet> = {
  name: "ct",
  kinds: ["ct", "ct set"],
  encode(to, expression) {
    const { kind, key, direction } = expression;
    to.be32(NFTA_CT_KEY, key);
    if (kind === "ct") to.be32(NFTA_CT_DREG, expression.dreg);
    if (direction !== undefined) to.u8(NFTA_CT_DIRECTION, direction);
    if (kind === "ct set") to.be32(NFTA_CT_SREG, expression.sreg);
  },
  decode(from) {
    const key = required(from.be32(NFTA_CT_KEY), "NFTA_CT_KEY");
    const direction = from.u8(NFTA_CT_DIRECTION);
    const dreg = from.be32(NFTA_CT_DREG);
    if (dreg !== undefined) return defined({ kind: "ct", key, dreg, direction });
    const sreg = required(from.be32(NFTA_CT_SREG), "NFTA_CT_SREG");
    return defined({ kind: "ct set", key, sreg, direction });
  },
};

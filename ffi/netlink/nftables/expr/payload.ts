/** `payload`: bytes of the packet. Pure. */

import { NFT_REG_1 } from "../../constants.ts";
import { defined, required } from "../../wire.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

// linux/netfilter/nf_tables.h
export const NFT_PAYLOAD_NETWORK_HEADER = 1;
export const NFT_PAYLOAD_TRANSPORT_HEADER = 2;
export const NFTA_PAYLOAD_DREG = 1;
export const NFTA_PAYLOAD_BASE = 2;
export const NFTA_PAYLOAD_OFFSET = 3;
export const NFTA_PAYLOAD_LEN = 4;
export const NFTA_PAYLOAD_SREG = 5;
export const NFTA_PAYLOAD_CSUM_TYPE = 6;
export const NFTA_PAYLOAD_CSUM_OFFSET = 7;
export const NFTA_PAYLOAD_CSUM_FLAGS = 8;

/** Loads bytes of the packet. */
export interface PayloadLoad {
  readonly kind: "payload";
  /** NFT_PAYLOAD_*: the header that `offset` is of. */
  readonly base: number;
  readonly offset: number;
  readonly length: number;
  readonly dreg: number;
}

/** Writes bytes of the packet, and mends a checksum for it. */
export interface PayloadSet {
  readonly kind: "payload set";
  readonly base: number;
  readonly offset: number;
  readonly length: number;
  readonly sreg: number;
  readonly checksumType?: number;
  readonly checksumOffset?: number;
  readonly checksumFlags?: number;
}

/** `[ payload load 4b @ network header + 16 => reg 1 ]`: `base` is NFT_PAYLOAD_*. */
export function payload(base: number, offset: number, length: number): PayloadLoad {
  return { kind: "payload", base, offset, length, dreg: NFT_REG_1 };
}

export const payloadCodec: ExpressionCodec<PayloadLoad | PayloadSet> = {
  name: "payload",
  kinds: ["payload", "payload set"],
  encode(to, expression) {
    const { kind, base, offset, length } = expression;
    if (kind === "payload") to.be32(NFTA_PAYLOAD_DREG, expression.dreg);
    else to.be32(NFTA_PAYLOAD_SREG, expression.sreg);
    to.be32(NFTA_PAYLOAD_BASE, base);
    to.be32(NFTA_PAYLOAD_OFFSET, offset);
    to.be32(NFTA_PAYLOAD_LEN, length);
    if (kind === "payload") return;
    const { checksumType, checksumOffset, checksumFlags } = expression;
    if (checksumType !== undefined) to.be32(NFTA_PAYLOAD_CSUM_TYPE, checksumType);
    if (checksumOffset !== undefined) to.be32(NFTA_PAYLOAD_CSUM_OFFSET, checksumOffset);
    if (checksumFlags !== undefined) to.be32(NFTA_PAYLOAD_CSUM_FLAGS, checksumFlags);
  },
  decode(from) {
    const place = {
      base: required(from.be32(NFTA_PAYLOAD_BASE), "NFTA_PAYLOAD_BASE"),
      offset: required(from.be32(NFTA_PAYLOAD_OFFSET), "NFTA_PAYLOAD_OFFSET"),
      length: required(from.be32(NFTA_PAYLOAD_LEN), "NFTA_PAYLOAD_LEN"),
    };
    const dreg = from.be32(NFTA_PAYLOAD_DREG);
    if (dreg !== undefined) return { kind: "payload", ...place, dreg };
    return defined({
      kind: "payload set",
      ...place,
      sreg: required(from.be32(NFTA_PAYLOAD_SREG), "NFTA_PAYLOAD_SREG"),
      checksumType: from.be32(NFTA_PAYLOAD_CSUM_TYPE),
      checksumOffset: from.be32(NFTA_PAYLOAD_CSUM_OFFSET),
      checksumFlags: from.be32(NFTA_PAYLOAD_CSUM_FLAGS),
    });
  },
};

/** `nat`: source or destination NAT to the addresses and ports of registers. Pure. */

import { be32, fieldCodec, optional, unlessZero } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFT_NAT_SNAT = 0;
export const NFT_NAT_DNAT = 1;
export const NFTA_NAT_TYPE = 1;
export const NFTA_NAT_FAMILY = 2;
export const NFTA_NAT_REG_ADDR_MIN = 3;
export const NFTA_NAT_REG_ADDR_MAX = 4;
export const NFTA_NAT_REG_PROTO_MIN = 5;
export const NFTA_NAT_REG_PROTO_MAX = 6;
export const NFTA_NAT_FLAGS = 7;

// linux/netfilter/nf_nat.h
export const NF_NAT_RANGE_MAP_IPS = 1;
export const NF_NAT_RANGE_PROTO_SPECIFIED = 2;

/** Translates the source or the destination of a connection, at its first packet. */
export interface Nat {
  readonly kind: "nat";
  /** NFT_NAT_SNAT or NFT_NAT_DNAT. */
  readonly type: number;
  /** NFPROTO_IPV4 or NFPROTO_IPV6, in a table of NFPROTO_INET as well. */
  readonly family: number;
  readonly addressRegister?: number;
  readonly lastAddressRegister?: number;
  readonly portRegister?: number;
  readonly lastPortRegister?: number;
  /** NF_NAT_RANGE_*; absent for none. */
  readonly flags?: number;
}

/**
 * `[ nat dnat ip addr_min reg 1 proto_min reg 9 ]`, with the values that the kernel adds in dumps;
 * without a `portRegister` the connection keeps its port where that is free.
 */
export function nat(
  type: number,
  family: number,
  addressRegister: number,
  portRegister?: number,
): Nat {
  const address = { addressRegister, lastAddressRegister: addressRegister };
  if (portRegister === undefined) {
    return { kind: "nat", type, family, ...address, flags: NF_NAT_RANGE_MAP_IPS };
  }
  const port = { portRegister, lastPortRegister: portRegister };
  const flags = NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED;
  return { kind: "nat", type, family, ...address, ...port, flags };
}

export const natCodec = fieldCodec<Nat>("nat", {
  type: be32({ NFTA_NAT_TYPE }),
  family: be32({ NFTA_NAT_FAMILY }),
  addressRegister: optional(be32({ NFTA_NAT_REG_ADDR_MIN })),
  lastAddressRegister: optional(be32({ NFTA_NAT_REG_ADDR_MAX })),
  portRegister: optional(be32({ NFTA_NAT_REG_PROTO_MIN })),
  lastPortRegister: optional(be32({ NFTA_NAT_REG_PROTO_MAX })),
  flags: unlessZero(be32({ NFTA_NAT_FLAGS })),
});

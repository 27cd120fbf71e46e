/** `tproxy`: hands a packet to a transparent listener. Pure. */

import { NFT_REG_1, NFT_REG_2 } from "../../constants.ts";
import { be32, fieldCodec, optional } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFTA_TPROXY_FAMILY = 1;
export const NFTA_TPROXY_REG_ADDR = 2;
export const NFTA_TPROXY_REG_PORT = 3;

/**
 * Hands the packet to a transparent listener; without one the rule ends. Prerouting only. With an
 * address the family must be one, without it NFPROTO_UNSPEC takes both.
 */
export interface Tproxy {
  readonly kind: "tproxy";
  readonly family: number;
  readonly addressRegister?: number;
  readonly portRegister?: number;
}

/** `[ tproxy ip addr reg 1 port reg 2 ]`; without an address `[ tproxy port reg 1 ]`. */
export function tproxy(family: number, hasAddress: boolean): Tproxy {
  return hasAddress
    ? { kind: "tproxy", family, addressRegister: NFT_REG_1, portRegister: NFT_REG_2 }
    : { kind: "tproxy", family, portRegister: NFT_REG_1 };
}

export const tproxyCodec = fieldCodec<Tproxy>("tproxy", {
  family: be32({ NFTA_TPROXY_FAMILY }),
  addressRegister: optional(be32({ NFTA_TPROXY_REG_ADDR })),
  portRegister: optional(be32({ NFTA_TPROXY_REG_PORT })),
});

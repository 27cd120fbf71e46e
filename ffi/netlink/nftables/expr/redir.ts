/** `redir`: destination NAT to this host. Pure. */

import { NFT_REG_1 } from "../../constants.ts";
import { be32, fieldCodec, optional, unlessZero } from "../fields.ts";
import { NF_NAT_RANGE_PROTO_SPECIFIED } from "./nat.ts";

// linux/netfilter/nf_tables.h
export const NFTA_REDIR_REG_PROTO_MIN = 1;
export const NFTA_REDIR_REG_PROTO_MAX = 2;
export const NFTA_REDIR_FLAGS = 3;

/** Sends the packet to this host, at a port of the range in two registers, or at its own. */
export interface Redirect {
  readonly kind: "redir";
  readonly portRegister?: number;
  readonly lastPortRegister?: number;
  /** NF_NAT_RANGE_*; absent for none. */
  readonly flags?: number;
}

/** `[ redir proto_min reg 1 ]`, with all attributes that the kernel returns in any case. */
export function redirect(): Redirect {
  return {
    kind: "redir",
    portRegister: NFT_REG_1,
    lastPortRegister: NFT_REG_1,
    flags: NF_NAT_RANGE_PROTO_SPECIFIED,
  };
}

export const redirCodec = fieldCodec<Redirect>("redir", {
  portRegister: optional(be32({ NFTA_REDIR_REG_PROTO_MIN })),
  lastPortRegister: optional(be32({ NFTA_REDIR_REG_PROTO_MAX })),
  flags: unlessZero(be32({ NFTA_REDIR_FLAGS })),
});

/** `masq`: source NAT to the address of the interface that the packet leaves by. Pure. */

import { be32, fieldCodec, optional, unlessZero } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFTA_MASQ_FLAGS = 1;
export const NFTA_MASQ_REG_PROTO_MIN = 2;
export const NFTA_MASQ_REG_PROTO_MAX = 3;

/** Translates a connection's source, at a port of the range in two registers, or at its own. */
export interface Masquerade {
  readonly kind: "masq";
  readonly portRegister?: number;
  readonly lastPortRegister?: number;
  /** NF_NAT_RANGE_*; absent for none. */
  readonly flags?: number;
}

/** `[ masq ]` */
export function masquerade(): Masquerade {
  return { kind: "masq" };
}

export const masqCodec = fieldCodec<Masquerade>("masq", {
  flags: unlessZero(be32({ NFTA_MASQ_FLAGS })),
  portRegister: optional(be32({ NFTA_MASQ_REG_PROTO_MIN })),
  lastPortRegister: optional(be32({ NFTA_MASQ_REG_PROTO_MAX })),
});

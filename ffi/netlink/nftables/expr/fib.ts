/** `fib`: looks an address of the packet up in the routing tables. Pure. */

import { NFT_REG_1 } from "../../constants.ts";
import { be32, fieldCodec, or } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFT_FIB_RESULT_OIF = 1;
export const NFT_FIB_RESULT_OIFNAME = 2;
export const NFT_FIB_RESULT_ADDRTYPE = 3;
export const NFTA_FIB_F_SADDR = 1;
export const NFTA_FIB_F_DADDR = 2;
export const NFTA_FIB_F_MARK = 4;
export const NFTA_FIB_F_IIF = 8;
export const NFTA_FIB_F_OIF = 16;
export const NFTA_FIB_F_PRESENT = 32;
export const NFTA_FIB_DREG = 1;
export const NFTA_FIB_RESULT = 2;
export const NFTA_FIB_FLAGS = 3;

/** Loads the result of a route look-up; NFTA_FIB_F_* chooses the address. */
export interface FibLoad {
  readonly kind: "fib";
  readonly result: number;
  readonly flags: number;
  readonly dreg: number;
}

/** `[ fib daddr type => reg 1 ]`: the RTN_* of the address, a host-order u32. */
export function fibType(flags: number): FibLoad {
  return { kind: "fib", result: NFT_FIB_RESULT_ADDRTYPE, flags, dreg: NFT_REG_1 };
}

export const fibCodec = fieldCodec<FibLoad>("fib", {
  flags: or(be32({ NFTA_FIB_FLAGS }), 0),
  result: be32({ NFTA_FIB_RESULT }),
  dreg: be32({ NFTA_FIB_DREG }),
});

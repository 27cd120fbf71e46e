/** `fib`: what the routing tables say of an address of the packet. Pure. */

import { NFT_REG_1 } from "../../constants.ts";
import { required } from "../../wire.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

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

/** Loads what the routing tables say of an address of the packet: NFTA_FIB_F_* says which. */
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

export const fibCodec: ExpressionCodec<FibLoad> = {
  name: "fib",
  kinds: ["fib"],
  encode(to, { result, flags, dreg }) {
    to.be32(NFTA_FIB_FLAGS, flags);
    to.be32(NFTA_FIB_RESULT, result);
    to.be32(NFTA_FIB_DREG, dreg);
  },
  decode(from) {
    return {
      kind: "fib",
      result: required(from.be32(NFTA_FIB_RESULT), "NFTA_FIB_RESULT"),
      flags: from.be32(NFTA_FIB_FLAGS) ?? 0,
      dreg: required(from.be32(NFTA_FIB_DREG), "NFTA_FIB_DREG"),
    };
  },
};

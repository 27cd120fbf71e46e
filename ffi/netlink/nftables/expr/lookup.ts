/** `lookup`: looks a register up in a set or a map. Pure. */

import { NFT_REG_1 } from "../../constants.ts";
import { defined, required } from "../../wire.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

// linux/netfilter/nf_tables.h
export const NFT_LOOKUP_F_INV = 1;
export const NFTA_LOOKUP_SET = 1;
export const NFTA_LOOKUP_SREG = 2;
export const NFTA_LOOKUP_DREG = 3;
export const NFTA_LOOKUP_SET_ID = 4;
export const NFTA_LOOKUP_FLAGS = 5;

/**
 * Goes on if the set has the register's value, or with NFT_LOOKUP_F_INV if it has not. With `dreg`
 * the set is a map, and what it has for the value is loaded; NFT_REG_VERDICT carries it out.
 */
export interface Lookup {
  readonly kind: "lookup";
  readonly set: string;
  readonly sreg: number;
  readonly dreg?: number;
  /** The set's id, for one that the same batch makes. The kernel does not tell it back. */
  readonly setId?: number;
  readonly flags?: number;
}

/** `[ lookup reg 1 set name ]`; `flags` NFT_LOOKUP_F_INV for "not in". */
export function lookup(set: { name: string; id?: number }, flags = 0): Lookup {
  const base = { kind: "lookup", set: set.name, sreg: NFT_REG_1 } as const;
  const identified = set.id === undefined ? base : { ...base, setId: set.id };
  return flags === 0 ? identified : { ...identified, flags };
}

export const lookupCodec: ExpressionCodec<Lookup> = {
  name: "lookup",
  kinds: ["lookup"],
  encode(to, { set, sreg, dreg, setId, flags }) {
    to.be32(NFTA_LOOKUP_SREG, sreg);
    if (dreg !== undefined) to.be32(NFTA_LOOKUP_DREG, dreg);
    to.cstring(NFTA_LOOKUP_SET, set);
    if (setId !== undefined) to.be32(NFTA_LOOKUP_SET_ID, setId);
    if (flags !== undefined) to.be32(NFTA_LOOKUP_FLAGS, flags);
  },
  decode(from) {
    return defined({
      kind: "lookup",
      set: required(from.string(NFTA_LOOKUP_SET), "NFTA_LOOKUP_SET"),
      sreg: required(from.be32(NFTA_LOOKUP_SREG), "NFTA_LOOKUP_SREG"),
      dreg: from.be32(NFTA_LOOKUP_DREG),
      setId: from.be32(NFTA_LOOKUP_SET_ID),
      flags: from.be32(NFTA_LOOKUP_FLAGS) || undefined,
    });
  },
};

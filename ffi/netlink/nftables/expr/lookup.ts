/** `lookup`: looks a register up in a set or a map. Pure. */

import { NFT_REG_1 } from "../../constants.ts";
import { be32, fieldCodec, optional, text, unlessZero } from "../fields.ts";

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
  /** The set's id, for one that the same batch makes. The kernel does not return it. */
  readonly setId?: number;
  readonly flags?: number;
}

/** `[ lookup reg 1 set name ]`; `flags` NFT_LOOKUP_F_INV for "not in". */
export function lookup(set: { name: string; id?: number }, flags = 0): Lookup {
  const base = { kind: "lookup", set: set.name, sreg: NFT_REG_1 } as const;
  const identified = set.id === undefined ? base : { ...base, setId: set.id };
  return flags === 0 ? identified : { ...identified, flags };
}

export const lookupCodec = fieldCodec<Lookup>("lookup", {
  sreg: be32({ NFTA_LOOKUP_SREG }),
  dreg: optional(be32({ NFTA_LOOKUP_DREG })),
  set: text({ NFTA_LOOKUP_SET }),
  setId: optional(be32({ NFTA_LOOKUP_SET_ID })),
  flags: unlessZero(be32({ NFTA_LOOKUP_FLAGS })),
});

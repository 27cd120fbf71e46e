/** `objref`: applies a named object to the packet or its connection. Pure. */

import { be32, fieldCodec, optional, text } from "../fields.ts";

// linux/netfilter/nf_tables.h
export const NFTA_OBJREF_IMM_TYPE = 1;
export const NFTA_OBJREF_IMM_NAME = 2;
export const NFTA_OBJREF_SET_SREG = 3;
export const NFTA_OBJREF_SET_NAME = 4;
export const NFTA_OBJREF_SET_ID = 5;

/** Names the object itself, or a map of objects and the register that holds the map's key. */
export interface ObjectReference {
  readonly kind: "objref";
  /** NFT_OBJECT_*, of an object that is named. */
  readonly type?: number;
  readonly name?: string;
  readonly sreg?: number;
  readonly set?: string;
  readonly setId?: number;
}

/** `[ objref type 7 name t4 ]` */
export function objectReference(type: number, name: string): ObjectReference {
  return { kind: "objref", type, name };
}

export const objrefCodec = fieldCodec<ObjectReference>("objref", {
  type: optional(be32({ NFTA_OBJREF_IMM_TYPE })),
  name: optional(text({ NFTA_OBJREF_IMM_NAME })),
  sreg: optional(be32({ NFTA_OBJREF_SET_SREG })),
  set: optional(text({ NFTA_OBJREF_SET_NAME })),
  setId: optional(be32({ NFTA_OBJREF_SET_ID })),
});

/** Values and verdicts in the form that nf_tables has them everywhere: NFTA_DATA_*. Pure. */

import {
  NFTA_DATA_VALUE,
  NFTA_DATA_VERDICT,
  NFTA_VERDICT_CHAIN,
  NFTA_VERDICT_CODE,
  NLA_F_NESTED,
} from "../constants.ts";
import { type Attributes, defined, required, type Writer } from "../wire.ts";

/** The verdict on a packet. */
export interface Decision {
  /** NF_ACCEPT, NF_DROP, NFT_RETURN, NFT_JUMP, NFT_GOTO, … */
  readonly code: number;
  /** Where NFT_JUMP and NFT_GOTO go. */
  readonly chain?: string;
}

/** Writes a value in the form that registers are compared with: NFTA_DATA_VALUE. */
export function writeData(to: Writer, type: number, value: Uint8Array): void {
  // Without a closure: sets have 200,000 elements.
  const at = to.open(type | NLA_F_NESTED);
  to.bytes(NFTA_DATA_VALUE, value);
  to.close(at);
}

/** The inverse of `writeData`; undefined when it is absent or no value. */
export function readData(from: Attributes, type: number): Uint8Array | undefined {
  return from.nested(type)?.bytes(NFTA_DATA_VALUE);
}

/** Writes a verdict instead of a value: NFTA_DATA_VERDICT. */
export function writeVerdict(to: Writer, type: number, { code, chain }: Decision): void {
  to.nest(type | NLA_F_NESTED, () => {
    to.nest(NFTA_DATA_VERDICT | NLA_F_NESTED, () => {
      to.be32(NFTA_VERDICT_CODE, code);
      if (chain !== undefined) to.cstring(NFTA_VERDICT_CHAIN, chain);
    });
  });
}

/** The inverse of `writeVerdict`; undefined when it is absent or no verdict. */
export function readVerdict(from: Attributes, type: number): Decision | undefined {
  const decision = from.nested(type)?.nested(NFTA_DATA_VERDICT);
  if (decision === undefined) return undefined;
  return defined({
    code: required(decision.signed32(NFTA_VERDICT_CODE), "NFTA_VERDICT_CODE"),
    chain: decision.string(NFTA_VERDICT_CHAIN),
  });
}

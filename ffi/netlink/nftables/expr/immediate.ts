/** `immediate`: loads a constant, or decides on the packet. Pure. */

import { NFT_REG_1, NFT_REG_VERDICT } from "../../constants.ts";
import { required } from "../../wire.ts";
import { type Decision, readData, readVerdict, writeData, writeVerdict } from "../data.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

// linux/netfilter/nf_tables.h
export const NFTA_IMMEDIATE_DREG = 1;
export const NFTA_IMMEDIATE_DATA = 2;

/** Loads a constant. */
export interface Immediate {
  readonly kind: "immediate";
  readonly dreg: number;
  readonly data: Uint8Array;
}

/** Decides: NF_ACCEPT, NF_DROP, NFT_RETURN, or NFT_JUMP and NFT_GOTO to a chain. */
export interface Verdict extends Decision {
  readonly kind: "verdict";
}

/** `[ immediate reg 1 data ]` */
export function immediate(data: Uint8Array, dreg: number = NFT_REG_1): Immediate {
  return { kind: "immediate", dreg, data };
}

/** `[ immediate reg 0 accept ]`; `chain` is where NFT_JUMP and NFT_GOTO go. */
export function verdict(code: number, chain?: string): Verdict {
  return chain === undefined ? { kind: "verdict", code } : { kind: "verdict", code, chain };
}

export const immediateCodec: ExpressionCodec<Immediate | Verdict> = {
  name: "immediate",
  kinds: ["immediate", "verdict"],
  encode(to, expression) {
    const isVerdict = expression.kind === "verdict";
    to.be32(NFTA_IMMEDIATE_DREG, isVerdict ? NFT_REG_VERDICT : expression.dreg);
    if (isVerdict) writeVerdict(to, NFTA_IMMEDIATE_DATA, expression);
    else writeData(to, NFTA_IMMEDIATE_DATA, expression.data);
  },
  decode(from) {
    const dreg = required(from.be32(NFTA_IMMEDIATE_DREG), "NFTA_IMMEDIATE_DREG");
    const decision = readVerdict(from, NFTA_IMMEDIATE_DATA);
    if (decision === undefined) {
      const data = required(readData(from, NFTA_IMMEDIATE_DATA), "NFTA_DATA_VALUE");
      return { kind: "immediate", dreg, data };
    }
    return dreg === NFT_REG_VERDICT ? { kind: "verdict", ...decision } : undefined;
  },
};

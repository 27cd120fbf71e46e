/** `bitwise`: arithmetic of bits on a register. Pure. */

import { NFT_REG_1 } from "../../constants.ts";
import { type Attributes, defined, required, type Writer } from "../../wire.ts";
import { readData, writeData } from "../data.ts";
import type { ExpressionCodec } from "../expression-codec.ts";

// linux/netfilter/nf_tables.h
export const NFT_BITWISE_MASK_XOR = 0;
export const NFT_BITWISE_LSHIFT = 1;
export const NFT_BITWISE_RSHIFT = 2;
export const NFT_BITWISE_AND = 3;
export const NFT_BITWISE_OR = 4;
export const NFT_BITWISE_XOR = 5;
export const NFTA_BITWISE_SREG = 1;
export const NFTA_BITWISE_DREG = 2;
export const NFTA_BITWISE_LEN = 3;
export const NFTA_BITWISE_MASK = 4;
export const NFTA_BITWISE_XOR = 5;
export const NFTA_BITWISE_OP = 6;
export const NFTA_BITWISE_DATA = 7;
export const NFTA_BITWISE_SREG2 = 8;

/** Writes `(register & mask) ^ xor` to a register; both are as long as what it holds. */
export interface Bitwise {
  readonly kind: "bitwise";
  readonly sreg: number;
  readonly dreg: number;
  readonly mask: Uint8Array;
  readonly xor: Uint8Array;
}

/** A shift, or one of the operations of Linux 6.13, by a constant or by another register. */
export interface BitOperation {
  readonly kind: "bit operation";
  /** NFT_BITWISE_LSHIFT, … but for NFT_BITWISE_MASK_XOR. */
  readonly op: number;
  readonly sreg: number;
  readonly dreg: number;
  /** The bytes of the register that it is of. */
  readonly length: number;
  /** Of shifts a u32 in host order. */
  readonly operand?: Uint8Array;
  readonly operandRegister?: number;
}

/** `[ bitwise reg 1 = ( reg 1 & mask ) ^ xor ]` */
export function bitwise(mask: Uint8Array, xor: Uint8Array): Bitwise {
  return { kind: "bitwise", sreg: NFT_REG_1, dreg: NFT_REG_1, mask, xor };
}

export const bitwiseCodec: ExpressionCodec<Bitwise | BitOperation> = {
  name: "bitwise",
  kinds: ["bitwise", "bit operation"],
  encode(to, expression) {
    to.be32(NFTA_BITWISE_SREG, expression.sreg);
    to.be32(NFTA_BITWISE_DREG, expression.dreg);
    if (expression.kind === "bitwise") writeMasks(to, expression);
    else writeOperation(to, expression);
  },
  decode(from) {
    const op = from.be32(NFTA_BITWISE_OP) ?? NFT_BITWISE_MASK_XOR;
    const sreg = required(from.be32(NFTA_BITWISE_SREG), "NFTA_BITWISE_SREG");
    const dreg = required(from.be32(NFTA_BITWISE_DREG), "NFTA_BITWISE_DREG");
    if (op !== NFT_BITWISE_MASK_XOR) return readOperation(from, op, sreg, dreg);
    const [mask, xor] = [readData(from, NFTA_BITWISE_MASK), readData(from, NFTA_BITWISE_XOR)];
    if (mask === undefined || xor === undefined || mask.length !== xor.length) return;
    return { kind: "bitwise", sreg, dreg, mask, xor };
  },
};

function writeMasks(to: Writer, { mask, xor }: Bitwise): void {
  to.be32(NFTA_BITWISE_OP, NFT_BITWISE_MASK_XOR);
  to.be32(NFTA_BITWISE_LEN, mask.length);
  writeData(to, NFTA_BITWISE_MASK, mask);
  writeData(to, NFTA_BITWISE_XOR, xor);
}

function writeOperation(to: Writer, { op, length, operand, operandRegister }: BitOperation): void {
  to.be32(NFTA_BITWISE_OP, op);
  to.be32(NFTA_BITWISE_LEN, length);
  if (operand !== undefined) writeData(to, NFTA_BITWISE_DATA, operand);
  if (operandRegister !== undefined) to.be32(NFTA_BITWISE_SREG2, operandRegister);
}

function readOperation(from: Attributes, op: number, sreg: number, dreg: number): BitOperation {
  return defined({
    kind: "bit operation",
    op,
    sreg,
    dreg,
    length: required(from.be32(NFTA_BITWISE_LEN), "NFTA_BITWISE_LEN"),
    operand: readData(from, NFTA_BITWISE_DATA),
    operandRegister: from.be32(NFTA_BITWISE_SREG2),
  });
}

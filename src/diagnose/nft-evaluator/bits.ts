import {
  NFT_CMP_EQ,
  NFT_CMP_GT,
  NFT_CMP_GTE,
  NFT_CMP_LT,
  NFT_CMP_LTE,
  NFT_CMP_NEQ,
} from "../../../ffi/netlink/nftables/expr/cmp.ts";
/** Values with bits that may be unknown, and comparisons with three results. Pure. */
import { fromHostOrder32, hostOrder32 } from "../../../ffi/netlink/nftables/registers.ts";

/** Whether a condition holds; `maybe` where that depends on what is not known. */
export type Ternary = "yes" | "no" | "maybe";

/** Bytes and a mask of the bits that are known. Both are of one length; unknown bits are 0. */
export interface Bits {
  readonly value: Uint8Array;
  readonly known: Uint8Array;
}

/** A value that is known. */
export function known(value: Uint8Array): Bits {
  return { value, known: new Uint8Array(value.length).fill(0xff) };
}

/** `length` bytes of which nothing is known. */
export function unknownBits(length: number): Bits {
  return { value: new Uint8Array(length), known: new Uint8Array(length) };
}

/** Whether every bit is known. */
export function isKnown({ known: mask }: Bits): boolean {
  return mask.every((byte) => byte === 0xff);
}

/** The opposite; unknown stays unknown. */
export function not(answer: Ternary): Ternary {
  if (answer === "maybe") return answer;
  return answer === "yes" ? "no" : "yes";
}

/** A condition with a known result. */
export function ternary(condition: boolean): Ternary {
  return condition ? "yes" : "no";
}

/** Whether all of them hold. */
export function every(answers: readonly Ternary[]): Ternary {
  if (answers.includes("no")) return "no";
  return answers.includes("maybe") ? "maybe" : "yes";
}

/** Whether the value is `data`. */
function equals({ value, known: mask }: Bits, data: Uint8Array): Ternary {
  const differs = data.some((byte, i) => ((byte ^ (value[i] ?? 0)) & (mask[i] ?? 0)) !== 0);
  if (differs) return "no";
  return mask.subarray(0, data.length).every((byte) => byte === 0xff) ? "yes" : "maybe";
}

/** Compares as NFT_CMP_*: the orders are of bytes, the first one first. */
export function compares(op: number, bits: Bits, data: Uint8Array): Ternary {
  if (op === NFT_CMP_EQ) return equals(bits, data);
  if (op === NFT_CMP_NEQ) return not(equals(bits, data));
  const holds = (value: Uint8Array) => {
    const order = Buffer.compare(value, data);
    if (op === NFT_CMP_LT) return order < 0;
    if (op === NFT_CMP_LTE) return order <= 0;
    return op === NFT_CMP_GT ? order > 0 : op === NFT_CMP_GTE && order >= 0;
  };
  const [low, high] = [holds(bits.value), holds(highest(bits))];
  return low === high ? ternary(low) : "maybe";
}

/** Whether the value lies from `first` to `last`, both within. */
export function within(bits: Bits, first: Uint8Array, last: Uint8Array): Ternary {
  if (Buffer.compare(first, last) === 0) return equals(bits, first);
  return every([compares(NFT_CMP_GTE, bits, first), compares(NFT_CMP_LTE, bits, last)]);
}

/** The largest value that it may have. */
function highest({ value, known: mask }: Bits): Uint8Array {
  return value.map((byte, i) => byte | (~(mask[i] ?? 0) & 0xff));
}

/** `(bits & mask) ^ xor`: what the mask takes away is known. */
export function masked(bits: Bits, mask: Uint8Array, xor: Uint8Array): Bits {
  const knownMask = bits.known.map((byte, i) => byte | (~(mask[i] ?? 0) & 0xff));
  const value = bits.value.map((byte, i) => {
    return ((byte & (mask[i] ?? 0)) ^ (xor[i] ?? 0)) & (knownMask[i] ?? 0);
  });
  return { value, known: knownMask };
}

/** A u32 in host order, of which the bits of `mask` are known. */
export function host32(value: number, mask = 0xffff_ffff): Bits {
  return { value: hostOrder32(value & mask), known: hostOrder32(mask) };
}

/** The reverse of `host32`. */
export function fromHost32({ value, known: mask }: Bits): { value: number; known: number } {
  return { value: fromHostOrder32(value), known: fromHostOrder32(mask) };
}

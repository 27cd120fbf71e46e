/** The registers of one rule: NFT_REG_1 to NFT_REG_4 of 16 bytes, or NFT_REG32_* of 4. Pure. */

import type { Bits } from "./bits.ts";

const size = 16 * 5;

/** Holds of every bit whether it is known. A new rule begins with nothing known. */
export class Registers {
  private readonly value = new Uint8Array(size);
  private readonly known = new Uint8Array(size);

  /** Writes a value; the rest of its last 4 bytes become 0, as in the kernel. */
  write(register: number, { value, known }: Bits): void {
    const at = offsetOf(register);
    const end = Math.min(size, at + 4 * Math.ceil(value.length / 4));
    this.value.fill(0, at, end);
    this.known.fill(0xff, at, end);
    this.value.set(value.subarray(0, size - at), at);
    this.known.set(known.subarray(0, size - at), at);
  }

  read(register: number, length: number): Bits {
    const at = offsetOf(register);
    return {
      value: this.value.slice(at, at + length),
      known: this.known.slice(at, at + length),
    };
  }
}

/** Where a register begins: 0 to 4 are 16 bytes wide, from 8 on there are 16 of 4 bytes. */
function offsetOf(register: number): number {
  return register < 8 ? 16 * Math.min(register, 4) : Math.min(16 + 4 * (register - 8), size - 4);
}

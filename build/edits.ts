/** Changes to a file as values: what each step of the link wants written, and where. */

import { LinkError, PHDR_BYTES, type Segment } from "./elf.ts";

export interface Edit {
  /** An offset in the file. */
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** Little-endian words of 64 bits; negative numbers as two's complement. */
export function words(...values: readonly number[]): Uint8Array {
  return new Uint8Array(new BigInt64Array(values.map(BigInt)).buffer);
}

/** A program header as it stands in the file. The physical address repeats the virtual one. */
export function programHeader(segment: Segment): Uint8Array {
  const bytes = new Uint8Array(PHDR_BYTES);
  bytes.set(new Uint8Array(new Uint32Array([segment.type, segment.flags]).buffer));
  const { offset, address, fileBytes, memoryBytes, align } = segment;
  bytes.set(words(offset, address, address, fileBytes, memoryBytes, align), 8);
  return bytes;
}

/** A copy of `bytes`, followed by zeros up to `length`, with the edits. They must not overlap. */
export function withEdits(
  bytes: Uint8Array,
  edits: readonly Edit[],
  length = bytes.length,
): Uint8Array {
  const copy = new Uint8Array(length);
  copy.set(bytes);
  let end = 0;
  for (const edit of edits.toSorted((a, b) => a.offset - b.offset)) {
    if (edit.offset < end) {
      throw new LinkError(`two steps of the link change the byte at 0x${edit.offset.toString(16)}`);
    }
    end = edit.offset + edit.bytes.length;
    if (end > length) {
      throw new LinkError(`a step of the link writes past the end, at 0x${end.toString(16)}`);
    }
    copy.set(edit.bytes, edit.offset);
  }
  return copy;
}

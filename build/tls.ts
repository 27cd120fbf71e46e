/**
 * Thread-local storage: the executable's block and libstdc++'s become one, which ld-musl allocates
 * for each thread as the executable's. libstdc++ has zero bytes only.
 */

import type { Architecture } from "./architecture.ts";
import { type Elf, LinkError, onlySegment, PT_TLS, roundUp, type Segment } from "./elf.ts";

/** AArch64 keeps two words at the thread pointer, in front of the first block. */
const GAP_ABOVE_THREAD_POINTER = 16;

export interface MergedTls {
  /** The new PT_TLS. Its offset and address are the old ones where `image` is undefined. */
  readonly segment: Segment;
  /** The bytes with which each thread's block begins, if they have to move. */
  readonly image: Uint8Array | undefined;
  /** Where a variable of libstdc++ is, from the thread pointer. */
  fromThreadPointer(offset: number): number;
  /** Where it is in the merged block. */
  inBlock(offset: number): number;
}

/**
 * Merges the two blocks. Below the thread pointer (x64) the executable's code has the distances
 * from the block's end built in, so libstdc++'s bytes come first and the image moves to `imageAt`.
 * Above it (arm64) they are distances from the start, so libstdc++'s come last and only the size
 * grows.
 */
export function mergeTls(
  architecture: Architecture,
  app: Elf,
  library: Elf,
  imageAt: Pick<Segment, "offset" | "address">,
): MergedTls {
  const old = onlySegment(app, PT_TLS);
  const added = onlySegment(library, PT_TLS);
  if (added.fileBytes !== 0) {
    throw new LinkError(
      `${library.name} has thread-local variables with a value; the link expects zeros`,
    );
  }
  const align = Math.max(old.align, 16);
  if (added.align > align) {
    throw new LinkError(
      `${library.name} aligns thread-local variables to ${added.align} bytes; ${align} are allowed`,
    );
  }
  const room = roundUp(added.memoryBytes, align);
  return architecture.tls === "below" ? mergeBelow(app, old, room, imageAt) : mergeAbove(old, room);
}

function mergeBelow(
  app: Elf,
  old: Segment,
  room: number,
  imageAt: Pick<Segment, "offset" | "address">,
): MergedTls {
  for (const block of [old, imageAt]) {
    if (block.address % old.align !== 0) {
      throw new LinkError(
        `the TLS image at 0x${block.address.toString(16)} is not aligned to ${old.align} bytes`,
      );
    }
  }
  const end = old.address + old.fileBytes;
  const moved = app.relocations.find(({ address }) => address >= old.address && address < end);
  if (moved !== undefined) {
    throw new LinkError(`${app.name} has a relocation in its TLS image, which the link moves`);
  }
  const image = new Uint8Array(room + old.fileBytes);
  image.set(app.bytes.subarray(old.offset, old.offset + old.fileBytes), room);
  const blockBytes = roundUp(old.memoryBytes, old.align) + room;
  return {
    segment: { ...old, ...imageAt, fileBytes: image.length, memoryBytes: old.memoryBytes + room },
    image,
    fromThreadPointer: (offset) => offset - blockBytes,
    inBlock: (offset) => offset,
  };
}

function mergeAbove(old: Segment, room: number): MergedTls {
  const first = roundUp(old.memoryBytes, 16);
  // The loader gives the block the same remainder by its alignment as the image's address has.
  const remainder = (old.address - GAP_ABOVE_THREAD_POINTER) % old.align;
  const block = GAP_ABOVE_THREAD_POINTER + remainder;
  return {
    segment: { ...old, memoryBytes: first + room },
    image: undefined,
    fromThreadPointer: (offset) => block + first + offset,
    inBlock: (offset) => first + offset,
  };
}

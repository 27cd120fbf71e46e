/**
 * Where things go, in memory and in the file: ld-musl, libstdc++ and the stub page behind the
 * executable.
 */

import type { Architecture } from "./architecture.ts";
import { withEdits } from "./edits.ts";
import {
  type Elf,
  endOf,
  LinkError,
  loadsOf,
  onlySegment,
  PF_R,
  PF_W,
  PT_GNU_RELRO,
  roundUp,
  type Segment,
} from "./elf.ts";

/** Where the images are mapped; the executable has addresses of its own. */
export interface Placement {
  readonly libc: number;
  readonly library: number;
  readonly stub: number;
}

/** Behind the executable, each at a boundary that suits every page size. */
export function placeImages(app: Elf, libc: Elf, library: Elf): Placement {
  const atLibc = roundUp(endOf(app), 0x200000);
  const atLibrary = roundUp(atLibc + endOf(libc), 0x10000);
  return { libc: atLibc, library: atLibrary, stub: roundUp(atLibrary + endOf(library), 0x10000) };
}

/** ld-musl's segments at `base`, its file at `offset`. Its .bss becomes bytes of the file. */
export function libcSegments(
  { pageBytes }: Architecture,
  libc: Elf,
  base: number,
  offset: number,
): { segments: Segment[]; bytes: Uint8Array } {
  const loads = loadsOf(libc);
  const last = loads.at(-1);
  if (
    last === undefined ||
    loads.some((load) => load !== last && load.fileBytes !== load.memoryBytes)
  ) {
    throw new LinkError(`${libc.name} has zeros behind another segment than its last`);
  }
  const content = libc.bytes.subarray(0, last.offset + last.fileBytes);
  return {
    segments: loads.map((load) => moved(load, base, offset + load.offset, pageBytes)),
    bytes: withEdits(content, [], last.offset + last.memoryBytes),
  };
}

/** libstdc++'s segments at `base`, its memory image at `offset`; what is relocated is read-only. */
export function librarySegments(
  { pageBytes }: Architecture,
  library: Elf,
  base: number,
  offset: number,
): Segment[] {
  const relro = onlySegment(library, PT_GNU_RELRO);
  const cut = Math.floor((relro.address + relro.memoryBytes) / pageBytes) * pageBytes;
  return loadsOf(library).flatMap((load) => {
    const end = load.address + load.memoryBytes;
    const part = (from: number, to: number, flags: number) =>
      moved(
        { ...load, flags, address: from, memoryBytes: to - from },
        base,
        offset + from,
        pageBytes,
      );
    if ((load.flags & PF_W) === 0) return [part(load.address, end, load.flags)];
    if (cut <= load.address || cut >= end) return [part(load.address, end, load.flags)];
    return [part(load.address, cut, PF_R), part(cut, end, load.flags)];
  });
}

function moved(load: Segment, base: number, offset: number, align: number): Segment {
  const { memoryBytes } = load;
  return { ...load, address: base + load.address, offset, fileBytes: memoryBytes, align };
}

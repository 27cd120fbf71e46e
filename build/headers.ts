/** The executable's own headers: its dynamic section, its program headers and the ELF header. */

import { type Edit, programHeader, words } from "./edits.ts";
import {
  DT_NEEDED,
  DT_NULL,
  DT_STRTAB,
  type DynamicEntry,
  type Elf,
  fileOffset,
  LinkError,
  onlySegment,
  PHDR_BYTES,
  PT_DYNAMIC,
  PT_PHDR,
  readText,
  type Segment,
} from "./elf.ts";

/**
 * The dynamic section without the libraries that are inside; only libc, which ld-musl is, stays.
 */
export function withoutNeeded(app: Elf, soname: RegExp): Edit {
  const strings = app.dynamic.find(({ tag }) => tag === DT_STRTAB)?.value ?? 0;
  const nameOf = ({ value }: DynamicEntry) => readText(app.bytes, fileOffset(app, strings + value));
  const kept = app.dynamic.filter(
    (entry) => entry.tag !== DT_NEEDED || !soname.test(nameOf(entry)),
  );
  const other = kept.filter(({ tag }) => tag === DT_NEEDED).map(nameOf);
  if (other.length !== 1 || !/^libc\./.test(other[0] ?? "")) {
    throw new LinkError(`${app.name} needs ${other.join(", ")}; the link knows libstdc++ and libc`);
  }
  const entries = kept.flatMap(({ tag, value }) => [tag, value]);
  while (entries.length < app.dynamic.length * 2) entries.push(DT_NULL, 0);
  return { offset: onlySegment(app, PT_DYNAMIC).offset, bytes: words(...entries) };
}

/**
 * The ELF header's new fields: entry, program headers, and no sections, which `strip` would follow.
 */
export function headerEdits(entry: number, headersAt: number, headerCount: number): Edit[] {
  const count = new Uint8Array(new Uint16Array([headerCount]).buffer);
  return [
    { offset: 24, bytes: words(entry, headersAt, 0) },
    { offset: 56, bytes: count },
    { offset: 60, bytes: new Uint8Array(4) },
  ];
}

/** Replaces one program header in the executable's own table, which is what ld-musl reads. */
export function replaceHeader(app: Elf, old: Segment, segment: Segment): Edit {
  const table = fileOffset(app, onlySegment(app, PT_PHDR).address);
  return {
    offset: table + app.segments.indexOf(old) * PHDR_BYTES,
    bytes: programHeader(segment),
  };
}

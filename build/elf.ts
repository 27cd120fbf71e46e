/**
 * ELF files as the static link reads them: 64-bit, little-endian, x86-64 or AArch64. Reading only;
 * every change to a file is an `Edit`. Names and numbers are those of elf(5).
 */

/** Why the static link cannot be made. The text is shown as it is. */
export class LinkError extends Error {}

export const ET_EXEC = 2;

export const PT_LOAD = 1;
export const PT_DYNAMIC = 2;
export const PT_NOTE = 4;
export const PT_PHDR = 6;
export const PT_TLS = 7;
export const PT_GNU_STACK = 0x6474e551;
export const PT_GNU_RELRO = 0x6474e552;

export const PF_X = 1;
export const PF_W = 2;
export const PF_R = 4;

export const DT_NULL = 0;
export const DT_NEEDED = 1;
const DT_PLTRELSZ = 2;
const DT_HASH = 4;
export const DT_STRTAB = 5;
const DT_SYMTAB = 6;
const DT_RELA = 7;
const DT_RELASZ = 8;
const DT_JMPREL = 23;
const DT_RELR = 36;
const DT_GNU_HASH = 0x6ffffef5;

export const STB_LOCAL = 0;
export const STB_WEAK = 2;
export const STT_TLS = 6;
export const STT_GNU_IFUNC = 10;
export const SHN_UNDEF = 0;

const EHDR_BYTES = 64;
export const PHDR_BYTES = 56;
const SYM_BYTES = 24;
const RELA_BYTES = 24;

/** One program header. `address` is the virtual address; sizes and offsets are in bytes. */
export interface Segment {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly address: number;
  readonly fileBytes: number;
  readonly memoryBytes: number;
  readonly align: number;
}

/** One dynamic symbol. */
export interface ElfSymbol {
  readonly name: string;
  readonly address: number;
  readonly bytes: number;
  readonly section: number;
  readonly binding: number;
  readonly type: number;
}

/** One RELA entry. `entry` is its own offset in the file, `address` what it relocates. */
export interface Relocation {
  readonly entry: number;
  readonly address: number;
  readonly type: number;
  readonly symbol: ElfSymbol;
  readonly addend: number;
}

export interface DynamicEntry {
  readonly tag: number;
  readonly value: number;
}

export interface Elf {
  /** What messages call the file. */
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly type: number;
  readonly machine: number;
  readonly entry: number;
  readonly segments: readonly Segment[];
  readonly dynamic: readonly DynamicEntry[];
  readonly symbols: readonly ElfSymbol[];
  readonly relocations: readonly Relocation[];
}

/** Reads a file's headers, dynamic section, symbols and relocations. Throws a `LinkError`. */
export function readElf(name: string, bytes: Uint8Array): Elf {
  const view = viewOf(bytes);
  if (bytes.length < EHDR_BYTES || view.getUint32(0) !== 0x7f454c46) {
    throw new LinkError(`${name} is not an ELF file`);
  }
  if (view.getUint8(4) !== 2 || view.getUint8(5) !== 1) {
    throw new LinkError(`${name} is not a 64-bit little-endian ELF file`);
  }
  const segments = readSegments(view);
  const header = {
    name,
    bytes,
    type: view.getUint16(16, true),
    machine: view.getUint16(18, true),
    entry: readWord(view, 24),
    segments,
  };
  const dynamic = readDynamic(view, onlySegment(header, PT_DYNAMIC));
  const value = (tag: number) => dynamic.find((entry) => entry.tag === tag)?.value;
  if (value(DT_RELR) !== undefined) {
    throw new LinkError(`${name} has relocations in the RELR form, which the link does not read`);
  }
  const symbols = readSymbols(header, value);
  const relocations = [
    ...readRelocations(header, symbols, value(DT_RELA), value(DT_RELASZ)),
    ...readRelocations(header, symbols, value(DT_JMPREL), value(DT_PLTRELSZ)),
  ];
  return { ...header, dynamic, symbols, relocations };
}

type Header = Pick<Elf, "name" | "bytes" | "segments">;

function readSegments(view: DataView): Segment[] {
  const table = readWord(view, 32);
  return Array.from({ length: view.getUint16(56, true) }, (_, index) => {
    const at = table + index * PHDR_BYTES;
    return {
      type: view.getUint32(at, true),
      flags: view.getUint32(at + 4, true),
      offset: readWord(view, at + 8),
      address: readWord(view, at + 16),
      fileBytes: readWord(view, at + 32),
      memoryBytes: readWord(view, at + 40),
      align: readWord(view, at + 48),
    };
  });
}

/** The entries before DT_NULL. */
function readDynamic(view: DataView, { offset }: Segment): DynamicEntry[] {
  const entries: DynamicEntry[] = [];
  for (let at = offset; readWord(view, at) !== DT_NULL; at += 16) {
    entries.push({ tag: readWord(view, at), value: readWord(view, at + 8) });
  }
  return entries;
}

function readSymbols(elf: Header, value: (tag: number) => number | undefined): ElfSymbol[] {
  const view = viewOf(elf.bytes);
  const table = value(DT_SYMTAB);
  const strings = value(DT_STRTAB);
  if (table === undefined || strings === undefined) {
    throw new LinkError(`${elf.name} has no table of dynamic symbols`);
  }
  const count = countSymbols(elf, value(DT_HASH), value(DT_GNU_HASH));
  const [first, text] = [fileOffset(elf, table), fileOffset(elf, strings)];
  return Array.from({ length: count }, (_, index) => {
    const at = first + index * SYM_BYTES;
    const info = view.getUint8(at + 4);
    return {
      name: readText(elf.bytes, text + view.getUint32(at, true)),
      address: readWord(view, at + 8),
      bytes: readWord(view, at + 16),
      section: view.getUint16(at + 6, true),
      binding: info >> 4,
      type: info & 15,
    };
  });
}

/**
 * No field says how many symbols there are. DT_HASH has a chain for each of them; of DT_GNU_HASH
 * the highest symbol of the last chain is counted.
 */
function countSymbols(elf: Header, hash: number | undefined, gnuHash: number | undefined): number {
  const view = viewOf(elf.bytes);
  if (hash !== undefined) return view.getUint32(fileOffset(elf, hash) + 4, true);
  if (gnuHash === undefined) throw new LinkError(`${elf.name} has no hash table of its symbols`);
  const at = fileOffset(elf, gnuHash);
  const [buckets, firstHashed, bloomWords] = [0, 4, 8].map((o) => view.getUint32(at + o, true)) as [
    number,
    number,
    number,
  ];
  const bucketsAt = at + 16 + bloomWords * 8;
  const chainsAt = bucketsAt + buckets * 4;
  let last = 0;
  for (let index = 0; index < buckets; index++) {
    last = Math.max(last, view.getUint32(bucketsAt + index * 4, true));
  }
  if (last < firstHashed) return firstHashed;
  while ((view.getUint32(chainsAt + (last - firstHashed) * 4, true) & 1) === 0) last++;
  return last + 1;
}

function readRelocations(
  elf: Header,
  symbols: readonly ElfSymbol[],
  table: number | undefined,
  size: number | undefined,
): Relocation[] {
  if (table === undefined || size === undefined || size === 0) return [];
  const view = viewOf(elf.bytes);
  const first = fileOffset(elf, table);
  return Array.from({ length: size / RELA_BYTES }, (_, index) => {
    const entry = first + index * RELA_BYTES;
    const symbol = symbols[view.getUint32(entry + 12, true)];
    if (symbol === undefined) throw new LinkError(`${elf.name}: a relocation names no symbol`);
    return {
      entry,
      address: readWord(view, entry),
      type: view.getUint32(entry + 8, true),
      symbol,
      addend: Number(view.getBigInt64(entry + 16, true)),
    };
  });
}

/** The one segment of a type. */
export function onlySegment(elf: Pick<Elf, "name" | "segments">, type: number): Segment {
  const found = elf.segments.filter((segment) => segment.type === type);
  if (found.length !== 1 || found[0] === undefined) {
    const kind = `program headers of type 0x${type.toString(16)}`;
    throw new LinkError(`${elf.name} has ${found.length} ${kind}; the link needs exactly one`);
  }
  return found[0];
}

/** The PT_LOADs, in ascending order as the format demands. */
export function loadsOf(elf: Pick<Elf, "segments">): Segment[] {
  return elf.segments.filter((segment) => segment.type === PT_LOAD);
}

/** The first address behind everything that is mapped. */
export function endOf(elf: Pick<Elf, "segments">): number {
  return Math.max(...loadsOf(elf).map((segment) => segment.address + segment.memoryBytes));
}

/** Where in the file the byte of an address is. Throws for addresses that have none. */
export function fileOffset(elf: Pick<Elf, "name" | "segments">, address: number): number {
  for (const { type, offset, address: start, fileBytes } of elf.segments) {
    if (type !== PT_LOAD) continue;
    if (address >= start && address < start + fileBytes) return address - start + offset;
  }
  throw new LinkError(`${elf.name} has no byte in the file for 0x${address.toString(16)}`);
}

/** The symbols that a file defines, by name; of several versions the first. */
export function definitionsOf(elf: Pick<Elf, "symbols">): ReadonlyMap<string, ElfSymbol> {
  const found = new Map<string, ElfSymbol>();
  for (const symbol of elf.symbols) {
    if (symbol.section !== SHN_UNDEF && symbol.name !== "" && !found.has(symbol.name)) {
      found.set(symbol.name, symbol);
    }
  }
  return found;
}

/** A DataView of just these bytes. */
function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function readWord(view: DataView, at: number): number {
  return Number(view.getBigUint64(at, true));
}

/** The text that ends with a NUL byte. */
export function readText(bytes: Uint8Array, at: number): string {
  return Buffer.from(bytes.subarray(at, bytes.indexOf(0, at))).toString("latin1");
}

/** Rounds up to a multiple. */
export function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}

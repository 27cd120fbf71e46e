/** Small ELF files: a read-only and a writable PT_LOAD, with what a test wants of the rest. */

import { programHeader, words } from "../../build/edits.ts";
import {
  ET_EXEC,
  PF_R,
  PF_W,
  PF_X,
  PHDR_BYTES,
  PT_DYNAMIC,
  PT_GNU_RELRO,
  PT_GNU_STACK,
  PT_LOAD,
  PT_PHDR,
  PT_TLS,
  type Segment,
} from "../../build/elf.ts";

export const X64 = 62;
export const ARM64 = 183;

/** Offsets in the file, and addresses from its base. */
export const DATA = 0x1200;
export const TLS_IMAGE = 0x1800;
const DYNAMIC = 0x1000;
const SYMBOLS = 0x300;
const STRINGS = 0x600;
const HASH = 0x800;
const RELOCATIONS = 0xa00;

export interface MadeSymbol {
  readonly name: string;
  /** From the base; 0 with `section: 0` for one that is not defined. */
  readonly address?: number;
  readonly bytes?: number;
  readonly section?: number;
  /** STB_GLOBAL if not said. */
  readonly binding?: number;
  readonly type?: number;
}

export interface Made {
  readonly machine?: number;
  readonly type?: number;
  readonly base?: number;
  readonly needed?: readonly string[];
  readonly symbols?: readonly MadeSymbol[];
  /** `symbol` is a name of `symbols`; none is the empty symbol. */
  readonly relocations?: readonly {
    readonly at: number;
    readonly type: number;
    readonly symbol?: string;
    readonly addend?: number;
  }[];
  readonly tls?: { fileBytes: number; memoryBytes: number; align: number };
  /** From the start of the writable segment. */
  readonly relroBytes?: number;
  /** Behind the file's bytes of the writable segment. */
  readonly bssBytes?: number;
  readonly more?: readonly [tag: number, value: number][];
  readonly gnuHash?: boolean;
}

/** The bytes of such a file: 0x2000 of them. */
export function makeElf(made: Made): Uint8Array {
  const { machine = X64, base = 0x400000, symbols = [], relocations = [] } = made;
  const bytes = new Uint8Array(0x2000);
  const view = new DataView(bytes.buffer);
  const strings = [""];
  const textAt = (text: string) => {
    const at = Buffer.from(strings.join("\0")).length + 1;
    strings.push(text);
    return at;
  };
  const needed = (made.needed ?? []).map((name) => [1, textAt(name)]);
  const all = [{ name: "", section: 0, binding: 0 }, ...symbols] as MadeSymbol[];
  for (const [index, symbol] of all.entries()) {
    const at = SYMBOLS + index * 24;
    view.setUint32(at, symbol.name === "" ? 0 : textAt(symbol.name), true);
    view.setUint8(at + 4, ((symbol.binding ?? 1) << 4) | (symbol.type ?? 2));
    view.setUint16(at + 6, symbol.section ?? 1, true);
    const place = symbol.section === 0 || symbol.type === 6 ? 0 : base;
    bytes.set(words(place + (symbol.address ?? 0), symbol.bytes ?? 8), at + 8);
  }
  bytes.set(Buffer.from(`${strings.join("\0")}\0`), STRINGS);
  // SysV: buckets, chains. GNU: one bucket whose chain ends with the last symbol.
  const hash = made.gnuHash ? [1, 1, 1, 0, 0, 0, 1] : [1, all.length];
  bytes.set(new Uint8Array(new Uint32Array(hash).buffer), HASH);
  if (made.gnuHash) view.setUint32(HASH + 28 + (all.length - 2) * 4, 1, true);
  for (const [index, { at, type, symbol = "", addend = 0 }] of relocations.entries()) {
    const entry = RELOCATIONS + index * 24;
    const number = all.findIndex(({ name }) => name === symbol);
    bytes.set(words(base + at, (number << 16) * 65536 + type, addend), entry);
  }
  const dynamic = [
    ...needed,
    [5, base + STRINGS],
    [6, base + SYMBOLS],
    [made.gnuHash ? 0x6ffffef5 : 4, base + HASH],
    ...(relocations.length > 0
      ? [[7, base + RELOCATIONS] as const, [8, relocations.length * 24]]
      : []),
    ...(made.more ?? []),
  ];
  bytes.set(words(...dynamic.flat(), 0, 0), DYNAMIC);
  const segments = segmentsOf(made, base);
  for (const [index, segment] of segments.entries()) {
    bytes.set(programHeader(segment), 64 + index * PHDR_BYTES);
  }
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, made.type ?? ET_EXEC, true);
  view.setUint16(18, machine, true);
  bytes.set(words(base + 0x200, 64, 0xdead), 24);
  view.setUint16(56, segments.length, true);
  view.setUint16(60, 7, true);
  return bytes;
}

function segmentsOf(made: Made, base: number): Segment[] {
  const segment = (type: number, flags: number, at: number, fileBytes: number): Segment => ({
    ...{ type, flags, offset: at, address: base + at, fileBytes, memoryBytes: fileBytes },
    align: 0x1000,
  });
  const data = segment(PT_LOAD, PF_R | PF_W, 0x1000, 0x1000);
  const tls = made.tls;
  return [
    segment(PT_PHDR, PF_R, 64, 0x230),
    segment(PT_LOAD, PF_R | PF_X, 0, 0x1000),
    { ...data, memoryBytes: 0x1000 + (made.bssBytes ?? 0) },
    segment(PT_DYNAMIC, PF_R | PF_W, DYNAMIC, 0x200),
    ...(tls === undefined ? [] : [{ ...segment(PT_TLS, PF_R, TLS_IMAGE, 0), ...tls }]),
    ...(made.relroBytes === undefined
      ? []
      : [segment(PT_GNU_RELRO, PF_R, 0x1000, made.relroBytes)]),
    { ...segment(PT_GNU_STACK, PF_R | PF_W, 0, 0), address: 0, memoryBytes: 0xc35000 },
  ];
}

/** What differs between the two architectures: page size, relocation numbers, the TLS layout. */

import { type Elf, LinkError } from "./elf.ts";

export type ArchitectureName = "x64" | "arm64";

/** The relocations that the link knows, under one name for both architectures. */
export type RelocationKind =
  | "absolute" // S + A, a word
  | "copy" // the symbol's bytes
  | "slot" // S + A, in the GOT (GLOB_DAT, JUMP_SLOT)
  | "relative" // B + A
  | "tls-module" // the number of the module
  | "tls-offset" // an offset in the module's block
  | "thread-offset" // an offset from the thread pointer
  | "tls-descriptor"; // a resolver and its argument

export interface Architecture {
  readonly name: ArchitectureName;
  readonly machine: number;
  /** The largest page of the kernels that the file must run under. */
  readonly pageBytes: number;
  /** Whether the TLS block of the executable ends at the thread pointer or begins behind it. */
  readonly tls: "below" | "above";
  readonly kinds: ReadonlyMap<number, RelocationKind>;
}

/** R_X86_64_NONE, R_AARCH64_NONE: an entry that the loader skips. */
export const R_NONE = 0;

const x64: Architecture = {
  name: "x64",
  machine: 62,
  pageBytes: 0x1000,
  tls: "below",
  kinds: new Map([
    [1, "absolute"], // R_X86_64_64
    [5, "copy"],
    [6, "slot"], // R_X86_64_GLOB_DAT
    [7, "slot"], // R_X86_64_JUMP_SLOT
    [8, "relative"],
    [16, "tls-module"], // R_X86_64_DTPMOD64
    [17, "tls-offset"], // R_X86_64_DTPOFF64
    [18, "thread-offset"], // R_X86_64_TPOFF64
  ]),
};

const arm64: Architecture = {
  name: "arm64",
  machine: 183,
  pageBytes: 0x10000,
  tls: "above",
  kinds: new Map([
    [257, "absolute"], // R_AARCH64_ABS64
    [1024, "copy"],
    [1025, "slot"], // R_AARCH64_GLOB_DAT
    [1026, "slot"], // R_AARCH64_JUMP_SLOT
    [1027, "relative"],
    [1028, "tls-module"], // R_AARCH64_TLS_DTPMOD
    [1029, "tls-offset"], // R_AARCH64_TLS_DTPREL
    [1030, "thread-offset"], // R_AARCH64_TLS_TPREL
    [1031, "tls-descriptor"], // R_AARCH64_TLSDESC
  ]),
};

/** The architecture of a file. Throws for others. */
export function architectureOf({ name, machine }: Pick<Elf, "name" | "machine">): Architecture {
  const found = [x64, arm64].find((architecture) => architecture.machine === machine);
  if (found === undefined)
    throw new LinkError(`${name} is for machine ${machine}: neither x64 nor arm64`);
  return found;
}

/** The kind of a relocation. Throws, naming its number, for one that the link does not know. */
export function kindOf(architecture: Architecture, file: string, type: number): RelocationKind {
  const kind = architecture.kinds.get(type);
  if (kind === undefined) {
    throw new LinkError(`${file} has a relocation of type ${type}, which the link does not know`);
  }
  return kind;
}

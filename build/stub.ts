/** The stub page: the code of `stub-code.ts` with the data that it reads, and the TLS image. */

import type { Architecture } from "./architecture.ts";
import { programHeader, words } from "./edits.ts";
import { LinkError, PHDR_BYTES, type Segment } from "./elf.ts";
import type { Substitutes } from "./relocate.ts";
import { STUB, stubCode } from "./stub-code.ts";

/**
 * Variables that the process, and what it starts, never sees: with them the user who starts
 * tproxy could make Bun run other code or write files (BUN_OPTIONS, BUN_INSPECT), with the rights
 * of a file that has capabilities or belongs to root. A name stands for every variable that begins
 * with it, whatever its case: mimalloc ignores case, the others have nothing to lose.
 */
const blankedVariables = ["BUN_", "NODE_", "JSC_", "MIMALLOC_", "ICU_", "UV_", "LD_"];

/** sigaction(2). */
const SIG_IGN = 1;

// AT_* of getauxval(3).
const AT_NULL = 0;
const AT_PHDR = 3;
const AT_PHNUM = 5;
const AT_BASE = 7;
const AT_ENTRY = 9;

export interface StubData {
  /** Where ld-musl is, and where it starts. */
  readonly loaderBase: number;
  readonly loaderEntry: number;
  /**
   * What ld-musl is to take for the program: its own headers, at their place, and its own entry.
   */
  readonly appHeaders: number;
  readonly appHeaderCount: number;
  readonly appEntry: number;
  /** The program headers of the whole file. */
  readonly segments: readonly Segment[];
  readonly tlsImage: Uint8Array | undefined;
}

/** Addresses in a stub page at `base`. */
export function substitutesAt(base: number): Substitutes {
  return {
    trap: base + STUB.trap,
    zeroByte: base + STUB.zeroByte,
    endOfStack: base + STUB.endOfStack,
    tlsDescriptor: base + STUB.tlsDescriptor,
  };
}

/**
 * The names as the code compares them: every byte with bit 5 set, NUL behind each, and at the end.
 */
function foldedNames(names: readonly string[]): Uint8Array {
  const bytes = names.flatMap((name) =>
    [...Buffer.from(name)].map((byte) => byte | 0x20).concat(0),
  );
  return new Uint8Array([...bytes, 0]);
}

/** The bytes of a stub page that holds a TLS image of so many bytes. */
export function stubBytes(tlsImageBytes: number): number {
  return STUB.tlsImage + tlsImageBytes;
}

/** Fills the stub page. Throws when something does not fit in its place. */
export function stubPage(architecture: Architecture, data: StubData): Uint8Array {
  const page = new Uint8Array(stubBytes(data.tlsImage?.length ?? 0));
  for (const [offset, bytes] of stubCode[architecture.name]) {
    page.set(Buffer.from(bytes.replaceAll(" ", ""), "hex"), offset);
  }
  const put = (what: string, offset: number, bytes: Uint8Array, end: number) => {
    if (offset + bytes.length > end) throw new LinkError(`the ${what} do not fit in the stub page`);
    page.set(bytes, offset);
  };
  put("entry of ld-musl", STUB.loaderEntry, words(data.loaderEntry), STUB.auxiliaryTable);
  const auxiliary = words(
    ...[AT_PHDR, data.appHeaders, AT_PHNUM, data.appHeaderCount],
    ...[AT_BASE, data.loaderBase, AT_ENTRY, data.appEntry],
    ...[AT_NULL, 0],
  );
  put("auxiliary vector's values", STUB.auxiliaryTable, auxiliary, STUB.variableNames);
  const names = foldedNames(blankedVariables);
  put("variables' names", STUB.variableNames, names, STUB.entry);
  put("words of SIG_IGN", STUB.ignoringAction, words(SIG_IGN, 0, 0, 0), STUB.programHeaders);
  const headers = new Uint8Array(data.segments.length * PHDR_BYTES);
  for (const [index, segment] of data.segments.entries()) {
    headers.set(programHeader(segment), index * PHDR_BYTES);
  }
  put("program headers", STUB.programHeaders, headers, STUB.tlsImage);
  if (data.tlsImage !== undefined) page.set(data.tlsImage, STUB.tlsImage);
  return page;
}

/**
 * Relocations, done once at build time: all addresses of the static file are constants. First those
 * of libstdc++, then those of the executable that libstdc++ satisfies. What the executable wants of
 * libc is left to ld-musl, as at every start.
 */

import { type Architecture, kindOf, R_NONE } from "./architecture.ts";
import { type Edit, words } from "./edits.ts";
import {
  definitionsOf,
  type Elf,
  type ElfSymbol,
  endOf,
  fileOffset,
  LinkError,
  loadsOf,
  type Relocation,
  SHN_UNDEF,
  STB_LOCAL,
  STB_WEAK,
  STT_GNU_IFUNC,
  STT_TLS,
} from "./elf.ts";
import { examinedSymbols } from "./examined-symbols.ts";
import type { MergedTls } from "./tls.ts";

/** Everything that a relocation may refer to. */
export interface Scope {
  readonly architecture: Architecture;
  readonly app: Elf;
  readonly library: Elf;
  readonly libc: Elf;
  readonly libraryBase: number;
  readonly libcBase: number;
  readonly tls: MergedTls;
  /** Addresses in the stub page for what neither of the three has. */
  readonly substitutes: Substitutes;
}

export interface Substitutes {
  /** For functions that nobody may call. */
  readonly trap: number;
  /** For `__libc_single_threaded`: a byte that says "there may be threads". */
  readonly zeroByte: number;
  /** For the functions that throw: they return _URC_END_OF_STACK, so the program ends. */
  readonly endOfStack: number;
  /** What a TLS descriptor names as its resolver. */
  readonly tlsDescriptor: number;
}

/** A file as it lies in memory: from address 0 to its end, with zeros in between. */
function memoryImage(elf: Elf): Uint8Array {
  const image = new Uint8Array(endOf(elf));
  for (const { offset, address, fileBytes } of loadsOf(elf)) {
    image.set(elf.bytes.subarray(offset, offset + fileBytes), address);
  }
  return image;
}

/** Finds symbols as a dynamic loader does: the executable first, then libstdc++, then libc. */
class Resolver {
  private readonly inApp;
  private readonly inLibrary;
  private readonly inLibc;

  constructor(private readonly scope: Scope) {
    this.inApp = definitionsOf(scope.app);
    this.inLibrary = definitionsOf(scope.library);
    this.inLibc = definitionsOf(scope.libc);
  }

  /** A symbol that libstdc++ defines and libc does not. */
  ofLibrary(name: string): ElfSymbol | undefined {
    const found = this.inLibrary.get(name);
    if (found !== undefined && this.inLibc.has(name)) {
      throw new LinkError(
        `both ${this.scope.library.name} and ${this.scope.libc.name} have ${name}`,
      );
    }
    return found;
  }

  /** The address that a reference from libstdc++ means. */
  fromLibrary(symbol: ElfSymbol): number {
    const { scope } = this;
    if (symbol.section !== SHN_UNDEF && symbol.binding === STB_LOCAL) {
      return scope.libraryBase + symbol.address;
    }
    const app = this.inApp.get(symbol.name);
    if (app !== undefined) return app.address;
    const own = this.inLibrary.get(symbol.name);
    if (own !== undefined) return this.libraryAddress(own);
    const libc = this.inLibc.get(symbol.name);
    if (libc !== undefined) return scope.libcBase + libc.address;
    return symbol.binding === STB_WEAK ? 0 : this.substitute(symbol.name);
  }

  /** The address of a function or an object of libstdc++. */
  libraryAddress({ name, type, address }: ElfSymbol): number {
    if (type === STT_TLS || type === STT_GNU_IFUNC) {
      const what = type === STT_TLS ? "a thread-local variable" : "chosen at run time";
      throw new LinkError(`${this.scope.library.name}: ${name} is ${what}, not an address`);
    }
    return this.scope.libraryBase + address;
  }

  private substitute(name: string): number {
    const { trap, zeroByte, endOfStack } = this.scope.substitutes;
    if (name === "__libc_single_threaded") return zeroByte;
    return /^_Unwind_(RaiseException|Resume_or_Rethrow)$/.test(name) ? endOfStack : trap;
  }
}

/** libstdc++ as it lies in memory at its address, with every relocation applied. */
export function relocateLibrary(scope: Scope): Uint8Array {
  const { library } = scope;
  const image = memoryImage(library);
  const resolver = new Resolver(scope);
  for (const relocation of library.relocations) {
    image.set(words(...libraryWords(scope, resolver, relocation)), relocation.address);
  }
  return image;
}

/** The words that a relocation of libstdc++ puts in its place. */
function libraryWords(scope: Scope, resolver: Resolver, relocation: Relocation): number[] {
  const { architecture, library, libraryBase, tls, substitutes } = scope;
  const { type, symbol, addend } = relocation;
  const kind = kindOf(architecture, library.name, type);
  const variable = () => tlsOffset(library, symbol) + addend;
  switch (kind) {
    case "relative":
      return [libraryBase + addend];
    case "absolute":
    case "slot":
      return [resolver.fromLibrary(symbol) + addend];
    case "tls-module":
      return [1]; // the executable's
    case "tls-offset":
      return [tls.inBlock(variable())];
    case "thread-offset":
      return [tls.fromThreadPointer(variable())];
    case "tls-descriptor":
      return [substitutes.tlsDescriptor, tls.fromThreadPointer(variable())];
    case "copy":
      throw new LinkError(`${library.name} has a ${kind} relocation, which only programs have`);
  }
}

/** The offset of a variable in libstdc++'s own TLS block; without a symbol, its start. */
function tlsOffset(library: Elf, symbol: ElfSymbol): number {
  if (symbol.name === "") return symbol.address;
  if (symbol.section === SHN_UNDEF || symbol.type !== STT_TLS) {
    throw new LinkError(`${library.name}: ${symbol.name} is no thread-local variable of its own`);
  }
  return symbol.address;
}

/**
 * The executable's relocations that libstdc++ satisfies, carried out: the value in its place, the
 * entry turned into one that ld-musl skips. `image` is what `relocateLibrary` returned.
 */
export function bindLibrary(scope: Scope, image: Uint8Array): Edit[] {
  const { architecture, app } = scope;
  const resolver = new Resolver(scope);
  const edits: Edit[] = [];
  for (const relocation of app.relocations) {
    const definition = resolver.ofLibrary(relocation.symbol.name);
    if (definition === undefined) continue;
    if (!examinedSymbols.has(definition.name)) {
      throw new LinkError(
        `${app.name} uses ${definition.name} of ${scope.library.name}, of which nobody has ` +
          "looked whether it works with musl (build/examined-symbols.ts)",
      );
    }
    const kind = kindOf(architecture, app.name, relocation.type);
    let bytes: Uint8Array;
    if (kind === "absolute" || kind === "slot") {
      bytes = words(resolver.libraryAddress(definition) + relocation.addend);
    } else if (kind === "thread-offset") {
      const variable = tlsOffset(scope.library, definition) + relocation.addend;
      bytes = words(scope.tls.fromThreadPointer(variable));
    } else if (kind === "copy") {
      bytes = copied(app, relocation, definition, image);
    } else {
      throw new LinkError(`${app.name} has a ${kind} relocation for ${definition.name}`);
    }
    edits.push({ offset: fileOffset(app, relocation.address), bytes });
    edits.push({ offset: relocation.entry + 8, bytes: words(R_NONE) });
  }
  requireDefinitions(scope);
  return edits;
}

function copied(
  app: Elf,
  { symbol }: Relocation,
  { name, address, bytes }: ElfSymbol,
  image: Uint8Array,
) {
  if (symbol.bytes !== bytes) {
    const sizes = `${symbol.bytes} bytes in ${app.name} and ${bytes} in the library`;
    throw new LinkError(`${name} has ${sizes}`);
  }
  return image.slice(address, address + bytes);
}

/** Throws if the executable needs a symbol that neither library has. */
function requireDefinitions({ app, library, libc }: Scope): void {
  const [inLibrary, inLibc] = [definitionsOf(library), definitionsOf(libc)];
  const missing = app.symbols.filter(
    ({ name, section, binding }) =>
      name !== "" &&
      section === SHN_UNDEF &&
      binding !== STB_WEAK &&
      !inLibrary.has(name) &&
      !inLibc.has(name),
  );
  if (missing.length === 0) return;
  const names = missing.map(({ name }) => name).join(", ");
  throw new LinkError(`neither ${library.name} nor ${libc.name} has ${names}`);
}

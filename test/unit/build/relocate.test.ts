/** Relocations: those of libstdc++ by kind on both architectures, and those that it satisfies. */

import { describe, expect, test } from "bun:test";
import { architectureOf } from "../../../build/architecture.ts";
import { withEdits } from "../../../build/edits.ts";
import { readElf } from "../../../build/elf.ts";
import { bindLibrary, relocateLibrary, type Scope } from "../../../build/relocate.ts";
import { mergeTls } from "../../../build/tls.ts";
import { ARM64, DATA, type Made, type MadeSymbol, makeElf, X64 } from "../../helpers/elf-maker.ts";

const LIBRARY = 0x800000;
const LIBC = 0x600000;
const substitutes = { trap: 0xa0, zeroByte: 0xa4, endOfStack: 0xa8, tlsDescriptor: 0xb0 };
const tls = { fileBytes: 0, memoryBytes: 0x20, align: 8 };
const WEAK = 2;
const TLS = 6;
const undefinedSymbol = (name: string, binding = 1): MadeSymbol => ({ name, binding, section: 0 });

/** A name that `examined-symbols.ts` has, of each sort. */
const FUNCTION = "_ZSt9terminatev";
const VTABLE = "_ZTVN10__cxxabiv117__class_type_infoE";
const VARIABLE = "__once_proxy";

function scopeOf(machine: number, app: Made, library: Made): Scope {
  const architecture = architectureOf({ name: "it", machine });
  const read = (name: string, made: Made) => readElf(name, makeElf({ machine, tls, ...made }));
  const scope = {
    app: read("Bun", app),
    library: read("libstdc++", { base: 0, ...library }),
    libc: read("musl", { base: 0, symbols: [{ name: "malloc", address: 0x220 }] }),
  };
  const merged = mergeTls(architecture, scope.app, scope.library, { offset: 0, address: 0 });
  return {
    ...scope,
    ...{ architecture, tls: merged, libraryBase: LIBRARY, libcBase: LIBC, substitutes },
  };
}

const wordsAt = (bytes: Uint8Array, at: number) =>
  [0, 8].map((more) => Number(new DataView(bytes.buffer).getBigInt64(at + more, true)));

/** By kind: the number on x64 and on arm64; undefined where there is none. */
const numbers: Readonly<Record<string, readonly [number | undefined, number | undefined]>> = {
  absolute: [1, 257],
  globDat: [6, 1025],
  jumpSlot: [7, 1026],
  relative: [8, 1027],
  module: [16, 1028],
  blockOffset: [17, 1029],
  threadOffset: [18, 1030],
  descriptor: [undefined, 1031],
};

describe.each([
  ["x64", X64, 0],
  ["arm64", ARM64, 1],
] as const)("libstdc++ on %s:", (_name, machine, column) => {
  const symbols: MadeSymbol[] = [
    { name: "own", address: 0x210 },
    { name: "hidden", address: 0x218, binding: 0 },
    { name: "variable", address: 8, type: TLS },
    ...["inApp", "malloc", "nowhere", "__libc_single_threaded"].map((name) =>
      undefinedSymbol(name),
    ),
    undefinedSymbol("_Unwind_RaiseException"),
    undefinedSymbol("maybe", WEAK),
  ];
  // 0x20 bytes of the executable, then of libstdc++; on x64 the other way round, and below.
  const [fromThread, inBlock] = machine === X64 ? [8 - 0x40, 8] : [16 + 0x20 + 8, 0x28];
  const cases: [kind: string, symbol: string, expected: number[]][] = [
    ["relative", "", [LIBRARY + 5]],
    ["absolute", "own", [LIBRARY + 0x210 + 5]],
    ["absolute", "hidden", [LIBRARY + 0x218 + 5]],
    ["globDat", "inApp", [0x400230 + 5]],
    ["jumpSlot", "malloc", [LIBC + 0x220 + 5]],
    ["jumpSlot", "maybe", [5]],
    ["jumpSlot", "nowhere", [substitutes.trap + 5]],
    ["jumpSlot", "_Unwind_RaiseException", [substitutes.endOfStack + 5]],
    ["globDat", "__libc_single_threaded", [substitutes.zeroByte + 5]],
    ["module", "", [1]],
    ["blockOffset", "variable", [inBlock + 5]],
    ["threadOffset", "variable", [fromThread + 5]],
    ["descriptor", "variable", [substitutes.tlsDescriptor, fromThread + 5]],
  ];
  for (const [kind, symbol, expected] of cases) {
    const type = numbers[kind]?.[column];
    if (type === undefined) continue;
    test(`${kind} ${symbol}`, () => {
      const relocations = [{ at: DATA, type, symbol, addend: 5 }];
      const app = { symbols: [{ name: "inApp", address: 0x230 }] };
      const image = relocateLibrary(scopeOf(machine, app, { symbols, relocations }));
      expect(wordsAt(image, DATA).slice(0, expected.length)).toEqual(expected);
    });
  }

  test("what the executable has comes first, also before libstdc++'s own", () => {
    const relocations = [{ at: DATA, type: numbers.globDat?.[column] as number, symbol: "own" }];
    const app = { symbols: [{ name: "own", address: 0x240 }] };
    const image = relocateLibrary(scopeOf(machine, app, { symbols, relocations }));
    expect(wordsAt(image, DATA)[0]).toBe(0x400240);
  });
});

describe("libstdc++, refused:", () => {
  test.each([
    ["an unknown relocation", 37, "own", 2, "libstdc++ has a relocation of type 37"],
    ["a copy", 5, "own", 2, "libstdc++ has a copy relocation, which only programs have"],
    ["a function chosen at run time", 1, "own", 10, "libstdc++: own is chosen at run time"],
    ["the address of a thread-local variable", 1, "own", TLS, "own is a thread-local variable"],
    ["an offset of something else", 18, "own", 2, "own is no thread-local variable of its own"],
  ])("%s", (_, type, symbol, symbolType, reason) => {
    const library = {
      symbols: [{ name: "own", address: 0x210, type: symbolType }],
      relocations: [{ at: DATA, type, symbol }],
    };
    expect(() => relocateLibrary(scopeOf(X64, {}, library))).toThrow(reason);
  });
});

describe("the executable:", () => {
  const library = {
    symbols: [
      { name: FUNCTION, address: 0x210 },
      { name: VTABLE, address: DATA + 0x100, bytes: 24, type: 1 },
      { name: VARIABLE, address: 8, type: TLS },
      { name: "unknown", address: 0x240 },
    ],
  };
  const bound = (type: number, symbol: MadeSymbol, more: Partial<Made> = {}) => {
    const relocations = [{ at: DATA, type, symbol: symbol.name, addend: 3 }];
    const scope = scopeOf(X64, { symbols: [symbol], relocations, ...more }, library);
    const image = relocateLibrary(scope);
    image.set([1, 2, 3, 4], DATA + 0x100);
    return { scope, edited: withEdits(scope.app.bytes, bindLibrary(scope, image)) };
  };

  test.each([
    ["a function", 7, undefinedSymbol(FUNCTION), LIBRARY + 0x210 + 3],
    ["a pointer", 1, undefinedSymbol(FUNCTION), LIBRARY + 0x210 + 3],
    ["a thread-local variable", 18, undefinedSymbol(VARIABLE), 8 - 0x40 + 3],
  ])("%s gets its value, and ld-musl skips the entry", (_, type, symbol, expected) => {
    const { scope, edited } = bound(type, symbol);
    expect(wordsAt(edited, DATA)[0]).toBe(expected);
    const entry = scope.app.relocations[0]?.entry ?? 0;
    expect(wordsAt(edited, entry + 8)[0]).toBe(0);
  });

  test("a vtable is copied", () => {
    const { edited } = bound(5, {
      ...undefinedSymbol(VTABLE),
      section: 1,
      address: DATA,
      bytes: 24,
    });
    expect([...edited.subarray(DATA, DATA + 5)]).toEqual([1, 2, 3, 4, 0]);
  });

  test("what libc has is left to ld-musl", () => {
    const { scope, edited } = bound(7, undefinedSymbol("malloc"));
    expect(Buffer.from(edited).equals(scope.app.bytes)).toBe(true);
  });

  test.each([
    [
      "a symbol that nobody has looked at",
      7,
      undefinedSymbol("unknown"),
      "Bun uses unknown of libstdc++, of which nobody has looked whether it works with musl " +
        "(build/examined-symbols.ts)",
    ],
    [
      "a symbol that nobody has",
      7,
      undefinedSymbol("nowhere"),
      "neither libstdc++ nor musl has nowhere",
    ],
    [
      "a vtable of another size",
      5,
      { ...undefinedSymbol(VTABLE), section: 1, address: DATA, bytes: 16 },
      `${VTABLE} has 16 bytes in Bun and 24 in the library`,
    ],
    [
      "a way to refer to it that the link does not know",
      16,
      undefinedSymbol(VARIABLE),
      `Bun has a tls-module relocation for ${VARIABLE}`,
    ],
  ])("refused: %s", (_, type, symbol, reason) => {
    expect(() => bound(type, symbol)).toThrow(reason);
  });

  test("refused: a symbol that both libraries have", () => {
    const symbols = [{ name: "malloc", address: 0x210 }];
    const relocations = [{ at: DATA, type: 7, symbol: "malloc" }];
    const app = { symbols: [undefinedSymbol("malloc")], relocations };
    const scope = scopeOf(X64, app, { symbols });
    expect(() => bindLibrary(scope, relocateLibrary(scope))).toThrow(
      "both libstdc++ and musl have malloc",
    );
  });

  test("a weak symbol that nobody has may stay away", () => {
    expect(() => bound(7, undefinedSymbol("maybe", WEAK))).not.toThrow();
  });
});

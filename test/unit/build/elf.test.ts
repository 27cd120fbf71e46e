/** Reading ELF files, and the edits that are made of them. */

import { describe, expect, test } from "bun:test";
import { programHeader, withEdits, words } from "../../../build/edits.ts";
import {
  definitionsOf,
  endOf,
  fileOffset,
  loadsOf,
  onlySegment,
  PT_NOTE,
  PT_TLS,
  readElf,
} from "../../../build/elf.ts";
import { DATA, makeElf } from "../../helpers/elf-maker.ts";

const elf = readElf(
  "it",
  makeElf({
    needed: ["libx.so.1"],
    symbols: [
      { name: "there", address: DATA, bytes: 24 },
      { name: "elsewhere", section: 0, binding: 2 },
      { name: "there", address: DATA + 8 },
    ],
    relocations: [{ at: DATA, type: 6, symbol: "elsewhere", addend: -5 }],
    bssBytes: 0x800,
  }),
);

test("segments, dynamic entries, symbols and relocations are read", () => {
  expect(loadsOf(elf).map(({ address, memoryBytes }) => [address, memoryBytes])).toEqual([
    [0x400000, 0x1000],
    [0x401000, 0x1800],
  ]);
  expect(endOf(elf)).toBe(0x402800);
  expect(elf.dynamic[0]?.tag).toBe(1);
  expect(elf.symbols[1]).toEqual({
    ...{ name: "there", address: 0x400000 + DATA, bytes: 24, section: 1, binding: 1, type: 2 },
  });
  const [relocation] = elf.relocations;
  expect(relocation).toMatchObject({ address: 0x400000 + DATA, type: 6, addend: -5 });
  expect(relocation?.symbol.name).toBe("elsewhere");
});

test("of several definitions the first counts, and none that is undefined", () => {
  const definitions = definitionsOf(elf);
  expect([...definitions.keys()]).toEqual(["there"]);
  expect(definitions.get("there")?.address).toBe(0x400000 + DATA);
});

test("symbols are counted by a GNU hash table as well", () => {
  const symbols = [{ name: "a" }, { name: "b" }, { name: "c" }];
  const read = readElf("it", makeElf({ symbols, gnuHash: true }));
  expect(read.symbols.map(({ name }) => name)).toEqual(["", "a", "b", "c"]);
});

test("an address is found in the file, or refused where it has no byte", () => {
  expect(fileOffset(elf, 0x401010)).toBe(0x1010);
  expect(() => fileOffset(elf, 0x402000)).toThrow("it has no byte in the file for 0x402000");
});

describe("refused:", () => {
  const good = makeElf({});
  test.each([
    ["no ELF file", new Uint8Array(100), "it is not an ELF file"],
    ["too short", good.slice(0, 60), "it is not an ELF file"],
    [
      "32-bit",
      withEdits(good, [{ offset: 4, bytes: new Uint8Array([1]) }]),
      "it is not a 64-bit little-endian ELF file",
    ],
    [
      "RELR",
      makeElf({ more: [[36, 0x400000]] }),
      "it has relocations in the RELR form, which the link does not read",
    ],
    [
      "no dynamic section",
      withEdits(good, [{ offset: 64 + 3 * 56, bytes: new Uint8Array([9]) }]),
      "it has 0 program headers of type 0x2; the link needs exactly one",
    ],
  ])("%s", (_, bytes, reason) => {
    expect(() => readElf("it", bytes)).toThrow(reason);
  });

  test("a segment that is missing", () => {
    expect(() => onlySegment(elf, PT_TLS)).toThrow("it has 0 program headers of type 0x7");
  });
});

describe("edits", () => {
  test("are made on a copy, which may be longer", () => {
    const bytes = new Uint8Array([1, 2, 3]);
    const edits = [
      { offset: 4, bytes: new Uint8Array([9]) },
      { offset: 0, bytes: new Uint8Array([7]) },
    ];
    expect([...withEdits(bytes, edits, 6)]).toEqual([7, 2, 3, 0, 9, 0]);
    expect([...bytes]).toEqual([1, 2, 3]);
  });

  test("must not overlap, nor pass the end", () => {
    const two = new Uint8Array(2);
    const edits = [0, 1].map((offset) => ({ offset, bytes: two }));
    expect(() => withEdits(new Uint8Array(8), edits)).toThrow("two steps of the link change");
    expect(() => withEdits(two, edits.slice(1))).toThrow("writes past the end, at 0x3");
  });

  test("words are little-endian, also below zero", () => {
    expect(Buffer.from(words(0x1234, -1)).toString("hex")).toBe("3412000000000000ffffffffffffffff");
  });

  test("a program header is what is read back", () => {
    const segment = {
      ...{ type: PT_NOTE, flags: 4, offset: 0x40, address: 0x1040 },
      ...{ fileBytes: 0x10, memoryBytes: 0x20, align: 8 },
    };
    const bytes = makeElf({});
    bytes.set(programHeader(segment), 64);
    expect(readElf("it", bytes).segments[0]).toEqual(segment);
  });
});

/** Where the images go, the executable's own headers, the merged thread-local storage. */

import { describe, expect, test } from "bun:test";
import { architectureOf } from "../../../build/architecture.ts";
import { withEdits } from "../../../build/edits.ts";
import { type Elf, onlySegment, PT_TLS, readElf } from "../../../build/elf.ts";
import { headerEdits, replaceHeader, withoutNeeded } from "../../../build/headers.ts";
import { libcSegments, librarySegments, placeImages } from "../../../build/layout.ts";
import { mergeTls } from "../../../build/tls.ts";
import { ARM64, DATA, type Made, makeElf, TLS_IMAGE, X64 } from "../../helpers/elf-maker.ts";

const read = (made: Made): Elf => readElf("it", makeElf(made));
const [x64, arm64] = [X64, ARM64].map((machine) => architectureOf({ name: "it", machine })) as [
  ReturnType<typeof architectureOf>,
  ReturnType<typeof architectureOf>,
];

test("other machines are refused", () => {
  expect(() => architectureOf({ name: "it", machine: 243 })).toThrow("it is for machine 243");
});

test("images follow the executable at boundaries that suit every page size", () => {
  const app = read({ bssBytes: 0x123456 });
  const library = read({ base: 0, bssBytes: 0x1_0000 });
  expect(placeImages(app, library, library)).toEqual({
    ...{ libc: 0x600000, library: 0x620000, stub: 0x640000 },
  });
});

test("libc keeps its bytes, and its .bss becomes part of the file", () => {
  const made = { base: 0, bssBytes: 0x600 };
  const { segments, bytes } = libcSegments(arm64, read(made), 0x600000, 0x30000);
  expect(bytes).toHaveLength(0x2600);
  expect(Buffer.from(bytes.subarray(0, 0x2000)).equals(makeElf(made))).toBe(true);
  expect(segments.map((each) => [each.address, each.offset, each.fileBytes, each.align])).toEqual([
    [0x600000, 0x30000, 0x1000, 0x10000],
    [0x601000, 0x31000, 0x1600, 0x10000],
  ]);
  expect(segments.every((each) => each.fileBytes === each.memoryBytes)).toBe(true);
});

test("libc with zeros in its middle is refused", () => {
  const libc = read({ base: 0 });
  const segments = libc.segments.map((each) => ({ ...each, memoryBytes: each.fileBytes + 8 }));
  expect(() => libcSegments(x64, { ...libc, segments }, 0, 0)).toThrow(
    "it has zeros behind another segment than its last",
  );
});

test.each([
  [
    "cut at a page",
    x64,
    0x1000,
    [
      [0x5, 0x0, 0x1000],
      [0x4, 0x1000, 0x2000],
      [0x6, 0x2000, 0x2800],
    ],
  ],
  [
    "rounded down",
    x64,
    0xfff,
    [
      [0x5, 0x0, 0x1000],
      [0x6, 0x1000, 0x2800],
    ],
  ],
  [
    "no whole page",
    arm64,
    0x1000,
    [
      [0x5, 0x0, 0x1000],
      [0x6, 0x1000, 0x2800],
    ],
  ],
])("of libstdc++ what is relocated is read-only: %s", (_, architecture, relroBytes, expected) => {
  const library = read({ base: 0, relroBytes, bssBytes: 0x800 });
  const segments = librarySegments(architecture, library, 0x620000, 0x40000);
  const parts = segments.map(({ flags, address, memoryBytes, offset, fileBytes }) => {
    expect([offset - 0x40000, fileBytes]).toEqual([address - 0x620000, memoryBytes]);
    return [flags, address - 0x620000, address - 0x620000 + memoryBytes];
  });
  expect(parts).toEqual(expected);
});

describe("the executable's headers:", () => {
  const libstdcxx = /^libstdc\+\+\./;
  const app = read({ needed: ["libstdc++.so.6", "libc.musl-x86_64.so.1"] });

  test("libstdc++ is needed no more, and what follows moves up", () => {
    const edited = withEdits(app.bytes, [withoutNeeded(app, libstdcxx)]);
    const { dynamic } = readElf("it", edited);
    expect(dynamic).toEqual(app.dynamic.slice(1));
    expect(edited).toHaveLength(app.bytes.length);
  });

  test("an executable that needs more than libstdc++ and libc is refused", () => {
    const other = read({ needed: ["libstdc++.so.6", "libz.so.1", "libc.musl-x86_64.so.1"] });
    expect(() => withoutNeeded(other, libstdcxx)).toThrow(
      "it needs libz.so.1, libc.musl-x86_64.so.1; the link knows libstdc++ and libc",
    );
  });

  test("entry and program headers are new, sections are none", () => {
    const table = app.bytes.subarray(64, 64 + 2 * 56);
    const edits = [...headerEdits(0x123000, 0x2000, 2), { offset: 0x2000, bytes: table }];
    const edited = withEdits(app.bytes, edits, 0x2000 + table.length);
    const view = new DataView(edited.buffer);
    const entryAndTable = [24, 32].map((at) => view.getBigUint64(at, true));
    expect(entryAndTable).toEqual([0x123000n, 0x2000n]);
    expect(view.getUint16(56, true)).toBe(2);
    // e_shoff, e_shnum, e_shstrndx
    expect([view.getBigUint64(40, true), view.getUint32(60, true)]).toEqual([0n, 0]);
  });

  test("one program header is replaced in the table that it is in", () => {
    const old = app.segments[2] as Elf["segments"][number];
    const edited = withEdits(app.bytes, [replaceHeader(app, old, { ...old, memoryBytes: 7 })]);
    expect(readElf("it", edited).segments.map(({ memoryBytes }) => memoryBytes)).toEqual(
      app.segments.with(2, { ...old, memoryBytes: 7 }).map(({ memoryBytes }) => memoryBytes),
    );
  });
});

describe("thread-local storage", () => {
  const tls = { fileBytes: 0x30, memoryBytes: 0x55, align: 16 };
  const zeros = { fileBytes: 0, memoryBytes: 0x18, align: 8 };
  const library = read({ base: 0, tls: zeros });
  const at = { offset: 0x9800, address: 0x9800 };

  test("x64: libstdc++'s zeros come in front, distances from the end stay", () => {
    const app = read({ tls });
    app.bytes.set([1, 2, 3], TLS_IMAGE);
    const merged = mergeTls(x64, app, library, at);
    expect(merged.segment).toMatchObject({ ...at, fileBytes: 0x50, memoryBytes: 0x75, align: 16 });
    expect([...(merged.image ?? [])].slice(0, 0x23)).toEqual([...Array(0x20).fill(0), 1, 2, 3]);
    // The block is 0x60 + 0x20 bytes long and ends at the thread pointer.
    expect([merged.fromThreadPointer(8), merged.inBlock(8)]).toEqual([8 - 0x80, 8]);
  });

  test("arm64: they come last, and the image stays where it is", () => {
    const app = read({ machine: ARM64, tls });
    const merged = mergeTls(arm64, app, library, at);
    const old = onlySegment(app, PT_TLS);
    expect(merged.segment).toEqual({ ...old, memoryBytes: 0x60 + 0x20 });
    expect(merged.image).toBeUndefined();
    expect([merged.fromThreadPointer(8), merged.inBlock(8)]).toEqual([16 + 0x60 + 8, 0x60 + 8]);
  });

  test("arm64: an image that is not aligned shifts the block, as in the loader", () => {
    const app = read({ machine: ARM64, tls: { ...tls, align: 64 } });
    const shifted = (TLS_IMAGE + 0x400000 - 16) % 64;
    expect(mergeTls(arm64, app, library, at).fromThreadPointer(0)).toBe(16 + shifted + 0x60);
  });

  test.each([
    [
      "initial values",
      { tls },
      { ...zeros, fileBytes: 8 },
      at,
      "it has thread-local variables with a value; the link expects zeros",
    ],
    [
      "a large alignment",
      { tls },
      { ...zeros, align: 64 },
      at,
      "it aligns thread-local variables to 64 bytes; 16 are allowed",
    ],
    [
      "a place for the image that is not aligned",
      { tls },
      zeros,
      { offset: 8, address: 8 },
      "the TLS image at 0x8 is not aligned to 16 bytes",
    ],
    [
      "a relocation in the image that moves",
      { tls, relocations: [{ at: TLS_IMAGE + 8, type: 8 }] },
      zeros,
      at,
      "it has a relocation in its TLS image, which the link moves",
    ],
  ])("refused: %s", (_, app, added, place, reason) => {
    const other = read({ base: 0, tls: added });
    expect(() => mergeTls(x64, read(app), other, place)).toThrow(reason);
  });

  test("no relocation is looked for elsewhere", () => {
    const relocations = [{ at: DATA, type: 8 }];
    expect(() => mergeTls(x64, read({ tls, relocations }), library, at)).not.toThrow();
  });
});

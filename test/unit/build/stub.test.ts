/** The code that runs first, and the whole link on small files. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { architectureOf } from "../../../build/architecture.ts";
import { PT_LOAD, PT_TLS, readElf, type Segment } from "../../../build/elf.ts";
import { linkStatic } from "../../../build/link.ts";
import { stubPage } from "../../../build/stub.ts";
import { STUB, stubCode } from "../../../build/stub-code.ts";
import { ARM64, type Made, makeElf, X64 } from "../../helpers/elf-maker.ts";
import { testWith } from "../../helpers/tools.ts";

const machines = { x64: X64, arm64: ARM64 } as const;
const segment: Segment = {
  ...{ type: PT_LOAD, flags: 5, offset: 0, address: 0 },
  ...{ fileBytes: 1, memoryBytes: 1, align: 1 },
};
const data = {
  ...{ loaderBase: 0x600000, loaderEntry: 0x600123, appHeaders: 0x400040, appHeaderCount: 7 },
  ...{ appEntry: 0x400200, segments: [segment], tlsImage: new Uint8Array([5, 6, 7]) },
};
const page = (machine: number, more: Partial<typeof data> = {}) =>
  stubPage(architectureOf({ name: "it", machine }), { ...data, ...more });

describe("the stub page", () => {
  const x64 = page(X64);
  const wordsFrom = (at: number, count: number) =>
    [...new BigInt64Array(x64.slice(at, at + count * 8).buffer)].map(Number);

  test("has the loader's entry, and what the auxiliary vector is to say", () => {
    expect(wordsFrom(STUB.loaderEntry, 1)).toEqual([0x600123]);
    const table = [3, 0x400040, 5, 7, 7, 0x600000, 9, 0x400200, 0, 0];
    expect(wordsFrom(STUB.auxiliaryTable, table.length)).toEqual(table);
  });

  test("has the variables' names as the code compares them", () => {
    const names = Buffer.from(x64.subarray(STUB.variableNames, STUB.programHeaders));
    const list = names.toString("latin1", 0, names.indexOf("\0\0")).split("\0");
    expect(list).toContain("bun\x7f");
    expect(list.every((name) => /^[a-z\x7f]+$/.test(name))).toBe(true);
  });

  test("has the program headers, the TLS image and a zero byte", () => {
    expect(wordsFrom(STUB.programHeaders + 32, 3)).toEqual([1, 1, 1]);
    expect([...x64.subarray(STUB.tlsImage)]).toEqual([5, 6, 7]);
    expect(x64[STUB.zeroByte]).toBe(0);
    expect(wordsFrom(STUB.ignoringAction, 4)).toEqual([1, 0, 0, 0]);
  });

  test("refuses more program headers than it has room for", () => {
    const segments = Array<Segment>(28).fill(segment);
    expect(() => page(X64, { segments })).toThrow(
      "the program headers do not fit in the stub page",
    );
  });
});

describe("the code", () => {
  let folder = "";
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "tproxy-stub-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  for (const [name, objdump, options] of [
    [
      "x64",
      process.arch === "x64" ? "objdump" : "x86_64-linux-gnu-objdump",
      "-mi386:x86-64 -Mintel",
    ],
    ["arm64", process.arch === "arm64" ? "objdump" : "aarch64-linux-gnu-objdump", "-maarch64"],
  ] as const) {
    test(`${name}: instructions follow each other, and nothing of the data is under them`, () => {
      let end = 0;
      for (const [offset, bytes] of stubCode[name]) {
        expect(offset).toBeGreaterThanOrEqual(end);
        end = offset + bytes.split(" ").length;
      }
      expect(end).toBeLessThanOrEqual(STUB.ignoringAction);
      const { zeroByte, loaderEntry, entry } = STUB;
      const isData = (offset: number) => offset >= loaderEntry && offset < entry;
      const covered = stubCode[name].some(([offset]) => offset === zeroByte || isData(offset));
      expect(covered).toBe(false);
    });

    testWith([objdump])(`${name}: a disassembler reads what is written beside it`, async () => {
      const file = join(folder, name);
      await Bun.write(file, page(machines[name]));
      const command = [objdump, "-D", "-z", "-bbinary", ...options.split(" "), file];
      // Between the two parts there is data, which would be read as instructions of any length.
      const [head, tail] = [`--stop-address=${STUB.loaderEntry}`, `--start-address=${STUB.entry}`];
      const listing = [head, tail]
        .map((part) => Bun.spawnSync([...command, part]).stdout.toString())
        .join("");
      const texts = new Map<number, string>();
      for (const line of listing.split("\n")) {
        const [at, , ...words] = line.split("\t");
        const plain = words
          .join(" ")
          .replace(/ *\/\/.*| +# 0x.*/, "")
          .replace(/\s+/g, " ");
        texts.set(Number.parseInt(at as string, 16), plain.trim());
      }
      for (const [offset, , text] of stubCode[name]) {
        const where = `0x${offset.toString(16)}: `;
        expect(where + texts.get(offset)).toBe(where + text);
      }
    });
  }
});

describe("the link", () => {
  const tls = { fileBytes: 0x10, memoryBytes: 0x20, align: 16 };
  const app: Made = { tls, needed: ["libstdc++.so.6", "libc.musl-x86_64.so.1"] };
  const libc: Made = { base: 0, bssBytes: 0x40 };
  const library: Made = { base: 0, tls: { ...tls, fileBytes: 0 }, relroBytes: 0x800 };
  const link = (one: Made = app, two: Made = libc, three: Made = library) =>
    linkStatic({ app: makeElf(one), libc: makeElf(two), library: makeElf(three) });

  /** The program headers of the file, which lie outside the executable's own. */
  const segmentsOf = (bytes: Uint8Array) => {
    const view = new DataView(bytes.buffer);
    const table = Number(view.getBigUint64(32, true));
    return Array.from({ length: view.getUint16(56, true) }, (_, index) => ({
      type: view.getUint32(table + index * 56, true),
      offset: Number(view.getBigUint64(table + index * 56 + 8, true)),
      address: Number(view.getBigUint64(table + index * 56 + 16, true)),
    }));
  };

  test("maps everything, in ascending order, and asks for no interpreter", () => {
    const bytes = link();
    const segments = segmentsOf(bytes);
    const loads = segments.filter(({ type }) => type === PT_LOAD);
    // The executable, libc and libstdc++ with two each, the stub page.
    expect(loads).toHaveLength(2 + 2 + 2 + 1);
    expect(loads.map(({ address }) => address)).toEqual(
      loads.map(({ address }) => address).toSorted((a, b) => a - b),
    );
    for (const { offset, address } of loads) expect(offset % 0x1000).toBe(address % 0x1000);
    expect(segments.some(({ type }) => type === 2 || type === 3)).toBe(false);
    expect(new DataView(bytes.buffer).getBigUint64(24, true)).toBe(
      BigInt((loads.at(-1)?.address ?? 0) + STUB.entry),
    );
  });

  test("leaves the executable a table of its own, with the merged TLS", () => {
    const own = link();
    new DataView(own.buffer).setBigUint64(32, 64n, true);
    new DataView(own.buffer).setUint16(56, 6, true);
    const read = readElf("it", own);
    expect(read.segments.find(({ type }) => type === PT_TLS)?.memoryBytes).toBe(0x40);
    expect(read.dynamic.filter(({ tag }) => tag === 1)).toHaveLength(1);
  });

  test("gives the same bytes for the same bytes", () => {
    expect(Buffer.from(link()).equals(link())).toBe(true);
  });

  test.each([
    [
      "a position-independent executable",
      [{ ...app, type: 3 }],
      "Bun's musl build is position-independent; the link needs fixed addresses",
    ],
    [
      "zeros that are not in the file",
      [{ ...app, bssBytes: 8 }],
      "Bun's musl build has a .bss outside the file, which the link does not expect",
    ],
    [
      "a library for another architecture",
      [app, libc, { ...library, machine: ARM64 }],
      "libstdc++ is for another architecture than Bun's musl build",
    ],
    [
      "an executable without TLS",
      [{ needed: app.needed ?? [] }],
      "Bun's musl build has 0 program headers of type 0x7; the link needs exactly one",
    ],
  ] as [string, Made[], string][])("refuses %s", (_, files, reason) => {
    expect(() => link(...files)).toThrow(reason);
  });
});

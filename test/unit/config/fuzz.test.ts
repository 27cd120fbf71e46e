import { expect, test } from "bun:test";
import fc from "fast-check";
import { formatConfiguration } from "../../../src/config/format.ts";
import { plainValue } from "../../../src/config/located.ts";
import { readQuickText, readText } from "../../../src/config/text.ts";
import { writeToml } from "../../../src/config/write.ts";
import { anySettings, readText as readFile } from "../../helpers/configurations.ts";

const runs = { numRuns: 150 };

/** Pieces of which texts are made that look like a configuration. */
const piece = fc.constantFrom(
  ...["[[service]]", "[service.capture]", "[log]", "[[pool]]", "name", "listen", "to", "=", ","],
  ...["[", "]", "{", "}", '"', "'", '"web"', '":80"', '"original"', "\n", " ", ".", "#", "\\", "1"],
  ...["1.5", "1979-05-27", "true", "inf", "__proto__", "\u0000", "\ud800", "é", "\r\n", "\t", "-"],
  ...[
    '"udp-timeout"',
    "53",
    "capture",
    "in",
    "dport",
    "workers",
    "include",
    '"@list"',
    ":",
    "null",
  ],
);
const anyText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 60 }),
  fc.array(piece, { maxLength: 40 }).map((pieces) => pieces.join("")),
  fc.json({ maxDepth: 4 }),
  fc.json({ maxDepth: 3 }).map((json) => `{"service": ${json}, "log": ${json}, "pool": [${json}]}`),
);

/** A configuration with something put in, left out or put in the place of something else. */
const damaged = fc
  .tuple(anySettings, fc.nat(), fc.nat(20), fc.oneof(piece, fc.string({ unit: "binary" })))
  .map(([settings, at, length, inserted]) => {
    const text = writeToml(settings);
    const start = at % (text.length + 1);
    return text.slice(0, start) + inserted + text.slice(start + length);
  });

/** Whatever is read: problems, each at a place in the text, or a configuration. */
async function expectReading(text: string | Uint8Array): Promise<void> {
  const { problems, configuration } = await readFile(text, { list: "10.0.0.0/8" });
  expect(problems.length > 0).toBe(configuration === undefined);
  const { length } = (typeof text === "string" ? text : new TextDecoder().decode(text)).split("\n");
  for (const { at, text: message } of problems) {
    expect(message).not.toBeEmpty();
    expect(message).not.toMatch(/undefined|\[object|Invalid (type|key)|\n/);
    if (at === undefined) continue;
    expect(at.line).toBeWithin(1, length + 2);
    expect(at.column).toBeGreaterThan(0);
  }
}

test("any text has problems or a configuration", async () => {
  await fc.assert(fc.asyncProperty(anyText, expectReading), runs);
});

test("so has a configuration that was damaged", async () => {
  await fc.assert(fc.asyncProperty(damaged, expectReading), runs);
});

test("so have any bytes", async () => {
  await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 60 }), expectReading), runs);
});

test("so have settings that contradict each other", async () => {
  await fc.assert(
    fc.asyncProperty(anySettings, (settings) => expectReading(writeToml(settings))),
    runs,
  );
});

test("the layout changes no value, and is its own layout", () => {
  fc.assert(
    fc.property(fc.oneof(anyText, damaged), (text) => {
      const formatted = formatConfiguration("x", text);
      const read = readText(text.replace(/^\ufeff/, ""));
      if (typeof formatted !== "string") {
        expect(formatted).not.toBeEmpty();
        return;
      }
      const again = readText(formatted);
      expect(again.problems).toEqual([]);
      expect(plainValue(again.root)).toEqual(plainValue(read.root));
      expect(formatConfiguration("x", formatted)).toBe(formatted);
    }),
    { numRuns: 300 },
  );
});

test("reading takes time in proportion to the services", async () => {
  const text = (count: number) =>
    Array.from(
      { length: count },
      (_, i) =>
        `[[service]]\nname = "s${i}"\nlisten = [":${1000 + i}"]\nidle-timeout = "10m"\n` +
        `to = "192.0.2.1:80"\n`,
    ).join("\n");
  const cpu = async (count: number) => {
    const before = process.cpuUsage();
    const { problems } = await readFile(text(count));
    expect(problems).toEqual([]);
    const { user, system } = process.cpuUsage(before);
    return user + system;
  };
  await cpu(2_000);
  const [few, many] = [await cpu(500), await cpu(4_000)];
  // Eight times as many; quadratic would be 64 times.
  expect(many / few).toBeLessThan(32);
});

/** Lines most of which are TOML that the quick reader reads, in an order that often is not. */
const key = fc.constantFrom(...["name", "a.b", "to", "1", '"a b"', "'x'", '"a = "', '""', "a b"]);
const value = fc.constantFrom(
  ...['"x"', "'y'", "1", "-1", "0x1f", "1_0", "true", "[]", "[1, 2]", '["a",\n"b"]', '"""x\ny"""'],
  ...["''", "01", "1.5", '"', "tru", '[1, "a"]', "1979-05-27", '"a" "b"', "[[1], [2]]", "{a = 1}"],
);
const line = fc.oneof(
  { weight: 3, arbitrary: fc.tuple(key, value).map((pair) => pair.join(" = ")) },
  fc.constantFrom(
    ...["[[service]]", "[[pool]]", "[log]", "[service.capture]", "[[service]", '["a.b"]', "# x"],
    ...["", "[[pool.upstream]]", "[pool]", "[log]x", "[ log ] # x"],
  ),
);
const lines = fc
  .tuple(fc.array(line, { maxLength: 8 }), fc.constantFrom("\n", "\r\n"))
  .map(([each, end]) => each.join(end));

test("the quick reader has the same values, and only of texts without a problem", () => {
  fc.assert(
    fc.property(fc.oneof(lines, anyText, damaged), (text) => {
      const quick = readQuickText(text);
      if (quick === undefined) return;
      const { root, problems } = readText(text);
      expect(problems).toEqual([]);
      // -0 is 0, and no setting accepts it.
      expect(JSON.stringify(quick)).toBe(JSON.stringify(plainValue(root)));
    }),
    { numRuns: 300 },
  );
});

test("the quick reader reads plain files, and leaves the rest", () => {
  const plain = '[[service]]\nname = "a"\nlisten = [":80"]\nmax-connections = 10 # ten\n';
  expect(readQuickText(plain)).toEqual({
    service: [{ name: "a", listen: [":80"], "max-connections": 10 }],
  });
  for (const value of ["1.0", "1979-05-27", "{ a = 1 }", '"\\e"', "9007199254740993", "[[1.5]]"]) {
    expect(readQuickText(`a = ${value}`)).toBeUndefined();
  }
  for (const text of [
    "__proto__ = 1",
    "a = 1\na = 2",
    "{}",
    "[[service]",
    "a.b.c.d.e.f.g.h.i = 1",
  ]) {
    expect(readQuickText(text)).toBeUndefined();
  }
});

/** The fast reader of TOML reads as the parser of the whole language does, or not at all. */

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { readPlainToml } from "../../../src/config/plain-toml.ts";
import { readToml } from "../../../src/config/toml.ts";
import { generator } from "../../helpers/random.ts";

const root = join(import.meta.dir, "../../..");

/** Whether a text is plain; if so, both have to read the same, at the same places. */
function isPlain(text: string): boolean {
  const plain = readPlainToml(text);
  if (plain === undefined) return false;
  // For the sake of the last letter the other parser reads it.
  const whole = readToml(`${text}\n# é`);
  expect([text, whole.problems]).toEqual([text, []]);
  expect(plain).toEqual(whole.root);
  return true;
}

test("the configurations that are shipped are plain", () => {
  for (const file of ["examples/tproxy.toml", "build/package/files/tproxy.toml"]) {
    expect(isPlain(readFileSync(join(root, file), "utf8"))).toBe(true);
  }
});

describe("plain", () => {
  test.each([
    "",
    "# a comment",
    'a = 1\nb = "two" # three\n\tc=false',
    "a = [1, 'x\\y', [true], { b = 2, c = [\"d\"] },]",
    "a = [ # first\n  1,\n\n  2 # last\n]\nb = {}\nc = []",
    '[[service]]\nname = "a"\n[service.capture]\nin = ["eth0"]\n[[service]]\nname = "b"',
    "[[pool]]\n  [[pool.upstream]]\n  weight = 5\n  [[pool.upstream]]\n[pool.check]\ntype = 'tcp'",
    "[a]\n[a.b]\n[c]\nd = { a = 1 }\n",
    "__proto__ = 1\nconstructor = 2",
    "empty = \"\"\nother = ''",
  ])("%j", (text) => expect(isPlain(text)).toBe(true));
});

describe("left to the other parser", () => {
  test.each([
    ...["a = 1.5", "a = 1e3", "a = 0x10", "a = 1_000", "a = 010", "a = -1", "a = +1", "a = inf"],
    ...["a = 2026-11-28", "a = 9007199254740993", 'a = "\\n"', 'a = """b"""', "a = '''b'''"],
    ...['"a" = 1', "a.b = 1", "[a]\n[a]", "[a.b]", "a = 1\na = 2", "a = 1\n[a]", "a = [1]\n[[a]]"],
    ...["[[a]]\n[a]", "[a]\n[[a]]", "a = { b = 1 }\n[a.c]", "a = { b = 1, }", "a = {\nb = 1 }"],
    ...[
      "a = ",
      "a",
      "= 1",
      "a = 1 b = 2",
      "[a",
      "[[a]",
      "[]",
      "[ a ]",
      "a = [1",
      'a = "b',
      "a = 'b",
    ],
    ...[
      "a = 1\r\n",
      "ä = 1",
      "a = 'ä'",
      "a = '\u0001'",
      "a = tru",
      "a = [1 2]",
      "a = [,]",
      "] = 1",
    ],
    "a = [[[[1]]]]",
  ])("%j", (text) => expect(isPlain(text)).toBe(false));
});

const pieces = [
  ...["a", "b", "service", "name", "=", " = ", "\n", "\n", "\n", " ", ".", ",", "#", "\t"],
  ...["[", "]", "[[", "]]", "{", "}", '"', "'", '"x"', "'y'", "1", "0", "23", "true", "false"],
  ...["[[service]]\n", "[a]\n", "a = 1\n", 'name = "n"\n', "b = [1, 2]\n", "{ a = 1 }", "\\", "\r"],
];

test("texts at random: what is plain is what the other parser reads", () => {
  const random = generator(1);
  let plain = 0;
  for (let i = 0; i < 20_000; i++) {
    let text = "";
    for (let left = random(10); left > 0; left--) text += pieces[random(pieces.length)];
    if (isPlain(text)) plain++;
  }
  expect(plain).toBeGreaterThan(500);
});

test("lines of a configuration in any order", () => {
  const random = generator(2);
  const lines = readFileSync(join(root, "examples/tproxy.toml"), "utf8").split("\n");
  let plain = 0;
  for (let i = 0; i < 1_000; i++) {
    const text = Array.from({ length: random(30) }, () => lines[random(lines.length)]).join("\n");
    if (isPlain(text)) plain++;
  }
  expect(plain).toBeGreaterThan(100);
});

/** The documents: their links lead somewhere, and the tests that they name exist. */

import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";

const root = join(import.meta.dir, "..");
const documents = ["*.md", "docs/*.md"].flatMap((glob) => [...new Bun.Glob(glob).scanSync(root)]);
const textOf = (path: string) => readFileSync(join(root, path), "utf8");

/** The anchors that GitHub makes of a document's headings. */
function anchorsOf(path: string): string[] {
  return [...textOf(path).matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-"),
  );
}

test("they were read", () => expect(documents).toContain("docs/security.md"));

describe.each(documents)("%s", (path) => {
  test("its links lead to files and headings of this repository", () => {
    const links = [...textOf(path).matchAll(/\]\((?!https?:)([^)\s]+)\)/g)];
    for (const [, link = ""] of links) {
      const [file = "", anchor] = link.split("#");
      const target = file === "" ? path : join(dirname(path), file);
      expect([link, existsSync(join(root, target))]).toEqual([link, true]);
      if (anchor !== undefined) expect(anchorsOf(target)).toContain(anchor);
    }
  });

  test("the tests that it names are there", () => {
    const named = textOf(path).matchAll(/`([\w/.-]+\.test\.ts)`: ("[^"]+"(?:, "[^"]+")*)/g);
    for (const [, file = "", titles = ""] of named) {
      const tests = textOf(join("test", file));
      for (const [, title = ""] of titles.matchAll(/"([^"]+)"/g)) {
        expect([file, title, tests.includes(title)]).toEqual([file, title, true]);
      }
    }
  });
});

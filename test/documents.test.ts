/** The documents: their links lead somewhere, and the tests and options that they name exist. */

import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { run } from "./helpers/tproxy.ts";

const root = join(import.meta.dir, "..");
const documents = ["*.md", "docs/*.md"].flatMap((glob) => [...new Bun.Glob(glob).scanSync(root)]);
/** Of the code; a leading slash lets a part of a path be told from a part of a name. */
const sources = [...new Bun.Glob("{src,ffi,build,test}/**/*.ts").scanSync(root)].map(
  (each) => `/${each}`,
);
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

  test("the files that it names by their folder are there", () => {
    const named = textOf(path).matchAll(
      /`((?:(?:src|ffi|build|docs|test)\/)?[a-z-]+\/[\w/-]+\.ts)`/g,
    );
    const suffixes = [...named].map(([, name = ""]) => `/${name}`);
    const missing = suffixes.filter(
      (name) => !/NAME/.test(name) && !sources.some((each) => each.endsWith(name)),
    );
    expect(missing).toEqual([]);
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

/** Of the build and the bench, and of iptables, firewalld, curl and wrk. */
const foreignOptions =
  "--all --dynamic --static --set-xmark --validmark --add-port --http --latency --yes --save " +
  "--rounds --only --base --now --kill-whom --signal";

test("README.md and docs/ name no option that is in no command's help", async () => {
  const { stdout } = await run(["--help"]);
  const commands = [...stdout.matchAll(/^ {2}([a-z]+) /gm)].map(([, name = ""]) => name);
  expect(commands).toContain("forward");
  const helps = await Promise.all(commands.map((name) => run([name, "--help"])));
  const known = [stdout, foreignOptions, ...helps.map((help) => help.stdout)].join("\n");
  const options = new Set(known.match(/--[a-z][a-z-]+/g));
  const named = documents
    .filter((path) => path === "README.md" || path.startsWith("docs/"))
    .flatMap((path) => textOf(path).match(/(?<![\w-])--[a-z][a-z-]+/g) ?? []);
  expect([...new Set(named)].filter((option) => !options.has(option))).toEqual([]);
}, 240_000);

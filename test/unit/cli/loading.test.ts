/** What is loaded when a command starts: the parsers of configuration files are not among it. */

import { expect, test } from "bun:test";
import { dirname, join, relative } from "node:path";

const root = join(import.meta.dir, "../../..");
const transpiler = new Bun.Transpiler({ loader: "ts" });

/** The packages that a file loads with all that it imports; not what it may load later. */
async function packagesOf(entry: string): Promise<Set<string>> {
  const packages = new Set<string>();
  const seen = new Set<string>();
  const visit = async (file: string): Promise<void> => {
    if (seen.has(file)) return;
    seen.add(file);
    const source = (await Bun.file(file).text()).replace(/^#!.*/, "");
    for (const { kind, path } of transpiler.scanImports(source)) {
      if (kind !== "import-statement") continue;
      if (path.endsWith(".json")) continue;
      if (path.startsWith(".")) await visit(join(dirname(file), path));
      else packages.add(path);
    }
  };
  await visit(join(root, entry));
  return packages;
}

const commands = [...new Bun.Glob("src/cli/commands/*.ts").scanSync(root)];
const entries = ["src/main.ts", "src/worker.ts", "src/cli/program.ts", ...commands];

test.each(entries.map((path) => relative(root, join(root, path))))("%s", async (entry) => {
  const packages = await packagesOf(entry);
  for (const name of [
    "toml-eslint-parser",
    "smol-toml",
    "jsonc-parser",
    "@valibot/to-json-schema",
  ]) {
    expect(packages).not.toContain(name);
  }
});

test("what reads a configuration does load them", async () => {
  const packages = await packagesOf("src/config/file.ts");
  expect(packages).toContain("toml-eslint-parser");
  expect(packages).toContain("jsonc-parser");
});

/** Every example of a configuration in the documents can be carried out. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { formatConfiguration } from "../../../src/config/format.ts";
import { plainValue } from "../../../src/config/located.ts";
import { configurationKind } from "../../../src/config/settings.ts";
import { readText } from "../../../src/config/text.ts";
import { problemsOf } from "../../helpers/configurations.ts";

const root = join(import.meta.dir, "../../..");
const documents = ["README.md", ...new Bun.Glob("docs/*.md").scanSync(root)];
const examples = documents.flatMap((path) =>
  [...readFileSync(join(root, path), "utf8").matchAll(/^```toml\n([\s\S]*?)^```$/gm)].map(
    ([, text = ""]) => [path, text] as const,
  ),
);

test("there are some", () => expect(examples.length).toBeGreaterThan(0));

test.each(examples)("%s: by the reader, by the schema, in the usual layout", async (_, text) => {
  expect(await problemsOf(text)).toEqual([]);
  const value = plainValue(readText(text).root);
  expect(v.safeParse(configurationKind.wire, value).issues).toBeUndefined();
  expect(formatConfiguration("x", text)).toBe(text);
});

/** Every example of a configuration in the documents can be carried out. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { effectiveSettings } from "../../../src/config/effective.ts";
import { formatConfiguration } from "../../../src/config/format.ts";
import { configurationSchema } from "../../../src/config/json-schema.ts";
import { plainValue } from "../../../src/config/located.ts";
import { configurationKind } from "../../../src/config/settings.ts";
import { readText } from "../../../src/config/text.ts";
import { problemsOf, readText as readSettings } from "../../helpers/configurations.ts";

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

const reference = readFileSync(join(root, "docs/configuration.md"), "utf8");

/** The paths of all keys of a schema, without those of tables of ports. */
function keysOf(schema: unknown, path = ""): string[] {
  if (typeof schema !== "object" || schema === null) return [];
  const { properties = {}, items, anyOf = [] } = schema as Record<string, object>;
  const own = Object.entries(properties).flatMap(([key, value]) => {
    const at = path === "" ? key : `${path}.${key}`;
    return [at, ...keysOf(value, at)];
  });
  const inner = [items, ...Object.values(anyOf)];
  return [...new Set([...own, ...inner.flatMap((each) => keysOf(each, path))])];
}

test("docs/configuration.md has every key of the schema", () => {
  const keys = keysOf(configurationSchema());
  for (const key of ["user", "service.capture.dst", "pool.upstream.weight", "routes.on-exit"]) {
    expect(keys).toContain(key);
  }
  const hasKey = (path: string) => {
    const key = path.split(".").at(-1) ?? "";
    return new RegExp(`\`${key}\`|\\[${path}\\]|(^|[{,] )${key} =`, "m").test(reference);
  };
  expect(keys.filter((path) => !hasKey(path))).toEqual([]);
});

/** The defaults of a table of keys, by key; a row of several keys has none. */
function defaultsOf(table: string): Map<string, string> {
  const [, rows = ""] = reference.split(`| ${table} | default | meaning |\n|---|---|---|\n`);
  const [own = ""] = rows.split("\n\n");
  const cells = own.matchAll(/^\| `([a-z-]+)` \|(.*?)\|/gm);
  return new Map([...cells].map(([, key = "", value = ""]) => [key, value.trim()]));
}

test("the defaults in docs/configuration.md are those that apply", async () => {
  const { settings } = await readSettings(
    `[[service]]\nname = "x"\nlisten = [":1", "udp://:1"]\nto = "192.0.2.1:1"\n`,
  );
  const all = configurationKind.write(effectiveSettings(settings)) as Record<string, object>;
  const [service = {}] = all.service as object[];
  const required = ["name", "listen", "to"];
  const tables = { "top level": all, "`[routes]`": all.routes, "`[[service]]`": service };
  for (const [title, values = {}] of Object.entries(tables)) {
    const documented = defaultsOf(title);
    expect(documented.size).toBeGreaterThan(0);
    for (const [key, value] of Object.entries(values)) {
      if (typeof value === "object" || required.includes(key)) continue;
      expect([title, key, documented.get(key)]).toEqual([title, key, `${value}`]);
    }
  }
});

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { changeLine, type Difference, difference } from "../../../src/config/diff.ts";
import { effectiveSettings } from "../../../src/config/effective.ts";
import type { Listen } from "../../../src/config/listen.ts";
import {
  configurationKind,
  type PoolSettings,
  type ServiceSettings,
  type Settings,
} from "../../../src/config/settings.ts";
import { anySettings, readText } from "../../helpers/configurations.ts";

const runs = { numRuns: 1_000, seed: 13 };
const names = ["web", "dns", "mail.example", "a-b", "0", "x_y"];

/** A table as it applies, by the words of a file. */
type Table = Readonly<Record<string, unknown>>;

/** The tables of a kind by name, with all that applies to them. */
function tablesOf(settings: Settings, kind: "service" | "pool"): Map<string, Table> {
  const written = configurationKind.write(effectiveSettings(settings)) as Table;
  const tables = (written[kind] ?? []) as Table[];
  return new Map(tables.map((each) => [String((each as { name?: string }).name), each]));
}

function listenersOf(service: Table | undefined): Set<string> {
  const { listen = [] } = service as { listen?: string | string[] };
  return new Set([listen].flat());
}

/** All have names, each its own. */
function named<T extends ServiceSettings | PoolSettings>(tables: readonly T[], from: number): T[] {
  return tables.map((each, i) => ({ ...each, name: names[(from + i) % names.length] as string }));
}

/** The services, each with a listener at least: none runs without. */
function listening({ service = [] }: Settings): ServiceSettings[] {
  const ports = { from: 80, to: 80 } as Listen["ports"];
  const listen: Listen[] = [{ protocol: "tcp", address: undefined, ports }];
  return service.map((each) => ({ listen, ...each }));
}

/** Two configurations with names in common; of the tables in common some are the same. */
const pair = fc
  .tuple(anySettings, anySettings, fc.nat(5), fc.nat(5), fc.array(fc.boolean(), { minLength: 12 }))
  .map(([a, b, from, to, same]): [Settings, Settings] => {
    const before = {
      ...a,
      pool: named(a.pool ?? [], from),
      service: named(listening(a), from),
    };
    const taken = <T extends { name?: string }>(own: T[], others: readonly T[], at: number) =>
      own.map((each, i) => {
        const other = others.find(({ name }) => name === each.name);
        return same[at + i] && other !== undefined ? other : each;
      });
    const after = {
      ...b,
      ...(same[0] ? { defaults: a.defaults } : {}),
      pool: taken(named(b.pool ?? [], to), before.pool, 0),
      service: taken(named(listening(b), to), before.service, 6),
    };
    return [before as Settings, after as Settings];
  });

/** What a difference does to the tables of a kind: the names that it adds, removes and changes. */
function effectOf({ changes }: Difference, kind: string, before: ReadonlyMap<string, unknown>) {
  const [added, removed, changed] = [new Set<string>(), new Set<string>(), new Set<string>()];
  for (const { sign, text } of changes) {
    const [, name, setting] = new RegExp(`^${kind} ([^ :]+)(?:: (.*))?$`).exec(text) ?? [];
    if (name === undefined) continue;
    // A line of an upstream has the sign of the upstream.
    if (before.has(name) && setting !== undefined) changed.add(name);
    else (sign === "+" ? added : removed).add(name);
    if (setting === undefined && sign === "+") expect(before.has(name)).toBe(false);
  }
  return { added, removed, changed };
}

const sorted = (items: Iterable<string>) => [...items].toSorted();
const equal = (a: unknown, b: unknown) => Bun.deepEquals(a, b);

describe("two configurations at random", () => {
  test("one does not differ from itself", () => {
    fc.assert(
      fc.property(anySettings, (a) => {
        const none = { changes: [], upgrades: [] };
        expect(difference(a, a)).toEqual(none);
        expect(difference(structuredClone(a), a)).toEqual(none);
      }),
      runs,
    );
  });

  test("the names that are added, removed and changed are exact", () => {
    fc.assert(
      fc.property(pair, ([a, b]) => {
        const found = difference(a, b);
        for (const kind of ["service", "pool"] as const) {
          const [old, next] = [tablesOf(a, kind), tablesOf(b, kind)];
          const { added, removed, changed } = effectOf(found, kind, old);
          const both = [...old.keys()].filter((name) => next.has(name));
          expect(sorted(added)).toEqual(sorted([...next.keys()].filter((each) => !old.has(each))));
          expect(sorted(removed)).toEqual(sorted([...old.keys()].filter((e) => !next.has(e))));
          const others = both.filter((name) => !equal(old.get(name), next.get(name)));
          expect(sorted(changed)).toEqual(sorted(others));
          // So the lines turn the one into the other.
          for (const name of removed) old.delete(name);
          for (const name of [...added, ...changed]) old.set(name, next.get(name) as Table);
          expect(Object.fromEntries(old)).toEqual(Object.fromEntries(next));
        }
      }),
      runs,
    );
  });

  test("the listeners of a service that is changed come and go by its line", () => {
    let seen = 0;
    fc.assert(
      fc.property(pair, ([a, b]) => {
        const [old, next] = [tablesOf(a, "service"), tablesOf(b, "service")];
        for (const { text } of difference(a, b).changes) {
          const [, name = "", list] = /^service ([^ :]+): listen((?: [+-] \S+)+)$/.exec(text) ?? [];
          if (list === undefined) continue;
          seen++;
          const listed = (sign: string) =>
            new Set(
              [...list.matchAll(/ ([+-]) (\S+)/g)].flatMap((m) => (m[1] === sign ? m[2] : [])),
            );
          const [coming, going] = [listed("+"), listed("-")] as [Set<string>, Set<string>];
          const [before, after] = [listenersOf(old.get(name)), listenersOf(next.get(name))];
          expect(going.isSubsetOf(before) && coming.isDisjointFrom(before)).toBe(true);
          expect(sorted(before.difference(going).union(coming))).toEqual(sorted(after));
        }
      }),
      runs,
    );
    expect(seen).toBeGreaterThan(100);
  });

  test("lines are one each, none twice, and what needs an upgrade is one of them", () => {
    fc.assert(
      fc.property(pair, ([a, b]) => {
        const { changes, upgrades } = difference(a, b);
        const lines = changes.map(changeLine);
        expect(new Set(lines).size).toBe(lines.length);
        for (const line of lines) expect(line).toMatch(/^[+~-] [^\n\r]+$/);
        expect(lines).toEqual(expect.arrayContaining(upgrades.map(changeLine)));
        // Back again there are as many changes, and nothing that is new or gone needs an upgrade.
        expect(difference(b, a).changes.length).toBe(changes.length);
        for (const { text } of upgrades) {
          expect(text).toMatch(
            /^service [^ ]+: (transparent|redirect|client-first|fast-open|path) |^(?!service|pool)/,
          );
        }
      }),
      runs,
    );
  });

  test("settings without names, or with names twice, have a difference as well", () => {
    fc.assert(
      fc.property(anySettings, anySettings, (a, b) => {
        const { changes } = difference(a, b);
        for (const each of changes) expect(changeLine(each)).not.toMatch(/undefined|\[object/);
      }),
      runs,
    );
  });
});

/** The lines between two files that differ by `more`, and those of them that need an upgrade. */
async function between(before: string, after: string) {
  const [a, b] = await Promise.all([before, after].map((text) => readText(text, lists(text))));
  const problems = [...(a?.problems ?? []), ...(b?.problems ?? [])].map(({ text }) => text);
  if (problems.length > 0) throw new Error(problems.join("; "));
  const { changes, upgrades } = difference(
    a?.configuration?.settings as Settings,
    b?.configuration?.settings as Settings,
  );
  return { lines: changes.map(changeLine), upgrades: upgrades.map(changeLine) };
}

/** The list that a file names, with a network of its own for each version. */
function lists(text: string): Record<string, string> {
  return { "lan.txt": text.includes("version two") ? "10.0.0.0/8\n" : "192.168.0.0/16\n" };
}

const web = '[[service]]\nname = "web"\nlisten = ":80"\nto = "192.0.2.1:80"\n';
const mail = '[[service]]\nname = "mail"\nlisten = ":25"\nto = "192.0.2.2:25"\n';
const auto = '[routes]\ninstall = "auto"\n';

describe("what is said of", () => {
  test.each([
    [
      "a default, for whom it applies to",
      web,
      `[defaults]\nidle-timeout = "9s"\n${web}`,
      ["~ service web: idle-timeout 10m -> 9s"],
    ],
    ["a listener", web, web.replace('":80"', '[":80", ":81"]'), ["~ service web: listen + :81"]],
    [
      "a name, which is another service",
      web,
      web.replace('"web"', '"www"'),
      ["- service web", "+ service www: listen :80"],
    ],
    [
      "services in another order, where the first of them captures",
      auto + web + mail,
      auto + mail + web,
      ["~ services in another order: mail, web"],
    ],
    ["services in another order, of which none captures", web + mail, mail + web, []],
    ["a new service before others", auto + web, auto + mail + web, ["+ service mail: listen :25"]],
  ] as const)("%s", async (_, before, after, lines) => {
    expect(await between(before, after)).toEqual({ lines: [...lines], upgrades: [] });
  });

  test("defaults of upstreams of services' own, which a running process takes over", async () => {
    const after = `[defaults]\non-down = "close"\npassive = { failures = 3 }\n${web}`;
    const { lines, upgrades } = await between(web, after);
    expect(lines.length).toBeGreaterThan(0);
    expect(lines.every((line) => line.startsWith("~ defaults"))).toBe(true);
    expect(upgrades).toEqual([]);
  });

  test("a list in a file of which the text has changed", async () => {
    const own = `${auto}${web}capture = { src = "@lan.txt" }\n`;
    expect((await between(own, `# version two\n${own}`)).lines).toEqual([
      "~ the list @lan.txt has changed",
    ]);
  });

  test.each([
    ["workers", "workers = 2\n"],
    ["admin", '[admin]\nsocket = "/run/x.sock"\n'],
    ["log.format", '[log]\nformat = "json"\n'],
    ["metrics", '[metrics]\nlisten = "127.0.0.1:9117"\n'],
    ["routes.table", '[routes]\ninstall = "auto"\ntable = 7\n'],
  ])("%s, which only a new process has", async (setting, more) => {
    const before = setting === "routes.table" ? auto + web : web;
    const { lines, upgrades } = await between(before, more + web);
    expect(upgrades).toEqual(lines);
    expect(upgrades[0]).toStartWith(`~ ${setting}`);
  });

  test.each([
    ["transparent", "transparent = false"],
    ["client-first", "client-first = true"],
    ["fast-open", "fast-open = true"],
    ["path", 'path = "auto"'],
  ])("%s, which is of sockets that stay", async (setting, more) => {
    const { upgrades } = await between(web, `${web}${more}\n${mail}`);
    expect(upgrades.map((line) => line.split(" ").slice(0, 4).join(" "))).toEqual([
      `~ service web: ${setting}`,
    ]);
  });

  test("what a running process takes over", async () => {
    const after = `drain-timeout = "5s"\nstrict-limits = true\n[log]\nlevel = "debug"\nsample = 3`;
    const { lines, upgrades } = await between(web, `${after}\nconnections = "none"\n${web}`);
    expect(lines.length).toBeGreaterThanOrEqual(5);
    expect(upgrades).toEqual([]);
  });
});

test("a table that appears or goes is a line of text, not of JSON", async () => {
  const pool = '[[pool]]\nname = "p"\nto = "192.0.2.1:80"\n';
  const check = '{ type = "http", path = "/health", status = [200, 204] }';
  const checked = `${pool}check = ${check}\n`;
  const { lines } = await between(web + pool, web + checked);
  expect(lines).toEqual([
    expect.stringMatching(/^~ pool p: check \(none\) -> type http; .*; status 200, 204$/),
  ]);
  const { lines: back } = await between(web + checked, web + pool);
  expect(back).toEqual([expect.stringMatching(/^~ pool p: check type http; .* -> \(none\)$/)]);
  const metrics = await between(web, `${web}[metrics]\nlisten = "127.0.0.1:9117"\n`);
  expect([...lines, ...back, ...metrics.lines].join("\n")).not.toMatch(/[{}"]/);
});

/** The plots of docs/benchmarks.md: their figures are there, and they are drawn of nothing else. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { readFigures, tablesOf, withTables } from "../../bench/figures.ts";
import { plotLinks, plots, svgOf } from "../../bench/plots.ts";
import { pathTable } from "../../bench/tcp/path-table.ts";

const docs = join(import.meta.dir, "../../../docs");
const figures = await readFigures();
const benchmarks = readFileSync(join(docs, "benchmarks.md"), "utf8");

test("a table of Markdown is read as figures", () => {
  const text =
    "x\n\n| a | b, k/s | c |\n|---|--:|--|\n| d, e | 1,234.5 | – |\n| f | 0.96 × a | |\n\ny";
  expect(tablesOf(text)).toEqual([
    { columns: ["b, k/s", "c"], rows: { "d, e": [1234.5, null], f: [0.96, null] } },
  ]);
});

test("the figures are those of the tables in docs/benchmarks.md", () => {
  const shown = tablesOf(benchmarks).map((table) => JSON.stringify(table));
  for (const table of Object.values(figures).flat()) {
    expect(shown).toContain(JSON.stringify(table));
  }
});

/** Those that have been measured since there is a plot of them. */
const drawn = plots.filter(({ benchmark }) => figures[benchmark] !== undefined);

test.each(drawn.map((plot) => [plot.file, plot] as const))("%s", (file, plot) => {
  const table = figures[plot.benchmark]?.[plot.table];
  expect(table?.columns).toEqual(expect.arrayContaining(Object.keys(plot.columns)));
  expect(Object.keys(table?.rows ?? {})).toEqual(expect.arrayContaining(Object.keys(plot.rows)));
  expect(benchmarks).toContain(`](plots/${file}.svg)`);
  expect(svgOf(plot, figures)).toStartWith("<svg ");
  // The numbers above the bars of the file that is kept.
  const kept = readFileSync(join(docs, "plots", `${file}.svg`), "utf8");
  for (const row of Object.keys(plot.rows)) {
    for (const column of Object.keys(plot.columns)) {
      const value = table?.rows[row]?.[table.columns.indexOf(column)] ?? null;
      if (value !== null) expect(kept).toContain(`>${value.toLocaleString("en")}</text>`);
    }
  }
});

test("tables and plots of a benchmark replace those that docs/benchmarks.md has", () => {
  const page = "a\n<!-- bench path -->\nold\n<!-- end of path -->\nb";
  const once = withTables(page, "path", plotLinks("path").join("\n"));
  expect(once).toStartWith("a\n<!-- bench path -->\n\n![");
  expect(once).toEndWith(".svg)\n\n<!-- end of path -->\nb");
  expect(withTables(once, "path", "new")).not.toContain(".svg");
  expect(withTables(page, "tcp", "new")).toBe(page);
  expect(benchmarks).toContain("<!-- bench path -->");
});

test("the plots of the data paths find their rows and columns in the tables", () => {
  const loads = [
    "new connections: 1/s",
    "bulk, 1 connection: Gbit/s",
    "UDP, 64 bytes: datagrams/s",
  ];
  const series = loads.flatMap((load, at) =>
    ["direct", "kernel", "tproxy", "nginx stream"].flatMap((path, way) => [
      { name: `${load}/${path}`, samples: [10 * (at + 1), 8 * (at + 1) + way] },
      { name: `${load.replace(/:.*/, ": CPU s of the machine/GB")}/${path}`, samples: [way + 1] },
    ]),
  );
  const path = tablesOf(pathTable(series));
  expect(path[0]?.rows["new connections: 1/s"]?.slice(0, 3)).toEqual([9, 9.5, 10]);
  for (const plot of plots.filter(({ benchmark }) => benchmark === "path")) {
    const table = path[plot.table];
    expect(Object.keys(plot.rows)).toEqual(
      expect.arrayContaining(Object.keys(table?.rows ?? { none: [] })),
    );
    expect(Object.keys(table?.rows ?? {})).toHaveLength(loads.length);
    expect(table?.columns).toEqual(expect.arrayContaining(["kernel", "tproxy", "nginx stream"]));
    expect(svgOf(plot, { path })).toStartWith("<svg ");
  }
});

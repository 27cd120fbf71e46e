/** The plots of docs/benchmarks.md: their figures are there, and they are drawn of nothing else. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { readFigures, tablesOf } from "../../bench/figures.ts";
import { plots, svgOf } from "../../bench/plots.ts";

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

test.each(plots.map((plot) => [plot.file, plot] as const))("%s", (file, plot) => {
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

/**
 * The figures of the benchmarks' tables as data, `docs/figures.json`, so that plots can be drawn
 * again without measuring.
 */

import { join } from "node:path";

/** A table: the rows by name, each with one value a column; null where the table has none. */
export interface Table {
  readonly columns: readonly string[];
  readonly rows: Readonly<Record<string, readonly (number | null)[]>>;
}

/** The tables of each benchmark. */
export type Figures = Readonly<Record<string, readonly Table[]>>;

const docs = join(import.meta.dir, "../../docs");
const file = join(docs, "figures.json");

/** The Markdown tables of a text. Cells that do not begin with a number are null. */
export function tablesOf(markdown: string): Table[] {
  const blocks = markdown.match(/(?:^\|.*\|$\n?)+/gm) ?? [];
  return blocks.map((block) => {
    const [head = [], , ...body] = block.trim().split("\n").map(cellsOf);
    const rows = body.map(([name = "", ...cells]) => [name, cells.map(numberOf)]);
    return { columns: head.slice(1), rows: Object.fromEntries(rows) };
  });
}

/** The figures of the file; none if there is no file. */
export async function readFigures(): Promise<Figures> {
  return (await Bun.file(file).exists()) ? Bun.file(file).json() : {};
}

/** Writes the file, with a row a line. */
export async function writeFigures(figures: Figures): Promise<void> {
  const text = JSON.stringify(figures, null, 1).replace(/\[[^[\]{}]*\]/g, (list) =>
    list.replace(/\n\s*/g, " ").replace(/^\[ | \]$/g, (edge) => edge.trim()),
  );
  await Bun.write(file, `${text}\n`);
}

/**
 * Puts the tables of a benchmark into docs/benchmarks.md, between the comments `bench NAME` and
 * `end of NAME`. Without such comments they are put there by hand.
 */
export async function showTables(name: string, tables: string): Promise<void> {
  const page = join(docs, "benchmarks.md");
  await Bun.write(page, withTables(await Bun.file(page).text(), name, tables));
}

/** `text` with `tables` in place of what is between the two comments. */
export function withTables(text: string, name: string, tables: string): string {
  const [begin, end] = [`<!-- bench ${name} -->`, `<!-- end of ${name} -->`];
  const from = text.indexOf(begin);
  const to = text.indexOf(end, from);
  if (from < 0 || to < 0) return text;
  return `${text.slice(0, from)}${begin}\n\n${tables}\n\n${text.slice(to)}`;
}

function cellsOf(line: string): string[] {
  return line
    .slice(1, -1)
    .split("|")
    .map((cell) => cell.trim());
}

function numberOf(cell: string): number | null {
  const [number] = /^-?[\d,]*\.?\d+/.exec(cell) ?? [];
  return number === undefined ? null : Number(number.replaceAll(",", ""));
}

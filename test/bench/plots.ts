/** Bar charts of the measured tables: `docs/plots/*.svg`, which docs/benchmarks.md shows. */

import { join } from "node:path";
import { BarChart } from "echarts/charts";
import { GridComponent, LegendComponent, TitleComponent } from "echarts/components";
import { init, use } from "echarts/core";
import { SVGRenderer } from "echarts/renderers";
import type { Figures, Table } from "./figures.ts";

use([BarChart, GridComponent, LegendComponent, TitleComponent, SVGRenderer]);

/** A chart of some rows and columns of one table. */
export interface Plot {
  readonly file: string;
  readonly title: string;
  readonly benchmark: string;
  /** Which table of the benchmark. */
  readonly table: number;
  /** Name of the row in the table, and at the axis. */
  readonly rows: Readonly<Record<string, string>>;
  /** Name of the column in the table, and in the legend. */
  readonly columns: Readonly<Record<string, string>>;
}

const proxies = { tproxy: "tproxy", HAProxy: "HAProxy", "nginx stream": "nginx stream" };
const all = { ...proxies, "go-mmproxy": "go-mmproxy", direct: "no proxy" };
const sizes = ["1 of 64 bytes", "1 of 64x8 bytes", "100 of 64 bytes", "100 of 64x8 bytes"];
const datagrams = Object.fromEntries(
  [...sizes, "10,000 of 64 bytes", "10,000 of 64x8 bytes"].map((name) => [
    name,
    name.replace(" of ", " sessions, ").replace(/^1 sessions/, "1 session"),
  ]),
);
const ways = { kernel: "tproxy, --path kernel", ...proxies };
const works = Object.fromEntries(
  [
    ...["new connections", "keep-alive requests", "bulk, 1 connection", "bulk, 16 connections"],
    ...["UDP, 64 bytes", "UDP, 1,200 bytes"],
  ].map((name) => [name, name]),
);

/** The charts of docs/benchmarks.md. */
export const plots: readonly Plot[] = [
  {
    file: "tcp-bulk",
    title: "TCP bulk, three hosts: Gbit/s (more is better)",
    ...{ benchmark: "tcp", table: 0, columns: all },
    rows: {
      "bulk, 1 connection: Gbit/s": "1 connection",
      "bulk, 16 connections: Gbit/s": "16 connections",
    },
  },
  {
    file: "tcp-cpu",
    title: "TCP bulk, three hosts: CPU s/GB of the proxy (less is better)",
    ...{ benchmark: "tcp", table: 0, columns: { ...proxies, "go-mmproxy": "go-mmproxy" } },
    rows: {
      "bulk, 1 connection: CPU s/GB": "1 connection",
      "bulk, 16 connections: CPU s/GB": "16 connections",
    },
  },
  {
    file: "tcp-requests",
    title: "HTTP, three hosts: requests a second (more is better)",
    ...{ benchmark: "tcp", table: 0, columns: all },
    rows: {
      "new connections: 1/s": "a new connection each",
      "keep-alive requests: 1/s": "keep-alive",
    },
  },
  {
    file: "udp-datagrams",
    title: "UDP, three hosts: 1,000 datagrams a second (more is better)",
    ...{ benchmark: "udp", table: 0, rows: datagrams },
    columns: { "tproxy, k/s": "tproxy", "nginx, k/s": "nginx stream", "direct, k/s": "no proxy" },
  },
  {
    file: "udp-cpu",
    title: "UDP, three hosts: CPU s for a million datagrams (less is better)",
    ...{ benchmark: "udp", table: 0, rows: datagrams },
    columns: { "tproxy, CPU s/M": "tproxy", "nginx, CPU s/M": "nginx stream" },
  },
  {
    file: "path-cpu",
    title: "CPU of the whole machine, as a part of that on the direct path (less is better)",
    ...{ benchmark: "path", table: 1, rows: works, columns: ways },
  },
  {
    file: "path-rate",
    title: "Rate, as a part of that on the direct path (more is better)",
    ...{ benchmark: "path", table: 2, rows: works, columns: ways },
  },
  {
    file: "neighbour",
    title: "Connect time beside another client's churn: ms (less is better)",
    ...{ benchmark: "neighbour", table: 0, columns: proxies },
    rows: { "p50, beside churn, ms": "p50", "p99, beside churn, ms": "p99" },
  },
];

/** One colour a proxy in every chart, told apart by lightness too. */
const colours: Readonly<Record<string, string>> = {
  tproxy: "#0b4f9e",
  HAProxy: "#e07b00",
  "nginx stream": "#6bb36b",
  "go-mmproxy": "#b9a3d3",
  "no proxy": "#c9c9c9",
  "tproxy, --path kernel": "#5aa0e6",
};

/** The chart as SVG; a figure that the table does not have leaves a gap. */
export function svgOf(plot: Plot, figures: Figures): string {
  const table = figures[plot.benchmark]?.[plot.table];
  if (table === undefined) throw new Error(`no figures for ${plot.benchmark}`);
  const chart = init(null, null, { renderer: "svg", ssr: true, width: 820, height: 360 });
  chart.setOption({
    ...{ animation: false, backgroundColor: "#ffffff" },
    textStyle: { fontFamily: "sans-serif" },
    title: { text: plot.title, textStyle: { fontSize: 15 } },
    legend: { bottom: 0, itemGap: 32 },
    grid: { left: 56, right: 16, top: 48, bottom: 72 },
    xAxis: {
      type: "category",
      data: Object.values(plot.rows),
      axisLabel: { interval: 0, width: 96, overflow: "break", fontSize: 11 },
    },
    yAxis: { type: "value" },
    series: Object.entries(plot.columns).map(([column, name]) => ({
      ...{ type: "bar", name, itemStyle: { color: colours[name] } },
      data: Object.keys(plot.rows).map((row) => figureOf(table, row, column)),
      label: { show: true, position: "top", fontSize: 10, formatter: labelOf },
    })),
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  // Styles for a mouse, with names that differ from run to run.
  return svg
    .replace(/<style\s*>[\s\S]*?<\/style>\n?/, "")
    .replace(/ class="zr[\w-]*"/g, "")
    .replace(">", `>\n<title>${Bun.escapeHTML(plot.title)}</title>`);
}

/** The images of a benchmark's charts in docs/benchmarks.md. */
export function plotLinks(benchmark: string): string[] {
  return plots
    .filter((plot) => plot.benchmark === benchmark)
    .map(({ file, title }) => `![${title.replace(/ \(.*/, "")}](plots/${file}.svg)`);
}

/** Draws every chart that there are figures for; the files' names. */
export async function drawPlots(figures: Figures): Promise<string[]> {
  const folder = join(import.meta.dir, "../../docs/plots");
  const drawn = plots.filter(({ benchmark }) => figures[benchmark] !== undefined);
  for (const plot of drawn) {
    await Bun.write(join(folder, `${plot.file}.svg`), `${svgOf(plot, figures)}\n`);
  }
  return drawn.map(({ file }) => `docs/plots/${file}.svg`);
}

function figureOf({ columns, rows }: Table, row: string, column: string): number | null {
  return rows[row]?.[columns.indexOf(column)] ?? null;
}

function labelOf({ value }: { value?: unknown }): string {
  return typeof value === "number" ? value.toLocaleString("en") : "";
}

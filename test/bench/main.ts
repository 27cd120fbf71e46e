/**
 * `bun run bench [ffi] [rules] [startup] [tcp] [path] [neighbour] [udp] [newcomers] [control]
 * [--rounds N] [--only REGEXP] [--base EXECUTABLE]… [--json] [--save]`:
 * medians of interleaved rounds, as Markdown tables or one JSON object. All references are measured
 * in the same run. `--only` keeps to a part of `tcp`, such as "lab/bulk" or "loopback/bulk", to a
 * part of `path`, such as "bulk.*kernel", and to proxies of `neighbour`. `--base` has `control`
 * measure other executables of tproxy in turns with this one. `--save` writes the
 * tables' figures to `docs/figures.json`, the tables of `path` to `docs/benchmarks.md`, and draws
 * `docs/plots/*.svg`; `bun run bench plots` draws them again without measuring.
 */

import { arch, cpus, release } from "node:os";
import { parseArgs } from "node:util";
import { controlTable, measureControl } from "./control.ts";
import { ffiTable, measureFfi } from "./ffi.ts";
import { readFigures, showTables, tablesOf, writeFigures } from "./figures.ts";
import { drawPlots, plotLinks } from "./plots.ts";
import { measureRules, rulesTable } from "./rules.ts";
import { measureStartup, startupTable } from "./startup.ts";
import { type Series, summary } from "./statistics.ts";
import { measureTcp } from "./tcp/measure.ts";
import { measureNeighbour, neighbourTable } from "./tcp/neighbour.ts";
import { measurePaths } from "./tcp/path.ts";
import { pathTable } from "./tcp/path-table.ts";
import { tcpTable } from "./tcp/table.ts";
import { measureUdp, udpTable } from "./udp/measure.ts";
import { measureNewcomers, newcomersTable } from "./udp/newcomers.ts";

interface Benchmark {
  readonly title: string;
  readonly rounds: number;
  measure(rounds: number): Promise<Series[]>;
  table(series: readonly Series[]): string;
}

const { values, positionals } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    save: { type: "boolean", default: false },
    rounds: { type: "string" },
    only: { type: "string", default: "" },
    base: { type: "string", multiple: true, default: [] },
  },
  allowPositionals: true,
});

const benchmarks: Record<string, Benchmark> = {
  ffi: {
    title: "System calls through the FFI layer",
    rounds: 11,
    measure: measureFfi,
    table: (series) => ffiTable(new Map(series.map(summary).map((row) => [row.name, row.median]))),
  },
  rules: {
    title: "20,000 networks into the kernel",
    rounds: 11,
    measure: measureRules,
    table: (series) => rulesTable(series.map(summary)),
  },
  startup: {
    title: "Start-up",
    rounds: 20,
    measure: measureStartup,
    table: (series) => startupTable(series.map(summary)),
  },
  tcp: {
    title: "TCP through proxies",
    rounds: 5,
    measure: (rounds) => measureTcp(rounds, values.only),
    table: tcpTable,
  },
  path: {
    title: "Data paths",
    rounds: 5,
    measure: (rounds) => measurePaths(rounds, values.only),
    table: pathTable,
  },
  neighbour: {
    title: "What a client notices of another one's churn",
    rounds: 3,
    measure: (rounds) => measureNeighbour(rounds, values.only),
    table: (series) => neighbourTable(series.map(summary)),
  },
  udp: {
    title: "UDP through proxies",
    rounds: 5,
    measure: measureUdp,
    table: (series) => udpTable(series.map(summary)),
  },
  newcomers: {
    title: "New sessions of UDP, and what established ones notice",
    rounds: 3,
    measure: measureNewcomers,
    table: (series) => newcomersTable(series.map(summary)),
  },
  control: {
    title: "Control",
    rounds: 5,
    measure: (rounds) => measureControl(rounds, values.base),
    table: controlTable,
  },
};

if (positionals.length === 1 && positionals[0] === "plots") {
  process.stdout.write(`${(await drawPlots(await readFigures())).join("\n")}\n`);
  process.exit(0);
}

if (values.save && values.only !== "") {
  process.stderr.write("bench: --save excludes --only, which measures a part of a table\n");
  process.exit(2);
}
const rounds = values.rounds === undefined ? undefined : Number(values.rounds);
const unknown = positionals.find((name) => benchmarks[name] === undefined);
if (unknown !== undefined || (rounds !== undefined && !(Number.isInteger(rounds) && rounds > 0))) {
  const wrong = unknown === undefined ? `--rounds "${values.rounds}"` : `benchmark "${unknown}"`;
  process.stderr.write(`bench: ${wrong}: give ${Object.keys(benchmarks).join(" or ")}, a number\n`);
  process.exit(2);
}

const machine = `${cpus().length} CPUs, Linux ${release()}, ${arch()}, Bun ${Bun.version}`;
const results: Record<string, unknown> = { machine };
if (!values.json) process.stdout.write(`${machine}\n`);
for (const name of positionals.length > 0 ? positionals : Object.keys(benchmarks)) {
  const benchmark = benchmarks[name] as Benchmark;
  const count = rounds ?? benchmark.rounds;
  const series = await benchmark.measure(count);
  results[name] = series.map((each) => ({ ...summary(each), samples: each.samples }));
  if (values.save) {
    const tables = benchmark.table(series);
    await writeFigures({ ...(await readFigures()), [name]: tablesOf(tables) });
    await showTables(name, [...plotLinks(name), "", tables].join("\n"));
    await drawPlots(await readFigures());
  }
  if (values.json) continue;
  process.stdout.write(`\n## ${benchmark.title} (${count} rounds)\n\n${benchmark.table(series)}\n`);
}
if (values.json) process.stdout.write(`${JSON.stringify(results, null, 2)}\n`);
process.exit(0);

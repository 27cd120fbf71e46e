/** What `bench tcp` found, as Markdown: a table for each place, the aims, versions and commands. */

import { markdownTable, median, type Series } from "../statistics.ts";
import { iperfCommand, wrkCommand } from "./loads.ts";
import { contenders } from "./proxies.ts";

/** What is aimed at: the ratio to another's figure, at least or at most. */
interface Aim {
  readonly row: RegExp;
  readonly against: "HAProxy" | "the better peer" | "direct";
  readonly atLeast?: number;
  readonly atMost?: number;
}

const aims: readonly Aim[] = [
  { row: /^bulk.*Gbit/, against: "HAProxy", atLeast: 1.1 },
  { row: /^bulk.*CPU s\//, against: "HAProxy", atMost: 0.9 },
  { row: /^new connections: 1\/s/, against: "the better peer", atLeast: 1.2 },
  { row: /^one client/, against: "HAProxy", atLeast: 10 },
  { row: /^keep-alive requests: 1\/s/, against: "the better peer", atLeast: 1.1 },
  { row: /^(keep-alive requests|new connections): CPU s of all/, against: "direct", atMost: 2 },
  { row: /^keep-alive requests: p99/, against: "the better peer", atMost: 1 },
  { row: /CPU s\/|p50/, against: "the better peer" },
  { row: /1\/s/, against: "the better peer" },
  { row: /^memory/, against: "HAProxy", atMost: 1 },
];

const places = { lab: "Three hosts, TPROXY, the client's address", loopback: "Loopback" };
const peers = ["HAProxy", "nginx stream"];

type Rows = Map<string, Map<string, readonly number[]>>;

/** The tables of what `measureTcp` found. */
export function tcpTable(series: readonly Series[]): string {
  return Object.entries(places)
    .map(([place, title]) => {
      const rows = rowsOf(series, place);
      const names = ["tproxy", ...contenders.map(({ name }) => name).slice(1), "direct"];
      const body = [...rows]
        .filter(hasFigures)
        .map(([row, samples]) => [
          row,
          ...names.map((name) => figure(samples.get(name))),
          comparison(row, samples),
        ]);
      return `### ${title}\n\n${markdownTable(["", ...names, "ratio (aim)"], body)}`;
    })
    .concat(notes())
    .join("\n\n");
}

function rowsOf(series: readonly Series[], place: string): Rows {
  const rows: Rows = new Map();
  for (const { name, samples } of series) {
    const [, row = "", contender = ""] = new RegExp(`^${place}/(.*)/([^/]*)$`).exec(name) ?? [];
    if (row === "") continue;
    const found = rows.get(row) ?? new Map<string, readonly number[]>();
    rows.set(row, found.set(contender, samples));
  }
  return rows;
}

/** Whether there is anything but zeros, which is what is hoped for of failures. */
const hasFigures = ([, samples]: [unknown, ReadonlyMap<string, readonly number[]>]) =>
  [...samples.values()].some((each) => median(each) > 0);

function figure(samples: readonly number[] | undefined): string {
  if (samples === undefined) return "–";
  const value = median(samples);
  if (value === 0) return "0";
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
  return value.toLocaleString("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

/** The median of the rounds' ratios: what disturbs a round disturbs all that is in it. */
function comparison(row: string, samples: ReadonlyMap<string, readonly number[]>): string {
  const aim = aims.find((each) => each.row.test(row));
  const ours = samples.get("tproxy");
  const name = aim && opponent(aim, row, samples);
  const theirs = name && samples.get(name);
  if (aim === undefined || !ours || !theirs) return "";
  const ratio = median(ours.map((each, round) => each / (theirs[round] as number))).toFixed(2);
  if (aim.atLeast !== undefined) return `${ratio} × ${name} (≥ ${aim.atLeast})`;
  if (aim.atMost !== undefined) return `${ratio} × ${name} (≤ ${aim.atMost})`;
  return `${ratio} × ${name}`;
}

function opponent(aim: Aim, row: string, samples: ReadonlyMap<string, readonly number[]>) {
  if (aim.against !== "the better peer") return aim.against;
  const there = peers.filter((peer) => samples.has(peer));
  const of = (peer: string) => median(samples.get(peer) ?? []);
  return there.toSorted((a, b) => (row.includes("1/s") ? of(b) - of(a) : of(a) - of(b)))[0];
}

function notes(): string[] {
  const versions = contenders.map(({ version }) => {
    const { stdout, stderr } = Bun.spawnSync([...version]);
    return `- ${`${stdout}${stderr}`.split("\n")[0]?.trim().replace("\t", " ")}`;
  });
  const target = { address: "BACKEND", port: 80 };
  const commands = [
    wrkCommand(target, ["-c64", "-d2s", "[-HConnection: close]"]),
    iperfCommand({ ...target, port: 5201 }, 2, 1),
  ].map((command) => `- \`${command.join(" ")}\``);
  return [
    "Medians; CPU: user and system time of the proxy's whole process, or of load, proxy and " +
      "backend (`of all`).",
    [...versions, ...commands].join("\n"),
  ];
}

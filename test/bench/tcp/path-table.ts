/** What `bench path` found, as Markdown: the figures of each path, and the ratios to the goals. */

import { markdownTable, median, type Series } from "../statistics.ts";
import { contenders } from "./proxies.ts";

export const relays = contenders.filter(({ onlySpoofing }) => onlySpoofing !== true);

/** The paths, in the order of the table's columns. */
export const paths: readonly string[] = ["direct", "kernel", ...relays.map(({ name }) => name)];

const peers = ["HAProxy", "nginx stream"];

/** The goals of the kernel's path, by row: to the direct path, and to the better peer. */
const goals: readonly {
  readonly row: RegExp;
  readonly direct?: string;
  readonly peer?: string;
}[] = [
  { row: /^new connections: 1\/s/, peer: "≥ 1.15" },
  { row: /^keep-alive requests: 1\/s/, peer: "≥ 1.4" },
  { row: /^UDP, 64 bytes: datagrams/, peer: "≥ 3" },
  { row: /^UDP, 1,200 bytes: datagrams/, peer: "≥ 1.8" },
  { row: /^keep-alive requests: p99/, peer: "< 1" },
  { row: /^(new connections|UDP).*: CPU/, direct: "≤ 1.2" },
  { row: /: CPU/, direct: "≤ 1.15" },
];

/** By row, the samples of each path. */
type Rows = ReadonlyMap<string, ReadonlyMap<string, readonly number[]>>;

/**
 * Three tables: medians with the median ratios of the rounds; the CPU of the whole machine, and
 * the rate, as parts of those of the direct path.
 */
export function pathTable(series: readonly Series[]): string {
  const rows = rowsOf(series);
  const head = [
    ...["", ...paths, "kernel / direct (goal)"],
    ...["kernel / the better peer (goal)", "relay / the better peer"],
  ];
  const body = [...rows].map(([row, samples]) => {
    const goal = goals.find((each) => each.row.test(row));
    const peer = betterPeer(row, samples);
    return [
      row,
      ...paths.map((path) => figure(samples.get(path))),
      withGoal(ratio(samples, "kernel", "direct"), goal?.direct),
      peer === undefined ? "–" : withGoal(ratio(samples, "kernel", peer), goal?.peer),
      peer === undefined ? "–" : ratio(samples, "tproxy", peer),
    ];
  });
  return [
    markdownTable(head, body),
    "The CPU of the whole machine for the same work, as a part of that on the direct path:",
    ofDirect(rows, / of the machine/),
    "The rate, as a part of that on the direct path:",
    ofDirect(rows, /\/s$/),
  ].join("\n\n");
}

function rowsOf(series: readonly Series[]): Rows {
  const rows = new Map<string, Map<string, readonly number[]>>();
  for (const { name, samples } of series) {
    const at = name.lastIndexOf("/");
    const row = name.slice(0, at);
    rows.set(row, (rows.get(row) ?? new Map()).set(name.slice(at + 1), samples));
  }
  return rows;
}

function ofDirect(rows: Rows, kind: RegExp): string {
  const body = [...rows]
    .filter(([row]) => kind.test(row))
    .map(([row, samples]) => [
      row.replace(/: .*/, ""),
      ...paths.map((path) => ratio(samples, path, "direct")),
    ]);
  return markdownTable(["", ...paths], body);
}

/** The median of the rounds' ratios: what disturbs a round disturbs all that is in it. */
function ratio(samples: ReadonlyMap<string, readonly number[]>, of: string, to: string): string {
  const [ours, theirs] = [samples.get(of), samples.get(to)];
  if (ours === undefined || theirs === undefined) return "–";
  const ratios = ours.flatMap((each, round) => {
    const other = theirs[round];
    return other === undefined ? [] : [each / other];
  });
  return ratios.length === 0 ? "–" : median(ratios).toFixed(2);
}

const withGoal = (value: string, goal: string | undefined) =>
  goal === undefined || value === "–" ? value : `${value} (${goal})`;

function betterPeer(
  row: string,
  samples: ReadonlyMap<string, readonly number[]>,
): string | undefined {
  const isMoreBetter = row.endsWith("/s");
  const of = (peer: string) => median(samples.get(peer) ?? []);
  return peers
    .filter((peer) => samples.has(peer))
    .toSorted((a, b) => (isMoreBetter ? of(b) - of(a) : of(a) - of(b)))[0];
}

function figure(samples: readonly number[] | undefined): string {
  if (samples === undefined) return "–";
  const value = median(samples);
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
  return value.toLocaleString("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

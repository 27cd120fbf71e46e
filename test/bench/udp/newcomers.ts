/**
 * `bench newcomers`: how many sessions to one destination a Worker begins in a second, and what
 * established ones lose and wait meanwhile. TPROXY_OTHER names another executable to set beside.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inNamespace } from "../../helpers/netns.ts";
import { markdownTable, Recorder, type Row, type Series } from "../statistics.ts";
import { compile, hosts, type Sample, tproxy } from "./lab.ts";

const SECONDS = 2;
const ESTABLISHED = 50;
const ESTABLISHED_RATE = 2_000;
/** Each from a source address of its own, so many a second, which is more than can be carried. */
const NEWCOMERS = 30_000;
const NEWCOMERS_RATE = 15_000;

/** `listenPort` is the destination's port, or another one, to which TPROXY then sends. */
const lab = (executable: string, listenPort: number) => `${hosts}
ulimit -n "$(ulimit -Hn)"
'${executable}' routes --print --proto udp --in p0 --dport 5300 --to-port ${listenPort} \\
  --family 4 --reply-path --dialect nft > rules.sh
sh -e rules.sh
nsenter -t "$backend" -n ./load echo 8080 > ready &
started="$started $!"
until grep -qs ready ready; do kill -0 $!; done
background '${executable}' forward "udp://:${listenPort}" --to 10.9.2.2:8080 --quiet > proxy.log
until [ -s proxy.log ]; do kill -0 $!; done
load() { # FIRST SESSIONS RATE
  within client ./load open 8.8.8.8 5300 "$1" "$2" 64 ${SECONDS} "$3" $proxy
}
established() { load 10.50.0.1 ${ESTABLISHED} ${ESTABLISHED_RATE}; }
proxy=$!
printf 'alone\\t'; established
load 10.50.64.1 ${NEWCOMERS} ${NEWCOMERS_RATE} > newcomers &
newcomers=$!
printf 'beside\\t'; established
wait $newcomers
printf 'newcomers\\t'; cat newcomers
`;

/** Measures `rounds` times, each in fresh labs. */
export async function measureNewcomers(rounds: number): Promise<Series[]> {
  const recorder = new Recorder();
  const folder = await mkdtemp(join(tmpdir(), "tproxy-bench-"));
  const executables = { tproxy, other: process.env.TPROXY_OTHER };
  try {
    const generator = compile(folder);
    for (let round = 0; round < rounds; round++) {
      for (const [name, executable] of Object.entries(executables)) {
        if (executable === undefined) continue;
        for (const port of [5300, 50053]) {
          const way = port === 5300 ? "same port" : "another port";
          for (const [figure, value] of await once(generator, executable, port)) {
            recorder.add(`${way}: ${figure}/${name}`, value);
          }
        }
      }
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return recorder.series;
}

async function once(
  generator: string,
  executable: string,
  port: number,
): Promise<[figure: string, value: number][]> {
  const script = `ln -s '${generator}' load\n${lab(executable, port)}`;
  const { status, stdout, stderr } = await inNamespace(script, { timeoutMs: 60_000 });
  if (status !== 0) throw new Error(`status ${status}: ${stderr}\n${stdout}`);
  const samples = new Map(
    stdout
      .trimEnd()
      .split("\n")
      .map((line) => line.split("\t") as [string, string])
      .map(([name, json]) => [name, JSON.parse(json) as Sample]),
  );
  const { alone, beside, newcomers } = Object.fromEntries(samples) as Record<string, Sample>;
  if (alone === undefined || beside === undefined || newcomers === undefined) throw new Error("!");
  return [
    ["new sessions a second", newcomers.received / newcomers.seconds],
    ["CPU µs for each", (1e6 * newcomers.cpu) / newcomers.received],
    ["established: lost or later than 200 ms, %", (100 * beside.lost) / beside.sent],
    ["established: p50, µs", beside.p50],
    ["established: p99, µs", beside.p99],
    ["alone: p50, µs", alone.p50],
  ];
}

/** A row for each figure, a column for each executable. */
export function newcomersTable(rows: readonly Row[]): string {
  const part = (name: string, at: number) => name.split("/")[at] as string;
  const names = [...new Set(rows.map(({ name }) => part(name, 0)))].toSorted();
  const columns = [...new Set(rows.map(({ name }) => part(name, 1)))];
  const cell = (name: string, column: string) =>
    rows.find((row) => row.name === `${name}/${column}`)?.median.toFixed(1) ?? "-";
  const lines = names.map((name) => [name, ...columns.map((column) => cell(name, column))]);
  return markdownTable(["", ...columns], lines);
}

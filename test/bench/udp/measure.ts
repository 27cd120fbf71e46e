/**
 * `forward --udp` beside nginx stream and the direct path: datagrams a second, CPU, loss, round
 * trips and memory. A round trip is two datagrams through the proxy.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { which } from "../../helpers/tools.ts";
import { markdownTable, Recorder, type Row, type Series } from "../statistics.ts";
import { compile, type Run, round, type Sample, type Target } from "./lab.ts";

const SESSIONS = [1, 100, 10_000];
/** Each on its own, and eight of a session at once (UDP_SEGMENT, as QUIC sends). */
const SIZES = ["64", "1200", "64x8", "1200x8"];
/** Round trips a second that are asked for, whatever comes back. */
const RATES = [20_000, 30_000, 40_000, 50_000, 60_000];
const CALM_RATE = 5_000;
/** Under way at once: as much as is queued when a proxy is busy, less than its buffers hold. */
const underWay = (sessions: number) => Math.min(64 * sessions, 512);

const closed = (sessions: number, size: string): Run => ({
  key: `${sessions.toLocaleString("en")} of ${size} bytes`,
  mode: "closed",
  sessions,
  size,
  amount: underWay(sessions),
});
const open = (rate: number): Run => ({
  key: `rate ${rate}`,
  mode: "open",
  sessions: 100,
  size: "64",
  amount: rate,
});

/** The sessions are made here, however long that takes; the others find them. */
const MEMORY: Run[] = [
  { ...closed(1, "64"), key: "few" },
  ...[1, 2, 3].map(() => ({ ...closed(10_000, "64"), key: "many" })),
];
/** With less in the queues there is less to take at once. */
const SHALLOW: Run = { ...closed(100, "64"), key: "100 of 64 bytes, 64 under way", amount: 64 };
const CLOSED: Run[] = [
  SHALLOW,
  ...SESSIONS.flatMap((sessions) => SIZES.map((size) => closed(sessions, size))),
];
const RUNS: Run[] = [...MEMORY, ...CLOSED, ...[CALM_RATE, ...RATES].map(open)];
const LOOPBACK: Run[] = SIZES.map((size) => closed(100, size));
const WARM_UP: Run = { ...closed(100, "64"), key: "warm-up" };

/** Measures `rounds` times, each in a fresh lab, the targets in turns. */
export async function measureUdp(rounds: number): Promise<Series[]> {
  const missing = ["gcc", "nginx", "ip", "nft"].filter((program) => which(program) === undefined);
  if (missing.length > 0) throw new Error(`missing: ${missing.join(", ")}`);
  const recorder = new Recorder();
  const folder = await mkdtemp(join(tmpdir(), "tproxy-bench-"));
  try {
    const generator = compile(folder);
    for (let turn = 0; turn < rounds; turn++) {
      for (const where of ["veth", "loopback"] as const) {
        const runs = where === "veth" ? RUNS : [WARM_UP, ...LOOPBACK];
        const targets: Target[] = ["direct", "nginx", "tproxy"];
        const found = await round(where, generator, targets, runs, turn);
        for (const { key, target, sample } of found) {
          const name = where === "veth" ? key : `loopback, ${key}`;
          add(recorder, name, target, sample);
          const nginx = found.find((each) => each.key === key && each.target === "nginx");
          if (target === "tproxy" && nginx !== undefined) {
            addRatios(recorder, name, nginx.sample, sample);
          }
        }
        addMemory(recorder, found);
      }
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return recorder.series;
}

/** Datagrams a second, and CPU seconds for a million of them. */
const rateOf = ({ received, seconds }: Sample) => (2 * received) / seconds;
const cpuOf = ({ cpu, received }: Sample) => (cpu / Math.max(2 * received, 1)) * 1e6;

function add(recorder: Recorder, key: string, target: Target, sample: Sample): void {
  const name = (what: string) => `${key}|${target}|${what}`;
  recorder.add(name("rate"), rateOf(sample));
  recorder.add(name("loss"), sample.lost / Math.max(sample.sent, 1));
  recorder.add(name("p50"), sample.p50);
  recorder.add(name("p99"), sample.p99);
  recorder.add(name("cpu"), cpuOf(sample));
}

/** What runs that followed each other say of the two: less noise than their medians apart. */
function addRatios(recorder: Recorder, key: string, nginx: Sample, tproxy: Sample): void {
  recorder.add(`${key}|ratio|rate`, rateOf(tproxy) / rateOf(nginx));
  recorder.add(`${key}|ratio|cpu`, cpuOf(tproxy) / cpuOf(nginx));
}

function addMemory(
  recorder: Recorder,
  found: readonly { key: string; target: Target; sample: Sample }[],
): void {
  for (const target of ["nginx", "tproxy"] as const) {
    const [few, many] = ["few", "many"].map(
      (key) => found.findLast((each) => each.key === key && each.target === target)?.sample.kib,
    );
    if (few === undefined || many === undefined) continue;
    recorder.add(`memory|${target}|bytes`, ((many - few) * 1024) / 10_000);
  }
}

/** Tables of what `measureUdp` found. */
export function udpTable(rows: readonly Row[]): string {
  const values = new Map(rows.map(({ name, median }) => [name, median]));
  const of = (key: string, target: string, what: string) =>
    values.get(`${key}|${target}|${what}`) ?? Number.NaN;
  const memory = (target: string) => of("memory", target, "bytes").toFixed(0);
  return [
    throughput(of),
    loss(of),
    latency(of),
    `Resident memory for each of 10,000 sessions: nginx ${memory("nginx")} bytes, tproxy ` +
      `${memory("tproxy")} bytes.`,
  ].join("\n\n");
}

type Of = (key: string, target: string, what: string) => number;

const thousands = (value: number) => (value / 1000).toFixed(1);

function throughput(of: Of): string {
  const names = [...CLOSED.map(({ key }) => key), ...LOOPBACK.map(({ key }) => `loopback, ${key}`)];
  return markdownTable(
    [
      "sessions, datagrams",
      "direct, k/s",
      "nginx, k/s",
      "tproxy, k/s",
      "of nginx",
      "nginx, CPU s/M",
      "tproxy, CPU s/M",
      "of nginx",
    ],
    names.map((key) => [
      key,
      ...["direct", "nginx", "tproxy"].map((target) => thousands(of(key, target, "rate"))),
      of(key, "ratio", "rate").toFixed(2),
      of(key, "nginx", "cpu").toFixed(2),
      of(key, "tproxy", "cpu").toFixed(2),
      of(key, "ratio", "cpu").toFixed(2),
    ]),
  );
}

function loss(of: Of): string {
  const percent = (value: number) => `${(value * 100).toFixed(2)} %`;
  return markdownTable(
    ["100 sessions, 64 bytes, offered k/s", "direct loses", "nginx loses", "tproxy loses"],
    RATES.map((rate) => [
      thousands(2 * rate),
      ...["direct", "nginx", "tproxy"].map((target) => percent(of(open(rate).key, target, "loss"))),
    ]),
  );
}

function latency(of: Of): string {
  const { key } = open(CALM_RATE);
  return markdownTable(
    [`round trip at ${thousands(2 * CALM_RATE)} k/s`, "p50, µs", "p99, µs", "CPU s/M"],
    ["direct", "nginx", "tproxy"].map((target) => [
      target,
      of(key, target, "p50").toFixed(0),
      of(key, target, "p99").toFixed(0),
      target === "direct" ? "" : of(key, target, "cpu").toFixed(2),
    ]),
  );
}

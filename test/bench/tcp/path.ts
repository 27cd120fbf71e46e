/**
 * `bench path`: the same loads on three hosts by each data path – routed, carried by the kernel,
 * relayed by us, relayed by peers – in turns. The kernel's work is in nobody's process, so the CPU
 * is that of the whole machine (/proc/stat): nothing else may run on it.
 */

import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { tproxy } from "../../helpers/tproxy.ts";
import { markdownTable, median, Recorder, type Series } from "../statistics.ts";
import { type Program, threeHosts } from "./hosts.ts";
import type { Target } from "./loads.ts";
import {
  bulkLoad,
  type Load,
  lead,
  makePlace,
  type Place,
  requestLoad,
  startProxy,
  tried,
} from "./measure.ts";
import { type Contender, contenders } from "./proxies.ts";

const seconds = 3;
const loads = [requestLoad(false, 1), requestLoad(true, 1), bulkLoad(1), bulkLoad(16)];
const relays = contenders.filter(({ onlySpoofing }) => onlySpoofing !== true);
const paths = ["direct", "kernel", ...relays.map(({ name }) => name)];

/** Measures `rounds` times; `only` names loads or paths to keep to. */
export async function measurePaths(rounds: number, only = ""): Promise<Series[]> {
  const folder = await mkdtemp(join(tmpdir(), "tproxy-bench-"));
  const hosts = await threeHosts();
  const recorder = new Recorder();
  const wanted = new RegExp(only);
  const end = async () => {
    await hosts.end();
    await rm(folder, { recursive: true, force: true });
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => void end().then(() => process.exit(1)));
  }
  try {
    const place = await makePlace("lab", hosts, folder);
    // The first round warms up: nothing of it is kept.
    for (let round = -1; round < rounds; round++) {
      const order = paths.map((_, at) => paths[(at + round + 1) % paths.length] as string);
      for (const load of loads) {
        for (const path of order) {
          if (!wanted.test(`${load.name}/${path}`)) continue;
          await measurePath(place, load, path, round < 0 ? undefined : recorder);
        }
      }
    }
  } finally {
    await end();
  }
  return recorder.series;
}

async function measurePath(place: Place, load: Load, path: string, recorder?: Recorder) {
  const { target, program } = await take(place, load, path);
  try {
    const time = recorder === undefined ? 1 : seconds;
    const before = busySeconds();
    const work = await tried(`${load.name} by ${path}`, () => load.run(target, time));
    const busy = busySeconds() - before;
    recorder?.add(`${load.rate}/${path}`, work.amount / work.seconds / load.rateUnit);
    const row = load.cpu.replace("CPU s", "CPU s of the machine");
    recorder?.add(`${row}/${path}`, (busy * load.cpuUnit) / work.amount);
    if (work.p99 !== undefined) recorder?.add(`${load.name}: p99, ms/${path}`, work.p99);
  } finally {
    await program?.end();
  }
}

/** Leads the clients by a path. Nothing of another one is left. */
async function take(
  place: Place,
  load: Load,
  path: string,
): Promise<{ target: Target; program?: Program }> {
  const { hosts, backend, client: from } = place;
  const port = load.backendPort;
  const relay = relays.find(({ name }) => name === path);
  if (relay !== undefined) return takeRelay(place, load, relay);
  const target = await lead(place, port);
  if (path === "direct") return { target };
  const program = hosts.start("proxy", [
    ...[...tproxy, "forward", `:${port}`, "--to", `${backend.address}:${port}`, "--quiet"],
    ...["--path", "kernel", "--routes", "auto", "--in", "p0"],
  ]);
  const listed = ["sh", "-c", "until nft list ruleset | grep -q dnat; do sleep 0.05; done"];
  await hosts.run("proxy", ["timeout", "10", ...listed]);
  return { target: { hosts, from, address: backend.address, port }, program };
}

async function takeRelay(place: Place, load: Load, relay: Contender) {
  const { program, port } = await startProxy(place, relay, load.backendPort, 1);
  return { target: await lead(place, load.backendPort, port), program };
}

/** Seconds in which the CPUs of the machine were neither idle nor waiting (proc_stat(5)). */
function busySeconds(): number {
  const [line = ""] = readFileSync("/proc/stat", "utf8").split("\n");
  const [user = 0, nice = 0, system = 0, , , irq = 0, softIrq = 0] = line
    .trim()
    .split(/\s+/)
    .slice(1)
    .map(Number);
  return (user + nice + system + irq + softIrq) / 100;
}

/** The figures as Markdown: medians, and their ratio to the direct path and the better peer. */
export function pathTable(series: readonly Series[]): string {
  const rows = new Map<string, Map<string, number>>();
  for (const { name, samples } of series) {
    const at = name.lastIndexOf("/");
    const row = name.slice(0, at);
    rows.set(row, (rows.get(row) ?? new Map()).set(name.slice(at + 1), median(samples)));
  }
  const body = [...rows].map(([row, figures]) => {
    const ratio = (to: string) => {
      const [ours, theirs] = [figures.get("kernel"), figures.get(to)];
      return ours === undefined || theirs === undefined ? "–" : (ours / theirs).toFixed(2);
    };
    const cells = paths.map((path) => figures.get(path)?.toPrecision(4) ?? "–");
    return [row, ...cells, ratio("direct"), ratio("tproxy")];
  });
  return markdownTable(["", ...paths, "kernel to direct", "kernel to relay"], body);
}

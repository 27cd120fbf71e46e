/**
 * What control costs: checking a large configuration, a scrape of the metrics, a reload, and the
 * memory of an idle process; in CPU time of the thread in question, so that other programs on the
 * machine count little. Moving connections at an upgrade is measured by the clock. Other
 * executables (`--base`) are measured in turns with ours.
 */

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { movedConnections, timeOfMove } from "./moves.ts";
import { markdownTable, median, Recorder, type Series } from "./statistics.ts";

const ours = join(import.meta.dir, "../../dist/tproxy");
const checked = 2_000;
const scraped = { services: 100, upstreams: 10 };
const reloaded = [1, 100, 1_000];

/** The row of each figure, and the bound that it is to keep. */
const rows: readonly (readonly [name: string, aim: string])[] = [
  [`check of ${checked} services: CPU of the process, ms`, "300"],
  ["scrape of 100 × 10: CPU of the main thread, ms", "5"],
  ...reloaded.map(
    (count) => [`reload of a weight, ${count} services: CPU of the main thread, ms`, "20"] as const,
  ),
  ["idle forward: resident memory, MB", ""],
  ["idle run: resident memory, MB", ""],
  [`upgrade: ${movedConnections} open connections moved, ms`, "80"],
];

/** Medians of `rounds` rounds of our executable and of the others. */
export async function measureControl(rounds: number, bases: readonly string[]): Promise<Series[]> {
  const recorder = new Recorder();
  const folder = mkdtempSync(join(tmpdir(), "tproxy-bench-"));
  try {
    for (let round = 0; round < rounds; round++) {
      for (const [column, exe] of [ours, ...bases].entries()) {
        const add = (row: number, value: number | undefined) => {
          const name = rows[row]?.[0] as string;
          if (value !== undefined) recorder.add(`${column}: ${name}`, value);
        };
        await measureOne(exe, folder, add);
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  return recorder.series;
}

/** A column for each executable, ours first. */
export function controlTable(series: readonly Series[]): string {
  const columns = new Set(series.map(({ name }) => Number(name.split(":", 1)[0])));
  const cell = (column: number, name: string) => {
    const found = series.find((each) => each.name === `${column}: ${name}`);
    return found === undefined ? "–" : median(found.samples).toFixed(1);
  };
  const titles = [...columns].map((column) => (column === 0 ? "tproxy" : `base ${column}`));
  return markdownTable(
    ["", ...titles, "bound"],
    rows.map(([name, aim]) => [name, ...[...columns].map((each) => cell(each, name)), aim]),
  );
}

type Add = (row: number, value: number | undefined) => void;

async function measureOne(exe: string, folder: string, add: Add): Promise<void> {
  const help = Bun.spawnSync([exe, "--help"]);
  const hasRun = /^ +run\b/m.test(help.stdout.toString());
  add(5, await idle([exe, "forward", "127.0.0.1:0", "--to", "127.0.0.1:9", ...plain]));
  if (!hasRun) return;
  const file = join(folder, "tproxy.toml");
  write(file, folder, checked, 1);
  add(0, await checkTime(exe, file));
  write(file, folder, scraped.services, scraped.upstreams);
  await served(exe, file, folder, async (pid, request) => {
    const times: number[] = [];
    for (let i = 0; i < 40; i++) {
      const before = threadMs(pid);
      await (await request("/metrics")).text();
      times.push(threadMs(pid) - before);
    }
    // The first ones are of code that is not yet compiled.
    add(1, median(times.slice(20)));
  });
  for (const [place, count] of reloaded.entries()) {
    write(file, folder, count, 1);
    await served(exe, file, folder, async (pid, request) => {
      const times: number[] = [];
      for (let i = 0; i < 8; i++) {
        write(file, folder, count, 1, 50 + i);
        const before = threadMs(pid);
        const { status } = await request("/v1/reload", { method: "POST", body: "{}" });
        if (status !== 200) throw new Error(`the reload was answered with ${status}`);
        times.push(threadMs(pid) - before);
      }
      add(2 + place, median(times.slice(3)));
    });
  }
  write(file, folder, 1, 1);
  add(6, await idle([exe, "run", "-c", file]));
  add(7, await timeOfMove(exe, folder));
}

const plain = ["--source", "self", "--no-transparent"];

/** Services with a pool of `upstreams` each, of which the first pool's first has `weight`. */
function write(file: string, folder: string, services: number, upstreams: number, weight = 100) {
  let text = `workers = 2\n[admin]\nsocket = "${folder}/admin.sock"\n[log]\nlevel = "error"\n`;
  text += '[defaults]\ntransparent = false\nsource = "self"\n';
  for (let service = 0; service < services; service++) {
    text += `[[pool]]\nname = "p${service}"\n`;
    for (let upstream = 0; upstream < upstreams; upstream++) {
      const to = `127.1.${upstream}.${1 + (service % 250)}:${10_000 + service}`;
      text += `[[pool.upstream]]\nname = "u${upstream}"\nto = "${to}"\n`;
      text += `weight = ${service + upstream === 0 ? weight : 100}\n`;
    }
    text += `[[service]]\nname = "s${service}"\nlisten = "127.0.0.1:${20_000 + service}"\n`;
    text += `pool = "p${service}"\nidle-timeout = "5m"\n`;
  }
  writeFileSync(file, text);
}

/** User and system time of `check`, in ms. */
async function checkTime(exe: string, file: string): Promise<number> {
  const child = Bun.spawn([exe, "check", "-c", file], { stdout: "ignore", stderr: "inherit" });
  if ((await child.exited) !== 0) throw new Error("check has found problems");
  return Number(child.resourceUsage()?.cpuTime.total ?? 0n) / 1_000;
}

type Ask = (path: string, init?: RequestInit) => Promise<Response>;

/** Runs a process while `work` does. */
async function served(
  exe: string,
  file: string,
  folder: string,
  work: (pid: number, request: Ask) => Promise<void>,
): Promise<void> {
  const socket = join(folder, "admin.sock");
  rmSync(socket, { force: true });
  const child = Bun.spawn([exe, "run", "-c", file], { stdout: "ignore", stderr: "inherit" });
  try {
    const request: Ask = (path, init) =>
      fetch(`http://localhost${path}`, { ...init, unix: socket });
    await until(child, () => existsSync(socket));
    await work(child.pid, request);
  } finally {
    child.kill("SIGKILL");
    await child.exited;
  }
}

/** The resident memory of a process that has started and rests, in MB. */
async function idle(command: string[]): Promise<number> {
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "ignore" });
  try {
    await child.stdout.getReader().read();
    await Bun.sleep(1_500);
    const [, kilobytes] =
      /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${child.pid}/status`, "utf8")) ?? [];
    return Number(kilobytes) / 1_024;
  } finally {
    child.kill("SIGKILL");
    await child.exited;
  }
}

/** CPU time of the main thread of a process so far, in ms. */
function threadMs(pid: number): number {
  const [nanoseconds] = readFileSync(`/proc/${pid}/task/${pid}/schedstat`, "utf8").split(" ");
  return Number(nanoseconds) / 1e6;
}

async function until(child: Bun.Subprocess, condition: () => boolean): Promise<void> {
  while (!condition()) {
    if (child.exitCode !== null) throw new Error("tproxy has ended");
    await Bun.sleep(20);
  }
}

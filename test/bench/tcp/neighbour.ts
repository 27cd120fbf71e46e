/**
 * `bench neighbour`: what a client notices of another one that opens and closes connections as fast
 * as it can, when that has used half of the ports there are towards the upstream. Each proxy in
 * turn, all in the same run.
 */

import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { tproxy } from "../../helpers/tproxy.ts";
import { markdownTable, Recorder, type Row, type Series } from "../statistics.ts";
import { type Hosts, threeHosts } from "./hosts.ts";
import { type Contender, contenders, nginxMain } from "./proxies.ts";

const script = new URL("neighbour.py", import.meta.url).pathname;
const backend = { address: "10.9.2.2", port: 80 };
const probeSeconds = 4;
const churnClients = 3;
const churned = 14_000;
const churnSecondsMax = 40;
const figures = ["p50", "p99", "max"] as const;

// Other benchmarks want more ports than there are by default, and to use them again.
const kernelDefaults = `
cd /proc/sys/net/ipv4
echo 32768 60999 > ip_local_port_range
echo 2 > tcp_tw_reuse
`;

/** Measures `rounds` times; `only` names proxies to keep to. */
export async function measureNeighbour(rounds: number, only = ""): Promise<Series[]> {
  const folder = await mkdtemp(join(tmpdir(), "tproxy-bench-"));
  const recorder = new Recorder();
  const wanted = new RegExp(only);
  const proxies = contenders.filter(
    ({ name, onlySpoofing }) => onlySpoofing !== true && wanted.test(name),
  );
  try {
    for (let round = 0; round < rounds; round++) {
      for (const proxy of proxies) await measureProxy(proxy, folder, recorder);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return recorder.series;
}

/** With hosts of its own: nobody finds ports in TIME_WAIT that others have left. */
async function measureProxy(proxy: Contender, folder: string, recorder: Recorder): Promise<void> {
  const hosts = await threeHosts();
  try {
    await startChain(hosts, proxy, folder);
    const note = (when: string, times: readonly number[]) => {
      for (const figure of figures) {
        const at = figure === "max" ? 1 : Number(figure.slice(1)) / 100;
        recorder.add(`${figure}, ${when}, ms/${proxy.name}`, quantile(times, at));
      }
    };
    note("idle", await probe(hosts));
    const counts = Array.from({ length: churnClients }, (_, at) => join(folder, `count-${at}`));
    for (const count of counts) {
      await Bun.write(count, "0");
      hosts.start("client", clientCommand("churn", "10.9.1.2", count));
    }
    const connections = await untilChurned(counts);
    note("beside churn", await probe(hosts));
    recorder.add(`connections before/${proxy.name}`, connections);
  } finally {
    await hosts.end();
  }
}

/** Starts backend and proxy, with the rules and the limits that a kernel has by default. */
export async function startChain(hosts: Hosts, proxy: Contender, folder: string): Promise<void> {
  const configuration = join(folder, "backend.conf");
  await Bun.write(
    configuration,
    `${nginxMain(folder, "backend", 1, 20_000)}
http {
  access_log off;
  server { listen ${backend.port} backlog=4096; location / { return 200 "x"; } }
}
`,
  );
  await hosts.run("proxy", ["sh", "-ec", kernelDefaults]);
  await hosts.run("client", ["ip", "address", "add", "10.9.1.4/24", "dev", "c0"]);
  hosts.start("backend", ["nginx", "-c", configuration]);
  await hosts.listening("backend", backend.port);
  const job = { folder, spoofs: true, port: 50_080, backend, workers: 1, connections: 5_000 };
  hosts.start("proxy", await proxy.command(job));
  await hosts.listening("proxy", job.port);
  const ports = ["--dport", String(backend.port), "--to-port", String(job.port)];
  const rules = ["--family", "4", "--in", "p0", ...ports, "--reply-path"];
  await hosts.run("proxy", [...tproxy, "routes", "--apply", ...rules]);
}

/** The command of `neighbour.py` that asks the backend from `source`. */
export const clientCommand = (what: string, source: string, last: string | number) => [
  ...["python3", script, what, backend.address, String(backend.port), source, String(last)],
];

async function untilChurned(files: readonly string[]): Promise<number> {
  const end = performance.now() + 1000 * churnSecondsMax;
  for (;;) {
    const counts = await Promise.all(files.map((file) => readFile(file, "utf8")));
    const total = counts.reduce((sum, count) => sum + Number(count), 0);
    if (total >= churned || performance.now() > end) return total;
    await Bun.sleep(100);
  }
}

/** The times of a client that is alone with its address, failures for ever. */
async function probe(hosts: Hosts): Promise<number[]> {
  const { stdout } = await hosts.run("client", clientCommand("probe", "10.9.1.4", probeSeconds));
  const times = stdout.trim().split("\n");
  return times.map((time) => (time === "failed" ? Number.POSITIVE_INFINITY : Number(time)));
}

/** The smallest of the times that a part `share` of all does not exceed. */
function quantile(times: readonly number[], share: number): number {
  const sorted = times.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

/** The figures: a row for each, a column for each proxy. */
export function neighbourTable(rows: readonly Row[]): string {
  const part = (name: string, at: number) => name.split("/")[at] as string;
  const names = [...new Set(rows.map(({ name }) => part(name, 0)))].toSorted();
  const proxies = [...new Set(rows.map(({ name }) => part(name, 1)))];
  const cell = (name: string, proxy: string) =>
    rows.find((row) => row.name === `${name}/${proxy}`)?.median.toFixed(2) ?? "-";
  const lines = names.map((name) => [name, ...proxies.map((proxy) => cell(name, proxy))]);
  return markdownTable(["", ...proxies], lines);
}

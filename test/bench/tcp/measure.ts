/**
 * `bench tcp`: carries the same loads through each proxy in turns, in a rotating order, and notes
 * what was carried, how fast, and the CPU that the whole process of the proxy took for it.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { tproxy } from "../../helpers/tproxy.ts";
import { Recorder, type Series } from "../statistics.ts";
import {
  cpuSeconds,
  type Hosts,
  oneHost,
  type Program,
  residentBytes,
  threeHosts,
} from "./hosts.ts";
import { bulk, idleConnections, requests, type Target, type Work } from "./loads.ts";
import { rateOfOneClient } from "./one-client.ts";
import { behindFront, type Contender, contenders, nginxMain } from "./proxies.ts";

const seconds = 2;
const requestConnections = 64;
const connectionsMax = 5_500;
const idleFrom = 500;
const attemptsMax = 3;
const httpPort = 80;
const iperfPort = 5201;

/** The three hosts with TPROXY and spoofing, or loopback with neither. */
export interface Place {
  readonly name: "lab" | "loopback";
  readonly hosts: Hosts;
  readonly folder: string;
  readonly client: string;
  /** Its address, and the one by which it is reached without a proxy. */
  readonly backend: { readonly address: string; readonly direct: string };
  readonly programs: { http: Program; iperf: Program };
  /** Proxies that run, by what they are for. */
  readonly running: Map<string, Running>;
  ports: number;
}

interface Running {
  readonly program: Program;
  readonly port: number;
}

/** One load, and which numbers of it are kept. */
export interface Load {
  readonly name: string;
  /** TCP if absent. */
  readonly protocol?: "udp";
  readonly backendPort: number;
  readonly workers: number;
  run(target: Target, seconds: number): Promise<Work>;
  /** The names of rate and CPU, and the amount that the CPU is for. */
  readonly rate: string;
  readonly rateUnit: number;
  readonly cpu: string;
  readonly cpuUnit: number;
}

/** Bytes as fast as they go. */
export const bulkLoad = (connections: number): Load => ({
  name: `bulk ${connections}`,
  backendPort: iperfPort,
  workers: 1,
  run: (target, time) => bulk(target, time, connections),
  rate: `bulk, ${connections} connection${connections > 1 ? "s" : ""}: Gbit/s`,
  rateUnit: 1e9 / 8,
  cpu: `bulk, ${connections} connection${connections > 1 ? "s" : ""}: CPU s/GB`,
  cpuUnit: 1e9,
});

/** Requests, each on a connection of its own (`close`) or all on some. */
export const requestLoad = (close: boolean, workers: number): Load => {
  const what = `${close ? "new connections" : "keep-alive requests"}`;
  const by = workers > 1 ? `, ${workers} workers` : "";
  return {
    name: what + by,
    backendPort: httpPort,
    workers,
    run: (target, time) =>
      requests(target, { seconds: time, connections: requestConnections, close }),
    rate: `${what}${by}: 1/s`,
    rateUnit: 1,
    cpu: `${what}${by}: CPU s/${close ? "10,000" : "100,000"}`,
    cpuUnit: close ? 10_000 : 100_000,
  };
};

const loads = [
  bulkLoad(1),
  bulkLoad(16),
  requestLoad(true, 1),
  requestLoad(false, 1),
  requestLoad(true, 2),
  requestLoad(false, 2),
];

/** Measures `rounds` times; `only` names loads, places or proxies to keep to. */
export async function measureTcp(rounds: number, only = ""): Promise<Series[]> {
  const folder = await mkdtemp(join(tmpdir(), "tproxy-bench-"));
  const recorder = new Recorder();
  const places: Place[] = [];
  const end = async () => {
    for (const { hosts } of places) await hosts.end();
    await rm(folder, { recursive: true, force: true });
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => void end().then(() => process.exit(1)));
  }
  try {
    places.push(await makePlace("lab", await threeHosts(), folder));
    places.push(await makePlace("loopback", await oneHost(), folder));
    for (let round = -1; round < rounds; round++) {
      for (const place of places) await measurePlace(place, round, recorder, only);
    }
  } finally {
    await end();
  }
  return recorder.series;
}

/** The hosts of a place, with the servers of the loads. */
export async function makePlace(name: Place["name"], hosts: Hosts, root: string): Promise<Place> {
  const isLab = name === "lab";
  const folder = join(root, name);
  const configuration = join(folder, "backend.conf");
  await Bun.write(
    configuration,
    `${nginxMain(folder, "backend", 1, 20_000)}
http {
  access_log off;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  server { listen ${httpPort} backlog=4096; location / { return 200 "hello world\\n"; } }
}
`,
  );
  const host = isLab ? "backend" : "proxy";
  const http = hosts.start(host, ["nginx", "-c", configuration]);
  const iperf = hosts.start(host, ["iperf3", "-s", "-p", String(iperfPort)]);
  await hosts.listening(host, httpPort);
  await hosts.listening(host, iperfPort);
  return {
    name,
    hosts,
    folder,
    client: isLab ? "client" : "proxy",
    backend: isLab
      ? { address: "10.9.2.2", direct: "10.9.2.3" }
      : { address: "127.0.0.1", direct: "127.0.0.1" },
    programs: { http, iperf },
    running: new Map(),
    ports: 50_080,
  };
}

/** One round. The first, -1, warms up: it is short, and nothing of it is kept. */
async function measurePlace(place: Place, round: number, recorder: Recorder, only: string) {
  const wanted = new RegExp(only);
  const keep = round >= 0;
  const all = [...contenders, undefined];
  const order = all.map((_, at) => all[(at + Math.max(round, 0)) % all.length]);
  for (const load of loads) {
    for (const proxy of order) {
      const name = proxy?.name ?? "direct";
      if (!wanted.test(`${place.name}/${load.name}/${name}`)) continue;
      if (load.workers > (proxy?.workersMax ?? 1) || isNothingFor(place, proxy)) continue;
      const record = (row: string, sample: number) =>
        keep && recorder.add(`${place.name}/${row}/${name}`, sample);
      await measureLoad(place, load, proxy, keep ? seconds : 1, record);
    }
  }
  if (place.name !== "lab") return;
  for (const proxy of order) {
    if (proxy === undefined || !wanted.test(`${place.name}/memory/${proxy.name}`)) continue;
    const bytes = await bytesPerIdleConnection(place, proxy);
    if (keep) recorder.add(`${place.name}/memory/${proxy.name}`, bytes);
  }
  // A minute for each proxy, so in one round alone.
  if (round !== 0) return;
  for (const proxy of contenders) {
    const row = `${place.name}/one client, after a minute: new connections: 1/s/${proxy.name}`;
    if (proxy.onlySpoofing === true || !wanted.test(row)) continue;
    recorder.add(row, await rateOfOneClient(proxy, place.folder));
  }
}

const isNothingFor = (place: Place, proxy: Contender | undefined) =>
  proxy?.onlySpoofing === true && place.name !== "lab";

async function measureLoad(
  place: Place,
  load: Load,
  proxy: Contender | undefined,
  time: number,
  record: (row: string, sample: number) => void,
): Promise<void> {
  const running = proxy && (await runningProxy(place, proxy, load));
  const target = await lead(place, load.backendPort, running?.port);
  const { http, iperf } = place.programs;
  const backend = load.backendPort === httpPort ? http : iperf;
  const before = [running?.program, backend].map((each) => (each ? cpuSeconds(each.pid) : 0));
  const work = await tried(`${load.name} by ${proxy?.name}`, () => load.run(target, time));
  const after = [running?.program, backend].map((each) => (each ? cpuSeconds(each.pid) : 0));
  const [ofProxy = 0, ofBackend = 0] = after.map((each, at) => each - (before[at] as number));
  record(load.rate, work.amount / work.seconds / load.rateUnit);
  const per = load.cpuUnit / work.amount;
  if (proxy !== undefined) record(load.cpu, ofProxy * per);
  record(load.cpu.replace("CPU s", "CPU s of all"), (ofProxy + ofBackend + work.cpuSeconds) * per);
  if (work.p50 !== undefined) record(`${load.name}: p50, ms`, work.p50);
  if (work.p99 !== undefined) record(`${load.name}: p99, ms`, work.p99);
  if (work.errors !== undefined) record(`${load.name}: failed`, work.errors);
}

/** A load that fails is tried again: a port may still be in TIME_WAIT, the server still busy. */
export async function tried<T>(what: string, run: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await run();
    } catch (error) {
      if (attempt === attemptsMax) throw new Error(what, { cause: error });
      await Bun.sleep(1000);
    }
  }
}

/** The proxy for this load: started once, so that it is warm when it is measured. */
export async function runningProxy(place: Place, proxy: Contender, load: Load): Promise<Running> {
  const key = `${proxy.name} ${load.backendPort} ${load.workers}`;
  const known = place.running.get(key);
  if (known !== undefined) return known;
  const running = await startProxy(place, proxy, load.backendPort, load.workers);
  place.running.set(key, running);
  return running;
}

/** Starts a proxy at a port of its own and waits until it listens. */
export async function startProxy(
  place: Place,
  proxy: Contender,
  backendPort: number,
  workers: number,
) {
  const port = place.ports++;
  const job = {
    folder: place.folder,
    spoofs: place.name === "lab",
    port,
    backend: { address: place.backend.address, port: backendPort },
    workers,
    connections: connectionsMax,
  };
  if (proxy.front !== undefined) place.hosts.start("proxy", await proxy.front(job));
  const program = place.hosts.start("proxy", await proxy.command(job));
  await place.hosts.listening("proxy", port);
  if (proxy.front !== undefined) await place.hosts.listening("proxy", port + behindFront);
  return { program, port };
}

/**
 * What clients ask for: on loopback the proxy's `port`; in the lab the backend, and rules bring it
 * to that port. Without one they reach the backend itself.
 */
export async function lead(
  place: Place,
  asked: number,
  port?: number,
  protocol: "tcp" | "udp" = "tcp",
): Promise<Target> {
  const { hosts, client: from, backend, name } = place;
  if (name !== "lab") return { hosts, from, address: backend.address, port: port ?? asked };
  await hosts.run("proxy", [...tproxy, "routes", "--remove"]);
  if (port === undefined) return { hosts, from, address: backend.direct, port: asked };
  const ports = ["--dport", String(asked), "--to-port", String(port)];
  const rules = ["--proto", protocol, "--family", "4", "--in", "p0", ...ports, "--reply-path"];
  await hosts.run("proxy", [...tproxy, "routes", "--apply", ...rules]);
  return { hosts, from, address: backend.address, port: asked };
}

/** The slope between two numbers of connections, of a proxy that has just been started. */
async function bytesPerIdleConnection(place: Place, proxy: Contender): Promise<number> {
  const { program, port } = await startProxy(place, proxy, httpPort, 1);
  const target = await lead(place, httpPort, port);
  const sizes: number[] = [];
  await idleConnections(target, [idleFrom, proxy.idleMax], async () => {
    // Garbage of the opening is collected, if it is, within that time.
    await Bun.sleep(1000);
    sizes.push(residentBytes(program.pid));
  });
  await program.end();
  return ((sizes[1] as number) - (sizes[0] as number)) / (proxy.idleMax - idleFrom);
}

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
import { Recorder, type Series } from "../statistics.ts";
import { datagramLoad, datagramProxies, startEcho } from "./datagrams.ts";
import { type Program, threeHosts, until } from "./hosts.ts";
import type { Target } from "./loads.ts";
import {
  bulkLoad,
  type Load,
  lead,
  makePlace,
  type Place,
  requestLoad,
  runningProxy,
  tried,
} from "./measure.ts";
import { paths, relays } from "./path-table.ts";

const seconds = 3;

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
    const generator = await startEcho(place);
    const loads = [
      ...[requestLoad(false, 1), requestLoad(true, 1), bulkLoad(1), bulkLoad(16)],
      ...[datagramLoad(64, generator), datagramLoad(1200, generator)],
    ];
    // The first round warms up: nothing of it is kept.
    for (let round = -1; round < rounds; round++) {
      const order = paths.map((_, at) => paths[(at + round + 1) % paths.length] as string);
      for (const load of loads) {
        for (const path of order.filter((each) => carries(each, load))) {
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

const isRelay = (path: string) => relays.some(({ name }) => name === path);

function carries(path: string, { protocol }: Load): boolean {
  return protocol !== "udp" || !isRelay(path) || datagramProxies[path] !== undefined;
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

/** Leads the clients by a path. Nothing of another one is left but relays, which then idle. */
async function take(
  place: Place,
  load: Load,
  path: string,
): Promise<{ target: Target; program?: Program }> {
  const { hosts, backend, client: from } = place;
  const port = load.backendPort;
  const relay = relays.find(({ name }) => name === path);
  if (relay !== undefined && load.protocol === "udp") {
    return { target: await leadDatagrams(place, port, path) };
  }
  if (relay !== undefined) {
    return { target: await lead(place, port, (await runningProxy(place, relay, load)).port) };
  }
  const target = await lead(place, port);
  if (path === "direct") return { target };
  const listener = load.protocol === "udp" ? `udp://:${port}` : `:${port}`;
  const program = hosts.start("proxy", [
    ...[...tproxy, "forward", listener, "--to", `${backend.address}:${port}`, "--quiet"],
    ...["--path", "kernel", "--routes", "auto", "--in", "p0"],
  ]);
  const listed = ["sh", "-c", "until nft list ruleset | grep -q dnat; do sleep 0.05; done"];
  await hosts.run("proxy", ["timeout", "10", ...listed]);
  return { target: { hosts, from, address: backend.address, port }, program };
}

/** By a relay of datagrams, which is started once. Only ours has a listener for TPROXY. */
async function leadDatagrams(place: Place, asked: number, relay: string): Promise<Target> {
  const { hosts, running, client: from } = place;
  const key = `${relay} udp`;
  let port = running.get(key)?.port;
  if (port === undefined) {
    port = place.ports++;
    const command = await datagramProxies[relay]?.(place, port);
    const program = hosts.start("proxy", command ?? []);
    running.set(key, { program, port });
    await receiving(program, port);
  }
  const target = await lead(place, asked, port, "udp");
  return relay === "tproxy" ? target : { hosts, from, address: "10.9.1.1", port };
}

/** Waits until a socket of UDP is bound to the port in the namespace of a program. */
async function receiving({ pid }: Program, port: number): Promise<void> {
  const bound = `:${port.toString(16).toUpperCase().padStart(4, "0")} `;
  await until(`udp port ${port}`, () =>
    ["udp", "udp6"].some((table) =>
      readFileSync(`/proc/${pid}/net/${table}`, "utf8").includes(bound),
    ),
  );
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

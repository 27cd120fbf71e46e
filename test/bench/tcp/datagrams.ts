/** The load of datagrams for `bench path`: the generator of `bench udp`, and the proxies of UDP. */

import { join } from "node:path";
import { tproxy } from "../../helpers/tproxy.ts";
import { compile, type Sample } from "../udp/lab.ts";
import type { Target, Work } from "./loads.ts";
import type { Load, Place } from "./measure.ts";
import { nginxMain } from "./proxies.ts";

export const datagramPort = 5300;
const sessions = 100;
/** Under way at once: as much as is queued when a proxy is busy, less than its buffers hold. */
const underWay = 512;
/** Each session has a source address of its own. */
const network = { sources: "10.50.0.0/16", first: "10.50.0.1" };

/** Starts the echo at the backend and gives the client its addresses. Returns the generator. */
export async function startEcho({ hosts, folder }: Place): Promise<string> {
  const generator = compile(folder);
  await hosts.run("client", ["ip", "route", "add", "local", network.sources, "dev", "lo"]);
  await hosts.run("proxy", ["ip", "route", "add", network.sources, "via", "10.9.1.2"]);
  hosts.start("backend", [generator, "echo", String(datagramPort)]);
  return generator;
}

/** Datagrams of `size` bytes of 100 sessions, to the echo and back: each counts twice. */
export const datagramLoad = (size: number, generator: string): Load => {
  const name = `UDP, ${size.toLocaleString("en")} bytes`;
  return {
    name,
    protocol: "udp",
    backendPort: datagramPort,
    workers: 1,
    run: (target, time) => datagrams(target, generator, size, time),
    rate: `${name}: datagrams/s`,
    rateUnit: 1,
    cpu: `${name}: CPU s/1,000,000`,
    cpuUnit: 1_000_000,
  };
};

async function datagrams(
  { hosts, from, address, port }: Target,
  generator: string,
  size: number,
  seconds: number,
): Promise<Work> {
  const { stdout, cpuSeconds } = await hosts.run(from, [
    ...[generator, "closed", address, String(port), network.first, String(sessions)],
    ...[String(size), String(seconds), String(underWay)],
  ]);
  const sample = JSON.parse(stdout) as Sample;
  if (sample.received === 0) throw new Error(stdout);
  return {
    amount: 2 * sample.received,
    seconds: sample.seconds,
    p50: sample.p50 / 1000,
    p99: sample.p99 / 1000,
    errors: sample.lost,
    cpuSeconds,
  };
}

/** The command of a proxy of datagrams at `port`, by the names of `contenders`. */
export const datagramProxies: Readonly<
  Record<string, (place: Place, port: number) => Promise<readonly string[]>>
> = {
  tproxy: async ({ backend }, port) => [
    ...[...tproxy, "forward", `udp://:${port}`],
    ...["--to", `${backend.address}:${datagramPort}`, "--quiet", "--workers", "1"],
  ],
  "nginx stream": async ({ backend, folder }, port) => {
    const file = join(folder, `nginx-udp-${port}.conf`);
    await Bun.write(
      file,
      `${nginxMain(folder, `nginx-udp-${port}`, 1, 65_536)}
stream {
  access_log off;
  server {
    listen ${port} udp rcvbuf=4m;
    proxy_pass ${backend.address}:${datagramPort};
    proxy_bind $remote_addr transparent;
    proxy_timeout 60s;
  }
}
`,
    );
    return ["nginx", "-c", file];
  },
};

/** The metrics of a process that serves: read over TCP, under load, and at its end. */

import { afterEach, expect, test } from "bun:test";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { backend, cleanUp, cleanups, exchange } from "../helpers/forward.ts";
import { testWith, which } from "../helpers/tools.ts";
import { type Running, run, start } from "../helpers/tproxy.ts";
import { udpPeer } from "../helpers/udp.ts";

afterEach(cleanUp);

function configuration(text: string): string {
  const folder = mkdtempSync(join(tmpdir(), "tproxy-metrics-"));
  cleanups.push(() => rmSync(folder, { recursive: true }));
  const path = join(folder, "tproxy.toml");
  writeFileSync(path, text);
  return path;
}

interface Lab {
  readonly proxy: Running;
  readonly metricsAt: string;
  readonly web: number;
  readonly dns: number;
}

/** Two services with an echo each, and the listener for metrics. */
async function lab(more = "", ofDns = ""): Promise<Lab> {
  const echo = await backend((socket) => socket.pipe(socket));
  const resolver = await udpPeer();
  const path = configuration(`
    workers = 2
    [log]
    format = "json"
    connections = "none"
    [metrics]
    listen = "127.0.0.1:0"
    hosts = ["metrics.example:80"]
    [defaults]
    transparent = false
    source = "self"
    [[service]]
    name = "web"
    listen = "127.0.0.1:0"
    to = "127.0.0.1:${echo}"
    ${more}
    [[service]]
    name = "dns"
    listen = "udp://127.0.0.1:0"
    to = "127.0.0.1:${resolver.port}"
    ${ofDns}
  `);
  const proxy = start(["run", "-c", path]);
  cleanups.push(async () => {
    proxy.kill("SIGKILL");
    await proxy.finished();
  });
  const [, metricsAt = ""] = await proxy.until(/"metrics".*"address":"([\d.:]+)"/);
  const portOf = async (protocol: string) =>
    Number((await proxy.until(new RegExp(`"${protocol}","address":"127.0.0.1:(\\d+)"`)))[1]);
  return { proxy, metricsAt, web: await portOf("tcp"), dns: await portOf("udp") };
}

const read = async ({ metricsAt }: Lab, path = "/metrics") => fetch(`http://${metricsAt}${path}`);

/** Settles once `condition` holds; the test's time-out ends it otherwise. */
async function until(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await Bun.sleep(20);
}

/** Counters and the counts of histograms, by their series. */
function countersOf(text: string): Map<string, number> {
  const counters = new Set(
    [...text.matchAll(/^# TYPE (\S+) (?:counter|histogram)$/gm)].map(([, name]) => name),
  );
  const series = new Map<string, number>();
  for (const [, name = "", labels = "", value] of text.matchAll(/^([a-z_]+)(\{.*\})? (\S+)$/gm)) {
    if (counters.has(name.replace(/_(bucket|sum|count)$/, "")) || counters.has(name)) {
      series.set(name + labels, Number(value));
    }
  }
  return series;
}

test("two scrapes under load: no counter falls, and all are right in the end", async () => {
  const all = await lab();
  const client = createSocket("udp4");
  cleanups.push(() => client.close());
  let isOver = false;
  let carried = 0;
  const load = Array.from({ length: 4 }, async () => {
    while (!isOver) {
      const { length } = await exchange(all.web, [new Uint8Array(1_000)]);
      carried += length;
      client.send("question", all.dns, "127.0.0.1");
    }
  });
  let before = new Map<string, number>();
  for (let scrape = 0; scrape < 10; scrape++) {
    const after = countersOf(await (await read(all)).text());
    for (const [series, value] of before) {
      expect(after.get(series) ?? -1).toBeGreaterThanOrEqual(value);
    }
    before = after;
    await Bun.sleep(20);
  }
  isOver = true;
  await Promise.all(load);
  const done = 'tproxy_connections_closed_total{service="web",ended_by="client",reason="done"}';
  const datagrams = 'tproxy_datagrams_total{service="dns",direction="client"}';
  let last = before;
  await until(async () => {
    last = countersOf(await (await read(all)).text());
    const isCarried = (last.get(datagrams) ?? 0) > 0;
    return last.get(done) === carried / 1_000 && isCarried;
  });
  const of = (series: string) => last.get(series);
  expect(of('tproxy_client_bytes_total{service="web"}')).toBe(carried);
  expect(of('tproxy_connections_accepted_total{service="web"}')).toBe(carried / 1_000);
  expect(of('tproxy_upstream_bytes_total{service="web"}')).toBe(carried);
  expect(of('tproxy_connection_duration_seconds_count{service="web"}')).toBe(carried / 1_000);
  expect(of('tproxy_upstream_connect_seconds_count{pool="web"}')).toBe(carried / 1_000);
  expect(of('tproxy_sessions_total{service="dns"}')).toBe(1);
  expect(of('tproxy_connections_accepted_total{service="dns"}')).toBeUndefined();
}, 240_000);

test("what is open, rejected and failed has its figures", async () => {
  const all = await lab("max-connections-per-client = 1");
  const socket = connect({ port: all.web, host: "127.0.0.1" });
  cleanups.push(() => socket.destroy());
  socket.on("error", () => {});
  socket.write("x");
  await once(socket, "data");
  await exchange(all.web, []);
  let text = "";
  // A client may know of its end before it is counted.
  await until(async () => {
    text = await (await read(all)).text();
    const has = (line: string) => text.includes(line);
    return has("tproxy_connections_refused_total{") && has('service="web",state="relaying"} 1');
  });
  for (const line of [
    'tproxy_connections_open{service="web",state="relaying"} 1',
    'tproxy_connections_open{service="web",state="header"} 0',
    'tproxy_client_bytes_total{service="web"} 1',
    'tproxy_connections_refused_total{service="web",reason="client-limit"} 1',
    'tproxy_upstream_up{pool="web",upstream="',
    "tproxy_config_last_reload_successful 1",
    "tproxy_workers 2",
    'tproxy_log_lines_dropped_total{sink="stdout"} 0',
  ]) {
    expect(text).toContain(line);
  }
  expect(Number(/^process_open_fds (\d+)$/m.exec(text)?.[1])).toBeGreaterThan(10);
});

test("what a connection does, why a datagram was dropped, and how long turns take", async () => {
  const all = await lab("accept-proxy = true", "max-sessions-per-client = 1");
  const silent = connect({ port: all.web, host: "127.0.0.1" });
  cleanups.push(() => silent.destroy());
  const clients = [createSocket("udp4"), createSocket("udp4")];
  cleanups.push(() => clients.map((client) => client.close()));
  let text = "";
  const has = (line: string) => text.includes(`${line}\n`);
  await until(async () => {
    for (const client of clients) client.send("question", all.dns, "127.0.0.1");
    text = await (await read(all)).text();
    const isOpen = has('tproxy_connections_open{service="web",state="header"} 1');
    return isOpen && text.includes('datagrams_dropped_total{service="dns",reason="refused"}');
  });
  expect(has('tproxy_connections_open{service="web",state="connecting"} 0')).toBe(true);
  silent.end("PROXY UNKNOWN\r\n");
  await until(async () => {
    text = await (await read(all)).text();
    return has('tproxy_connections_open{service="web",state="header"} 0');
  });
  for (const worker of [1, 2]) {
    const turn = new RegExp(`^tproxy_worker_turn_seconds_max{worker="${worker}"} (.*)$`, "m");
    expect(Number(turn.exec(text)?.[1])).toBeGreaterThan(0);
    expect(has(`tproxy_worker_deaths_total{worker="${worker}"} 0`)).toBe(true);
  }
});

testWith(["promtool"])("promtool finds nothing wrong with a scrape", async () => {
  const all = await lab();
  await exchange(all.web, [new Uint8Array(10)]);
  const text = await (await read(all)).text();
  const { stdout, stderr, exitCode } = Bun.spawnSync(
    [which("promtool") as string, "check", "metrics"],
    { stdin: Buffer.from(text) },
  );
  expect([stdout.toString(), stderr.toString(), exitCode]).toEqual(["", "", 0]);
});

test("it is ready while it serves, and metrics are there until the last connection", async () => {
  const all = await lab();
  expect((await read(all, "/readyz")).status).toBe(200);
  expect((await read(all, "/healthz")).status).toBe(200);
  const socket = connect({ port: all.web, host: "127.0.0.1" });
  socket.on("error", () => {});
  socket.write("x");
  await once(socket, "data");
  all.proxy.kill("SIGTERM");
  await until(async () => (await read(all, "/readyz")).status === 503);
  expect(await (await read(all, "/readyz")).text()).toBe("stopping\n");
  expect(await (await read(all)).text()).toContain('{service="web",state="relaying"} 1');
  expect((await read(all, "/healthz")).status).toBe(200);
  socket.end();
  expect((await all.proxy.finished()).status).toBe(0);
});

test("a taken address ends the start, and one that all can read is warned of", async () => {
  const taken = createServer().listen(0, "127.0.0.1");
  await once(taken, "listening");
  cleanups.push(() => taken.close());
  const { port } = taken.address() as { port: number };
  const textOf = (listen: string) => `
    [metrics]
    listen = "${listen}"
    [[service]]
    name = "web"
    listen = "127.0.0.1:0"
    to = "127.0.0.1:1"
    transparent = false
    source = "self"`;
  const failed = await run(["run", "-c", configuration(textOf(`127.0.0.1:${port}`))]);
  expect([failed.stderr, failed.status]).toEqual([
    `tproxy: Cannot bind tcp://127.0.0.1:${port} for [metrics]: EADDRINUSE\n`,
    1,
  ]);
  const open = start(["run", "-c", configuration(textOf("*:0"))]);
  cleanups.push(() => open.kill("SIGKILL"));
  await open.until(/the metrics at 0\.0\.0\.0:\d+ can be read by all hosts/);
});

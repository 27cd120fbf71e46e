/** What a new process of an upgrade knows of the old one: states, totals and the generation. */

import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { backend, cleanUp, cleanups } from "../helpers/forward.ts";
import { freePort } from "../helpers/ports.ts";
import { isStatic } from "../helpers/static-file.ts";
import { eventually, run, start } from "../helpers/tproxy.ts";
import { udpPeer } from "../helpers/udp.ts";
import { echoed } from "../helpers/upgrading.ts";

afterEach(cleanUp);

function kill(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}

/** A proxy of three services, and the commands of an administrator. */
async function proxied() {
  const folder = mkdtempSync(join(tmpdir(), "tproxy-state-"));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  const [file, admin] = [join(folder, "tproxy.toml"), join(folder, "admin.sock")];
  const [web, old, dns] = [freePort(), freePort(), freePort()];
  const upstreams = [await backend((socket) => void socket.pipe(socket)), freePort()];
  const peer = await udpPeer((data) => data);
  const plain = 'transparent = false\nsource = "self"\n';
  writeFileSync(
    file,
    `workers = 2\ndrain-timeout = "20s"\n[admin]\nsocket = "${admin}"\n` +
      '[[pool]]\nname = "servers"\ncheck = { type = "tcp", interval = "100ms" }\n' +
      upstreams
        .map((port, i) => `[[pool.upstream]]\nname = "s${i}"\nto = "127.0.0.1:${port}"\n`)
        .join("") +
      `[[service]]\nname = "web"\nlisten = "127.0.0.1:${web}"\npool = "servers"\n${plain}` +
      `[[service]]\nname = "old"\nlisten = "127.0.0.1:${old}"\npool = "servers"\n${plain}` +
      `[[service]]\nname = "dns"\nlisten = "udp://127.0.0.1:${dns}"\n` +
      `to = "127.0.0.1:${peer.port}"\n${plain}`,
  );
  const proxy = start(["run", "-c", file]);
  const pids = new Set([proxy.pid]);
  cleanups.push(() => {
    for (const pid of pids) kill(pid, "SIGKILL");
  });
  await proxy.until(/Bound to udp:\S+\n/);
  const tproxy = (...args: string[]) => run([...args, "--admin", admin]);
  return {
    ...{ proxy, file, web, old, dns, tproxy, pids },
    async status(): Promise<Status> {
      return JSON.parse((await tproxy("status", "--json")).stdout);
    },
    /** Upgrades by a signal; settles once the new process answers. */
    async upgrade(pid: number): Promise<number> {
      kill(pid, "SIGUSR2");
      let next = pid;
      await come(async () => {
        const { stdout } = await tproxy("status", "--json");
        if (stdout !== "") next = JSON.parse(stdout).pid;
        return next !== pid;
      });
      pids.add(next);
      return next;
    },
    async metrics(): Promise<Map<string, number>> {
      const response = await fetch("http://localhost/metrics", { unix: admin });
      const lines = (await response.text()).split("\n").filter((line) => /^[a-z]/.test(line));
      return new Map(
        lines.map((line) => {
          const [, series = "", value = ""] = /^(.*) (\S+)$/.exec(line) ?? [];
          return [series, Number(value)] as const;
        }),
      );
    },
  };
}

/** Waits for a condition that takes a while to look at; the time-out of the test bounds it. */
async function come(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await Bun.sleep(20);
}

interface Status {
  readonly generation: number;
  readonly services: readonly { readonly name: string; readonly state: string }[];
  readonly pools: readonly {
    readonly upstreams: readonly { readonly admin: string; readonly weight: number }[];
  }[];
}

/** Whether a server accepts at a port of loopback. */
function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" }, () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(false));
  });
}

test.skipIf(!isStatic)(
  "what an administrator has asked for, and the generation, stay over two upgrades",
  async () => {
    const { proxy, file, old, tproxy, upgrade, status } = await proxied();
    expect((await tproxy("drain", "old")).status).toBe(0);
    expect((await tproxy("drain", "servers/s1", "--force", "--weight", "7")).status).toBe(0);
    expect((await tproxy("log", "level", "debug", "--for", "1h")).status).toBe(0);
    const { generation } = await status();
    let pid = proxy.pid;
    for (let round = 0; round < 2; round++) {
      pid = await upgrade(pid);
      const now = await status();
      expect(now.generation).toBe(generation);
      expect(now.services.map(({ state }) => state)).toEqual(["up", "drained", "up"]);
      expect(now.pools[0]?.upstreams[1]).toMatchObject({ admin: "drain", weight: 7 });
      expect(await accepts(old)).toBe(false);
    }
    // By the administrator, and by each of the new processes.
    const levels = () => proxy.stdout().match(/the log level is debug/g) ?? [];
    await eventually("the level in the log", () => levels().length === 3);
    // Another configuration is another generation; what was asked for stays.
    writeFileSync(file, readFileSync(file, "utf8").replace('"20s"', '"21s"'));
    pid = await upgrade(pid);
    expect((await status()).generation).toBe(generation + 1);
    expect((await tproxy("ready", "old")).status).toBe(0);
    expect(await accepts(old)).toBe(true);
    kill(pid, "SIGTERM");
    await eventually("its end", () => !kill(pid, 0));
  },
  120_000,
);

/** Series that may fall: figures of one process, and what is there at the moment. */
const falling = /^(process_|tproxy_(connections_open|sessions_open|upstream_connections_open))/;
const isTotal = /_(total|count|sum|bucket)(\{|$)/;

/** Connections and sessions all the time, and a look at the metrics between them. */
function load(web: number, dns: number, metrics: () => Promise<Map<string, number>>) {
  let isOver = false;
  let carried = 0;
  const connecting = async () => {
    while (!isOver) {
      await echoed(web, "some bytes");
      carried++;
    }
  };
  const asking = async () => {
    while (!isOver) {
      const client = await udpPeer();
      client.send(dns, "question");
      await Promise.race([client.next(), Bun.sleep(20_000)]);
      client.close();
    }
  };
  const all = Promise.all([connecting(), connecting(), asking()]);
  const before = new Map<string, number>();
  const fallen: string[] = [];
  let scrapes = 0;
  const look = async () => {
    const now = await metrics().catch(() => undefined);
    if (now === undefined) return;
    scrapes++;
    for (const [series, value] of before) {
      const after = now.get(series);
      if (after === undefined || after < value) fallen.push(`${series}: ${value} -> ${after}`);
    }
    for (const [series, value] of now) {
      if (isTotal.test(series) && !falling.test(series)) before.set(series, value);
    }
  };
  const looking = (async () => {
    while (!isOver) {
      await look();
      await Bun.sleep(10);
    }
  })();
  return {
    carried: () => carried,
    scrapes: () => scrapes,
    /** All series of totals, and those that have fallen. */
    async end() {
      isOver = true;
      await Promise.all([all, looking]);
      await look();
      return { fallen, series: [...before.keys()] };
    },
  };
}

test.skipIf(!isStatic)(
  "no total falls, of services, upstreams, pools and the process, over two upgrades under load",
  async () => {
    const { proxy, web, dns, tproxy, upgrade, metrics } = await proxied();
    const traffic = load(web, dns, metrics);
    // One that lives as long as the first process, and keeps it alive.
    const open = connect({ port: web, host: "127.0.0.1" });
    open.on("error", () => {});
    cleanups.push(() => open.destroy());
    const some = async (what: string) => {
      const [carried, scrapes] = [traffic.carried(), traffic.scrapes()];
      await eventually(
        what,
        () => traffic.carried() > carried + 20 && traffic.scrapes() > scrapes + 3,
      );
    };
    await some("traffic of the first process");
    const second = await upgrade(proxy.pid);
    await some("traffic of the second process");
    // The third takes over while the first one still drains.
    const third = await upgrade(second);
    await some("traffic of the third process");
    open.destroy();
    await eventually("the end of the first one", () => !kill(proxy.pid, 0));
    await some("traffic afterwards");
    const { fallen, series } = await traffic.end();
    expect(fallen).toEqual([]);
    const figures = (pattern: RegExp) => series.filter((key) => pattern.test(key));
    expect(figures(/tproxy_upstream_connects_total.*s0/)).toHaveLength(1);
    expect(
      figures(/tproxy_upstream_checks_total.*s1.*result="down"|failed/).length,
    ).toBeGreaterThan(0);
    const line = `the old process ${proxy.pid} has ended, with nothing open`;
    await eventually("its end in the log", () => proxy.stdout().includes(line));
    expect((await tproxy("stop")).status).toBe(0);
    await eventually("its end", () => !kill(third, 0));
  },
  120_000,
);

test.skipIf(!isStatic)(
  "an old process that is killed is named in the log of the new one, with what it had open",
  async () => {
    const { proxy, web, upgrade, tproxy } = await proxied();
    const open = connect({ port: web, host: "127.0.0.1" });
    open.on("error", () => {});
    cleanups.push(() => open.destroy());
    open.write("x");
    await new Promise((resolve) => open.once("data", resolve));
    const pid = await upgrade(proxy.pid);
    proxy.kill("SIGKILL");
    const line =
      `the old process ${proxy.pid} has ended with 1 of its connections and sessions open, ` +
      "without a word";
    await come(async () => (await tproxy("log")).stdout.includes(line));
    kill(pid, "SIGTERM");
    await eventually("its end", () => !kill(pid, 0));
  },
  120_000,
);

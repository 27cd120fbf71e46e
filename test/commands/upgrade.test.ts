/** An upgrade of `tproxy run` under load: SIGUSR2, with another executable at its path. */

import { afterEach, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { backend, cleanUp, cleanups } from "../helpers/forward.ts";
import { freePort } from "../helpers/ports.ts";
import { isStatic } from "../helpers/static-file.ts";
import { eventually, run } from "../helpers/tproxy.ts";
import { udpPeer } from "../helpers/udp.ts";
import { echoed, kill, service, upgradable, upgraded } from "../helpers/upgrading.ts";

afterEach(cleanUp);

const mortal = join(import.meta.dir, "../helpers/mortal-upgrade.ts");

/** A running proxy of TCP and UDP, of which the executable can be replaced. */
async function proxied(more = "") {
  const [tcp, udp] = [freePort(), freePort()];
  const upstream = await backend((socket) => void socket.pipe(socket));
  const peer = await udpPeer((data) => data);
  const running = await upgradable(
    'workers = 2\ndrain-timeout = "20s"\n[log]\nlevel = "warning"\n' +
      service("web", `127.0.0.1:${tcp}`, upstream) +
      service("dns", `udp://127.0.0.1:${udp}`, peer.port) +
      more,
    /Bound to udp:\S+\n/,
  );
  return { ...running, tcp, udp };
}

/** New connections and datagrams of many clients, all the time; `end` says what went wrong. */
function load(tcp: number, udp: number) {
  let isOver = false;
  const problems: string[] = [];
  let connections = 0;
  let answers = 0;
  const connecting = async () => {
    while (!isOver) {
      const text = `connection ${connections++}`;
      const answer = await echoed(tcp, text);
      if (answer !== text) problems.push(answer);
    }
  };
  const asking = async () => {
    while (!isOver) {
      // A client of its own each time: a session, its upstream's socket and its answer.
      const client = await udpPeer();
      const text = `question ${answers++}`;
      client.send(udp, text);
      const answer = await Promise.race([client.next(), Bun.sleep(20_000)]);
      if (answer?.text !== text) problems.push(`no answer to ${text}`);
      client.close();
    }
  };
  const all = Promise.all([connecting(), connecting(), connecting(), asking(), asking()]);
  return {
    /** How many connections and clients there were; fails if one of them was not served. */
    async end() {
      await eventually("some traffic", () => Math.min(connections, answers) > 10);
      isOver = true;
      await all;
      expect(problems).toEqual([]);
      return { connections, answers };
    },
  };
}

test.skipIf(!isStatic)(
  "three upgrades in a row: no connection fails, open ones go on, and totals never fall",
  async () => {
    const { proxy, tcp, udp, replace, pids } = await proxied();
    const traffic = load(tcp, udp);
    // One that was open before all of them, and lives as long as its process drains.
    const open = connect({ port: tcp, host: "127.0.0.1" });
    open.on("error", () => {});
    cleanups.push(() => open.destroy());
    const answer = (text: string) =>
      new Promise((resolve) => {
        open.once("data", (data: Buffer) => resolve(data.toString()));
        open.write(text);
      });
    expect(await answer("before")).toBe("before");
    let pid = proxy.pid;
    for (let round = 0; round < 3; round++) {
      replace();
      const next = await upgraded({ proxy, pids }, pid);
      expect(await answer(`round ${round}`)).toBe(`round ${round}`);
      pid = next;
    }
    await Bun.sleep(500);
    const { connections, answers } = await traffic.end();
    expect(await answer("after")).toBe("after");
    open.destroy();
    for (const each of pids) if (each !== pid) await eventually("its end", () => !kill(each, 0));
    expect(await echoed(tcp, "still there")).toBe("still there");
    const before = proxy.stdout().length;
    kill(pid, "SIGUSR1");
    const sum = /All workers: accepted (\d+), .*, client datagrams (\d+)/;
    await eventually("the counters", () => sum.test(proxy.stdout().slice(before)));
    const [, accepted, datagrams] = sum.exec(proxy.stdout().slice(before)) ?? [];
    // All four processes together, with the two connections beside the load.
    expect([Number(accepted), Number(datagrams)]).toEqual([connections + 2, answers]);
    kill(pid, "SIGTERM");
    await eventually("its end", () => !kill(pid, 0));
  },
  240_000,
);

test.skipIf(!isStatic).each(["start", "hello", "offered", "gives up", "ready", "served"])(
  "a new process that ends at its step %p changes nothing, under load",
  async (step) => {
    const { proxy, tcp, udp, replace } = await proxied();
    const traffic = load(tcp, udp);
    replace(`#!/bin/sh\nexec '${process.execPath}' '${mortal}' '${step}'\n`);
    proxy.kill("SIGUSR2");
    await eventually("the end of the new process", () =>
      /upgrade: .*(has ended|gives up)/.test(proxy.stdout()),
    );
    // It can be tried again.
    replace();
    await Bun.sleep(100);
    await traffic.end();
    expect(await echoed(tcp, "after")).toBe("after");
    proxy.kill("SIGTERM");
    expect((await proxy.finished()).status).toBe(0);
  },
  240_000,
);

test.skipIf(!isStatic)(
  "tproxy upgrade waits until the new process is there to stay, and names a failure",
  async () => {
    const { proxy, tcp, pids, admin } = await proxied();
    const upgrade = (...args: string[]) => run(["upgrade", "--admin", admin, ...args]);
    expect(await upgrade("--exec", "/nonexistent/tproxy")).toMatchObject({
      status: 1,
      stderr: expect.stringContaining("the new process cannot be started: ENOENT"),
    });
    expect(await upgrade("--exec", "/bin/true")).toMatchObject({
      status: 1,
      // Its end of the channel may be seen to close before its status is known.
      stderr: expect.stringMatching(
        /it exited with status 0|the new process has ended: it has ended/,
      ),
    });
    const { status, stdout, stderr } = await upgrade();
    const [, pid = ""] = /^process (\d+) serves now: tproxy /.exec(stdout) ?? [];
    pids.add(Number(pid));
    expect([status, stderr, Number(pid) === proxy.pid]).toEqual([0, "", false]);
    const shown = await run(["status", "--admin", admin, "--json"]);
    expect(JSON.parse(shown.stdout)).toMatchObject({ pid: Number(pid) });
    expect(await echoed(tcp, "x")).toBe("x");
    kill(Number(pid), "SIGTERM");
    expect((await proxy.finished()).status).toBe(0);
    expect((await upgrade()).status).toBe(3);
  },
  240_000,
);

test.skipIf(!isStatic)(
  "tproxy upgrade prints what is wrong with the new configuration, and the old one goes on",
  async () => {
    const { tcp, admin, file } = await proxied();
    const good = readFileSync(file, "utf8");
    const problem = async (text: string) => {
      writeFileSync(file, text);
      const { status, stderr } = await run(["upgrade", "--admin", admin]);
      expect(await echoed(tcp, "x")).toBe("x");
      return [status, stderr];
    };
    // What reading it finds, line for line; then what only opening its listeners does.
    const first = await problem(`${good}balanc = "x"\ncolour = 1\n`);
    expect(first).toEqual([1, expect.stringMatching(/toml:\d+:\d+: .*"balanc"[\s\S]*"colour"/)]);
    const other = good
      .replace(/listen = "127/, 'listen = "192.0.2.99:1"\nx = "127')
      .replace(/^x.*\n/m, "");
    const second = await problem(other);
    expect(second).toEqual([1, expect.stringContaining("192.0.2.99:1: EADDRNOTAVAIL")]);
    writeFileSync(file, good);
  },
  240_000,
);

test.skipIf(!isStatic)(
  "more listeners than one message carries are handed over",
  async () => {
    const port = freePort();
    // One for each of two workers.
    const listen = Array.from({ length: 140 }, (_, at) => `"127.0.1.${at + 1}:${port}"`);
    const { proxy, tcp, pids } = await proxied(
      `[[service]]\nname = "many"\nlisten = [${listen}]\nto = "127.0.0.1:1"\n` +
        'transparent = false\nsource = "self"\n',
    );
    proxy.kill("SIGUSR2");
    await upgraded({ proxy, pids }, proxy.pid);
    expect(await echoed(tcp, "x")).toBe("x");
  },
  240_000,
);

test.skipIf(!isStatic)(
  "a stop soon after an upgrade ends both processes",
  async () => {
    const { proxy, tcp, pids } = await proxied();
    const pid = await upgraded({ proxy, pids }, proxy.pid);
    expect(await echoed(tcp, "x")).toBe("x");
    kill(pid, "SIGTERM");
    expect((await proxy.finished()).status).toBe(0);
    await eventually("its end", () => !kill(pid, 0));
  },
  240_000,
);

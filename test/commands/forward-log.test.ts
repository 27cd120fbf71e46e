/** What `forward` tells: the access log and its levels, the table of what is open. */

import { afterEach, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { backend, cleanUp, cleanups, eventsOf, exchange, forward } from "../helpers/forward.ts";
import { eventually, listening, run, start, timeless } from "../helpers/tproxy.ts";

afterEach(cleanUp);

const own = ["--no-transparent", "--source", "self", "127.0.0.1:0"];

async function open(port: number): Promise<Socket> {
  const socket = connect({ port, host: "127.0.0.1" });
  socket.on("error", () => {});
  cleanups.push(() => socket.destroy());
  socket.write("x");
  await once(socket, "data");
  return socket.resume();
}

/** Settles when a socket is closed, with an error or without. */
const closed = (socket: Socket) => new Promise<void>((done) => socket.on("close", () => done()));

const echo = () => backend((socket) => socket.pipe(socket));

describe("the access log", () => {
  test("says who ended a connection, and how", async () => {
    const port = await backend((socket) => {
      socket.once("data", (data) => {
        if (String(data) === "reset") socket.resetAndDestroy();
        else if (String(data) === "end") socket.end();
        else socket.pipe(socket).write(data);
      });
    });
    const { proxy, port: entry } = await forward(port, "--json", "--idle-timeout", "200ms");
    const encode = (text: string) => [new TextEncoder().encode(text)];
    const ended = async (count: number) => {
      await eventually("its line is there", () => eventsOf(proxy, "forwarded").length === count);
      const { ended_by, reason } = eventsOf(proxy, "forwarded").at(-1) as Record<string, unknown>;
      return [ended_by, reason];
    };
    await exchange(entry, encode("bye"));
    expect(await ended(1)).toEqual(["client", "done"]);
    const first = connect({ port: entry, host: "127.0.0.1" });
    first.resume().write("end");
    await closed(first);
    expect(await ended(2)).toEqual(["upstream", "done"]);
    const second = connect({ port: entry, host: "127.0.0.1" });
    second.on("error", () => {});
    second.write("reset");
    await closed(second);
    expect(await ended(3)).toEqual(["upstream", "reset"]);
    const third = await open(entry);
    third.resetAndDestroy();
    expect(await ended(4)).toEqual(["client", "reset"]);
    await closed(await open(entry));
    expect(await ended(5)).toEqual(["proxy", "idle-timeout"]);
    const refused = await forward(1, "--json");
    await exchange(refused.port, []);
    await eventually("the refusal", () => eventsOf(refused.proxy, "forwarded").length === 1);
    expect(eventsOf(refused.proxy, "forwarded")[0]).toMatchObject({
      ended_by: "upstream",
      ...{ reason: "connect-failed", call: "connect", error: "ECONNREFUSED" },
    });
  });

  test("what an open connection has carried is among the counters", async () => {
    const { proxy, port } = await forward(await echo(), "--json");
    const socket = await open(port);
    proxy.kill("SIGUSR1");
    await proxy.until(/"counters"/);
    expect(eventsOf(proxy, "counters").at(-1)).toMatchObject({
      ...{ active: 1, client_bytes: 1, upstream_bytes: 1 },
    });
    socket.end();
    await proxy.until(/"forwarded"/);
    proxy.kill("SIGUSR1");
    await eventually("the counters", () => eventsOf(proxy, "counters").length === 4);
    expect(eventsOf(proxy, "counters").at(-1)).toMatchObject({
      ...{ active: 0, client_bytes: 1, upstream_bytes: 1 },
    });
  });

  test("--log-file has the lines of connections, and SIGUSR1 opens it again", async () => {
    const folder = mkdtempSync(join(tmpdir(), "tproxy-log-"));
    cleanups.push(() => rmSync(folder, { recursive: true }));
    const file = join(folder, "connections.log");
    const linesIn = (path: string) =>
      existsSync(path) ? readFileSync(path, "utf8").trimEnd().split("\n") : [];
    const { proxy, port } = await forward(await echo(), "--json", "--log-file", file);
    await exchange(port, []);
    await eventually("its line", () => linesIn(file).some((line) => line.includes("forwarded")));
    renameSync(file, `${file}.1`);
    proxy.kill("SIGUSR1");
    await proxy.until(/"counters"/);
    expect(linesIn(file)).toEqual([""]);
    await exchange(port, []);
    await eventually("its line", () => linesIn(file).some((line) => line.includes("forwarded")));
    expect(linesIn(`${file}.1`)).toHaveLength(1);
    expect(eventsOf(proxy, "forwarded")).toEqual([]);
    expect(eventsOf(proxy, "bound")).toHaveLength(1);
    const bad = await run(["forward", ...own, "--to", "127.0.0.1:1", "--log-file", folder]);
    expect(bad.status).toBe(1);
    expect(bad.stderr).toContain(`Cannot open the log file: EISDIR`);
  });

  test("--log-sample and --log-connections choose among connections", async () => {
    const [good, bad] = [await echo(), 1];
    const linesOf = async (port: number, count: number, ...options: string[]) => {
      const { proxy, port: entry } = await forward(port, "--json", ...options);
      for (let i = 0; i < count; i++) await exchange(entry, []);
      proxy.kill("SIGTERM");
      await proxy.finished();
      return eventsOf(proxy, "forwarded").length;
    };
    const sample = ["--log-sample", "10"];
    expect(await linesOf(good, 25, ...sample)).toBe(3);
    expect(await linesOf(bad, 25, ...sample)).toBe(25);
    expect(await linesOf(good, 5, ...sample, "--log-level", "debug")).toBe(5);
    const failed = ["--log-connections", "failed"];
    expect(await linesOf(good, 5, ...failed)).toBe(0);
    expect(await linesOf(bad, 15, ...failed)).toBe(15);
    expect(await linesOf(bad, 5, "--log-connections", "none")).toBe(0);
  }, 240_000);

  test("no line is lost in a burst, and each stands alone", async () => {
    const { proxy, port } = await forward(await echo(), "--json", "--workers", "2");
    await Promise.all(Array.from({ length: 500 }, () => exchange(port, [new Uint8Array(3)])));
    await eventually("all of them", () => eventsOf(proxy, "forwarded").length === 500);
    const ids = eventsOf(proxy, "forwarded").map(({ worker, id }) => `${worker} ${id}`);
    expect(new Set(ids).size).toBe(500);
    for (const line of eventsOf(proxy, "forwarded")) {
      expect(line).toMatchObject({ client_bytes: 3, upstream_bytes: 3, reason: "done" });
    }
  });

  test.each([
    ["error", []],
    ["warning", ["[-]"]],
    ["info", ["[ ]", "[-]"]],
    ["debug", ["[.]", "[.]", "[ ]", "[.]", "[.]", "[-]"]],
  ])("at the level %s", async (level, signs) => {
    const port = await backend((socket) => {
      socket.once("data", (data) => {
        if (String(data) === "x") socket.pipe(socket).write(data);
        else socket.resetAndDestroy();
      });
    });
    const { proxy, port: entry } = await forward(port, "--log-level", level);
    const good = await open(entry);
    good.end();
    await closed(good);
    const bad = connect({ port: entry, host: "127.0.0.1" });
    bad.on("error", () => {});
    bad.write("y");
    await closed(bad);
    proxy.kill("SIGTERM");
    const { stdout } = await proxy.finished();
    const shown = timeless(stdout).match(/^\[[ .-]\]/gm) ?? [];
    expect(shown.filter((sign) => sign !== "[.]")).toEqual(signs.filter((sign) => sign !== "[.]"));
    expect(shown.filter((sign) => sign === "[.]").length).toBe(
      signs.filter((sign) => sign === "[.]").length,
    );
  });

  test("bounds are counted, and said once however often they are reached", async () => {
    const { proxy, port } = await forward(await echo(), "--json", "-q", "--max-connections", "2");
    for (let turn = 0; turn < 20; turn++) {
      const pair = [await open(port), await open(port)];
      for (const socket of pair) {
        socket.end();
        await closed(socket);
      }
    }
    proxy.kill("SIGUSR1");
    await eventually("counters", () => eventsOf(proxy, "counters").length === 2);
    const [counters] = eventsOf(proxy, "counters") as { at_maximum: number }[];
    expect(counters?.at_maximum).toBeGreaterThanOrEqual(20);
    const texts = eventsOf(proxy, "warning").map(({ text }) => text);
    expect(texts.filter((text) => String(text).includes("as many as")).length).toBe(1);
  });

  test("--quiet beside --log-level is refused", async () => {
    const args = "forward :80 --to original --quiet --log-level info".split(" ");
    const { status, stderr } = await run(args);
    expect(stderr).toMatch(
      /^tproxy: --quiet and --log-level exclude each other: give one of them\n$/,
    );
    expect(status).toBe(2);
  });
});

describe("SIGUSR1", () => {
  test("prints what is open and the counters; the traffic goes on", async () => {
    const { proxy, port } = await forward(await echo(), "--json", "--quiet", "--workers", "2");
    const sockets: Socket[] = [];
    for (let i = 0; i < 600; i++) sockets.push(await open(port));
    proxy.kill("SIGUSR1");
    await eventually("the table is complete", () => eventsOf(proxy, "counters").length === 3);
    const rows = eventsOf(proxy, "open");
    expect(rows.length).toBe(600);
    const clients = new Set(rows.map(({ client }) => client));
    expect(clients).toEqual(new Set(sockets.map((socket) => `127.0.0.1:${socket.localPort}`)));
    expect(rows[0]).toMatchObject({
      state: "relaying",
      source: "self",
      client_bytes: 1,
      upstream_bytes: 1,
    });
    const [first, second, all] = eventsOf(proxy, "counters") as {
      active: number;
      worker?: number;
    }[];
    expect([first?.worker, second?.worker, all?.worker]).toEqual([1, 2, undefined]);
    expect((first?.active ?? 0) + (second?.active ?? 0)).toBe(600);
    expect(all).toMatchObject({ active: 600, accepted: 600 });
    // Again, and what is open is what it was.
    proxy.kill("SIGUSR1");
    await eventually("another table", () => eventsOf(proxy, "counters").length === 6);
    expect(eventsOf(proxy, "open").length).toBe(1200);
    const last = sockets.at(-1) as Socket;
    last.write("y");
    expect(String((await once(last, "data"))[0])).toBe("y");
  }, 240_000);

  test("prints the counters of listen, and ends nothing", async () => {
    const { server, port } = await listening(["--no-transparent", "--quiet", "127.0.0.1:0"]);
    const socket = connect({ port, host: "127.0.0.1" });
    socket.end("x");
    await closed(socket.resume());
    server.kill("SIGUSR1");
    await server.until(/ \[=\] Worker 1: accepted 1, .*\n\S+ \[=\] All workers: accepted 1, .*\n/);
    server.kill("SIGTERM");
    expect((await server.finished()).status).toBe(0);
  });

  test("ends no command that has nothing to tell", async () => {
    const bound = start(["bind", "--udp", "--no-transparent", "127.0.0.1:0"]);
    await bound.until(/Bound to/);
    bound.kill("SIGUSR1");
    await bound.until(/All workers/);
    bound.kill("SIGTERM");
    expect((await bound.finished()).status).toBe(0);
  });
});

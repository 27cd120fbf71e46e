/** The commands that control a running process, and what clients of its socket cannot do. */

import { afterEach, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { backend, cleanUp, cleanups, eventsOf, forward } from "../helpers/forward.ts";
import { runServer } from "../helpers/run.ts";
import { eventually, run, start } from "../helpers/tproxy.ts";

afterEach(cleanUp);

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "tproxy-admin-"));
  cleanups.push(() => rmSync(path, { recursive: true }));
  return path;
}

/** A proxy with an admin socket, to a server that greets and then echoes. */
async function controlled(...args: string[]) {
  const admin = join(folder(), "admin.sock");
  const upstream = await backend((socket) => void socket.pipe(socket).write("hello"));
  const started = await forward(upstream, "--admin", admin, "--json", ...args);
  await eventually("the admin socket", () => existsSync(admin));
  const command = (...words: string[]) => run([...words, "--admin", admin]);
  const json = async (...words: string[]) => JSON.parse((await command(...words, "--json")).stdout);
  return { ...started, admin, upstream, command, json };
}

/** A connection that has been greeted, and how it ends. */
async function open(port: number) {
  const socket = connect({ port, host: "127.0.0.1" });
  const end = Promise.withResolvers<string>();
  socket.on("error", ({ code }: NodeJS.ErrnoException) => end.resolve(String(code)));
  socket.on("close", () => end.resolve("closed"));
  cleanups.push(() => socket.destroy());
  await once(socket, "data");
  return { socket, end: end.promise, client: `127.0.0.1:${socket.localPort}` };
}

/** Connects and closes; the code of the error, or empty. */
async function attempt(port: number): Promise<string> {
  const socket = connect({ port, host: "127.0.0.1" });
  const { promise, resolve } = Promise.withResolvers<string>();
  socket.on("connect", () => resolve(""));
  socket.on("error", ({ code }: NodeJS.ErrnoException) => resolve(String(code)));
  return promise.finally(() => socket.destroy());
}

describe("kill", () => {
  test("what it reports is what the clients see, and what the log has", async () => {
    const { port, proxy, command, json } = await controlled("--workers", "2");
    const all = [];
    for (let i = 0; i < 6; i++) all.push(await open(port));
    const { connections, total } = await json("connections");
    expect(total).toBe(6);
    expect(connections.map((row: { client: string }) => row.client).toSorted()).toEqual(
      all.map(({ client }) => client).toSorted(),
    );
    const { id, client } = connections[2];
    expect(await command("kill", id)).toMatchObject({ stdout: "1 ended\n", status: 0 });
    expect(await command("kill", id)).toMatchObject({ stdout: "0 ended\n", status: 1 });
    const killed = all.find((one) => one.client === client);
    expect(await killed?.end).toBe("ECONNRESET");
    const rest = all.filter((one) => one !== killed);
    for (const { socket } of rest) {
      socket.write("on");
      expect(String((await once(socket, "data"))[0])).toBe("on");
    }
    expect(await json("kill", "--client", "127.0.0.0/8", "--state", "relaying")).toEqual({
      ended: 5,
    });
    expect(await Promise.all(rest.map(({ end }) => end))).toEqual(Array(5).fill("ECONNRESET"));
    await eventually("the log", () => eventsOf(proxy, "forwarded").length === 6);
    expect(eventsOf(proxy, "forwarded").map(({ reason }) => reason)).toEqual(
      Array(6).fill("killed"),
    );
    expect(eventsOf(proxy, "admin").map(({ change }) => change)).toEqual([
      `kill connection ${id}: 1 ended`,
      `kill connection ${id}: 0 ended`,
      "kill connections with client 127.0.0.0/8, state relaying: 5 ended",
    ]);
    expect(await command("connections")).toMatchObject({ status: 0 });
  });

  test("more than 100 need --yes, and without a filter nothing is ended", async () => {
    const { port, command } = await controlled();
    const all = await Promise.all(Array.from({ length: 101 }, () => open(port)));
    const many = await command("kill", "--service", "forward");
    expect(many).toMatchObject({ status: 2, stdout: "" });
    expect(many.stderr).toContain("this would end 101 connections: give --yes");
    for (const words of [["kill"], ["kill", "1.1.1", "--idle", "1s"], ["kill", "7"]]) {
      expect(await command(...words)).toMatchObject({ status: 2, stdout: "" });
    }
    expect(await command("kill", "--service", "forward", "--yes")).toMatchObject({
      stdout: "101 ended\n",
    });
    expect(await Promise.all(all.map(({ end }) => end))).toEqual(Array(101).fill("ECONNRESET"));
  });
});

describe("status, drain and log", () => {
  test("they show what is served, and what was done to it", async () => {
    const { port, proxy, command, json, upstream } = await controlled();
    const { end, socket } = await open(port);
    const status = await command("status");
    expect(status.status).toBe(0);
    expect(status.stdout).toMatch(/^tproxy \S+, up .*, generation 1, 1 worker\n/);
    expect(status.stdout).toMatch(new RegExp(`\nforward +up +tcp 127.0.0.1:${port} +1 `));
    expect(status.stdout).toContain(`\nforward/127.0.0.1:${upstream} `);
    expect(await json("status", "forward")).toMatchObject({
      pools: [{ name: "forward", upstreams: [{ state: "up", weight: 100 }] }],
    });
    expect((await command("status", "nothing")).status).toBe(2);

    const name = `forward/127.0.0.1:${upstream}`;
    const last = await command("drain", name);
    expect(last).toMatchObject({ status: 1, stdout: "" });
    expect(last.stderr).toContain("no other upstream");
    const drained = await command("drain", name, "--force", "--wait", "10ms");
    expect(drained).toMatchObject({ stdout: `${name}: draining\n1 open\n`, status: 1 });
    socket.end();
    await end;
    expect(await command("drain", name, "--force", "--wait", "30s")).toMatchObject({ status: 0 });
    expect(await command("ready", name, "--weight", "50")).toMatchObject({ status: 0 });
    expect(await json("status")).toMatchObject({ pools: [{ upstreams: [{ weight: 50 }] }] });
    expect((await command("drain", "forward/nothing")).status).toBe(2);

    expect(await command("log", "level", "debug", "--for", "1m")).toMatchObject({ status: 0 });
    await open(port);
    await eventually("a line", () => eventsOf(proxy, "accepted").length === 1);
    const lines = (await command("log", "-n", "100", "--json")).stdout.trimEnd().split("\n");
    expect(lines.map((line) => JSON.parse(line).event)).toContain("accepted");
    expect((await command("log", "--level", "error")).stdout).toBe("");
    for (const words of [
      ["log", "level"],
      ["log", "--for", "1s"],
      ["log", "level", "all"],
    ]) {
      expect(await command(...words)).toMatchObject({ status: 2, stdout: "" });
    }
  });

  test("log -f goes on with the lines that come, until the process stops", async () => {
    const { port, admin, command } = await controlled();
    const follower = start(["log", "-f", "--admin", admin, "--json"]);
    cleanups.push(() => follower.kill("SIGKILL"));
    await follower.until(/"event":"bound"/);
    const { socket, client } = await open(port);
    socket.destroy();
    await follower.until(new RegExp(`"forwarded".*"client":"${client}"`));
    expect(await command("stop")).toMatchObject({ stdout: "stopping\n", status: 0 });
    expect(await follower.finished()).toMatchObject({ status: 0 });
    expect(existsSync(admin)).toBe(false);
  });

  test("without a process the status is 3, for each of them", async () => {
    const admin = join(folder(), "none.sock");
    const all = [
      ...[["status"], ["connections"], ["kill", "1.1.1"], ["drain", "web"], ["ready", "web"]],
      ...[["down", "web"], ["log"], ["stop"]],
    ];
    const results = await Promise.all(all.map((words) => run([...words, "--admin", admin])));
    for (const { status, stderr, stdout } of results) {
      expect({ status, stdout }).toEqual({ status: 3, stdout: "" });
      expect(stderr).toBe(`tproxy: nothing runs at ${admin} (ENOENT)\n`);
    }
  });
});

test("run: a service is drained and back, and the API shows configurations", async () => {
  const at = folder();
  const [file, admin] = [join(at, "tproxy.toml"), join(at, "admin.sock")];
  const upstream = await backend((socket) => void socket.end("first"));
  const write = (to: number) =>
    writeFileSync(
      file,
      `[admin]\nsocket = "${admin}"\n[[service]]\nname = "web"\nlisten = "127.0.0.1:0"\n` +
        `to = "127.0.0.1:${to}"\nsource = "self"\ntransparent = false\n`,
    );
  write(upstream);
  const proxy = start(["run", "-c", file]);
  cleanups.push(async () => {
    proxy.kill("SIGKILL");
    await proxy.finished();
  });
  await proxy.until(/Bound to/);
  await eventually("the admin socket", () => existsSync(admin));
  const command = (...words: string[]) => run([...words, "--admin", admin]);
  const portOf = async () => {
    const status = JSON.parse((await command("status", "--json")).stdout);
    return status.services[0].listeners[0]?.address.split(":")[1];
  };
  const port = Number(await portOf());
  expect((await open(port)).client).toStartWith("127.0.0.1:");
  expect(await command("drain", "web", "--wait", "30s")).toMatchObject({ status: 0 });
  // The listener is closed a moment later: what has arrived by then is still carried.
  while ((await attempt(port)) !== "ECONNREFUSED") await Bun.sleep(10);
  expect(await command("ready", "web")).toMatchObject({ status: 0 });
  expect((await open(Number(await portOf()))).client).toStartWith("127.0.0.1:");
  const post = async (path: string, body: string) => {
    const response = await fetch(`http://localhost${path}`, { unix: admin, method: "POST", body });
    return { status: response.status, body: await response.json() };
  };
  expect(await post("/v1/check", "nonsense")).toMatchObject({
    status: 422,
    body: { problems: [{ line: 1, file: "request" }] },
  });
  const config = await fetch("http://localhost/v1/config", { unix: admin });
  expect(await config.text()).toContain(`to = "127.0.0.1:${upstream}"`);
});

test("run serves at $TPROXY_ADMIN, as commands ask; rows name upstreams", async () => {
  const to = await backend((socket) => void socket.write("hello"));
  const env = { TPROXY_ADMIN: join(folder(), "own.sock") };
  const { proxy } = await runServer(
    `[[pool]]
     name = "web"
     upstream = { name = "web1", to = "127.0.0.1:${to}" }
     [[service]]
     name = "web"
     listen = "127.0.0.1:0"
     pool = "web"
     source = "self"
     transparent = false`,
    1,
    { env },
  );
  await eventually("the socket", () => existsSync(env.TPROXY_ADMIN));
  await open(Number(String(eventsOf(proxy, "bound")[0]?.address).split(":")[1]));
  const connections = (...args: string[]) => run(["connections", ...args], { env });
  const rows = async () => JSON.parse((await connections("--json")).stdout).connections;
  expect(await rows()).toMatchObject([{ upstream_name: "web1", upstream: `127.0.0.1:${to}` }]);
  expect((await connections()).stdout).toContain(` web1 127.0.0.1:${to} `);
});

test("clients that stall or flood the socket do no harm to the traffic", async () => {
  const { port, admin, proxy, command } = await controlled();
  const { socket } = await open(port);
  const floods: Socket[] = [];
  const flood = (text: string) => {
    const client = connect({ path: admin });
    client.on("error", () => {});
    client.write(text);
    client.pause();
    floods.push(client);
    cleanups.push(() => client.destroy());
  };
  for (let i = 0; i < 300; i++) {
    flood(["", "GET /v1/status HTTP/1.1\r\n", "\x16\x03\x01\r\n\r\n"][i % 3] as string);
    if (i % 10 === 0) flood("GET /v1/events?every=200ms HTTP/1.1\r\n\r\n");
  }
  for (let i = 0; i < 50; i++) {
    socket.write(`${i}`);
    expect(String((await once(socket, "data"))[0])).toBe(`${i}`);
  }
  expect((await open(port)).client).toStartWith("127.0.0.1:");
  for (const client of floods) client.destroy();
  await eventually("room for others", () => floods.every(({ destroyed }) => destroyed));
  expect(await command("connections")).toMatchObject({ status: 0 });
  expect(proxy.stderr()).toBe("");
});

test("a socket that cannot be served ends the start", async () => {
  const { admin } = await controlled();
  const words = ["forward", "--no-transparent", "--source", "self", "--to", "127.0.0.1:9"];
  const second = await run([...words, "127.0.0.1:0", "--admin", admin]);
  expect(second.status).toBe(1);
  expect(second.stderr).toContain("another process listens there");
  const long = await run([...words, "127.0.0.1:0", "--admin", `/tmp/${"x".repeat(120)}`]);
  expect(long).toMatchObject({ status: 2 });
  expect(long.stderr).toContain("at most 107");
});

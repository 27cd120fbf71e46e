/** The admin API over its sockets, before a server that is made up. */

import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AdminServer } from "../../../../src/control/admin/admin-server.ts";
import { FakeServer } from "../../../helpers/fake-server.ts";
import { cleanUp, cleanups } from "../../../helpers/forward.ts";
import { eventually } from "../../../helpers/tproxy.ts";

afterEach(cleanUp);

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "tproxy-admin-"));
  cleanups.push(() => rmSync(path, { recursive: true }));
  return path;
}

async function serve() {
  const at = folder();
  const server = new FakeServer();
  const [admin, readOnly] = [join(at, "admin.sock"), join(at, "stats.sock")];
  const api = await AdminServer.open(
    {
      admin: { path: admin, mode: 0o660, gid: undefined },
      readOnly: { path: readOnly, mode: 0o666, gid: undefined },
    },
    server,
  );
  cleanups.push(() => api.stop());
  const call = async (method: string, path: string, body?: object, unix = admin) => {
    const response = await fetch(`http://localhost${path}`, {
      ...{ unix, method },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    const type = response.headers.get("content-type") ?? "";
    return { status: response.status, type, body: /json/.test(type) ? JSON.parse(text) : text };
  };
  return { server, admin, readOnly, call, api };
}

test("the status and its parts, names with underscores and times as text", async () => {
  const { call } = await serve();
  const { status, body, type } = await call("GET", "/v1/status");
  expect([status, type]).toEqual([200, "application/json"]);
  expect(body).toMatchObject({ pid: 7, start_time: "1970-01-01T00:00:00.000Z" });
  expect(body.services[0].counters).toEqual({ client_bytes: 5 });
  expect((await call("GET", "/v1/services/web")).body.name).toBe("web");
  expect((await call("GET", "/v1/pools/servers/upstreams/web1")).body.name).toBe("web1");
  expect(await call("GET", "/v1/services/wed")).toMatchObject({
    status: 404,
    type: "application/problem+json",
    body: { status: 404, title: "Not Found", detail: 'there is no service "wed": there is web' },
  });
  expect(await call("GET", "/healthz")).toMatchObject({ status: 200, body: "ok\n" });
  expect(await call("GET", "/metrics")).toMatchObject({ status: 501 });
});

test("it is ready until it says why it is not", async () => {
  const { server, call } = await serve();
  expect(await call("GET", "/readyz")).toMatchObject({ status: 200 });
  server.why = "service web has no upstream";
  expect(await call("GET", "/readyz")).toMatchObject({
    status: 503,
    body: "service web has no upstream\n",
  });
});

test("connections are listed with all parts of a filter, and ended by id or filter", async () => {
  const { server, call } = await serve();
  const asked = "service=web&client=192.0.2.0%2F24&original=:80&older=5s&sort=bytes&limit=7";
  const { body } = await call("GET", `/v1/connections?${asked}`);
  expect(body).toMatchObject({ total: 1, matched: 1 });
  expect(body.connections[0]).toMatchObject({ id: "1.42.1", service: "web", client_bytes: 5 });
  expect(server.calls[0]).toMatchObject({
    query: {
      filter: { service: "web", original: { port: 80 }, older: 5000 },
      ...{ sort: "bytes", limit: 7, rates: false },
    },
  });
  expect((await call("DELETE", "/v1/connections/1.42.1")).body).toEqual({ ended: 1 });
  expect((await call("DELETE", "/v1/connections?state=relaying")).body).toEqual({ ended: 1 });
  expect(server.calls.slice(1)).toMatchObject([
    { kill: { kind: "ids", ids: [{ worker: 1, sequence: 42, generation: 1 }] } },
    { kill: { kind: "filter", filter: { state: "relaying" } } },
  ]);
  expect(server.changes).toEqual([
    "kill connection 1.42.1: 1 ended",
    "kill connections with state relaying: 1 ended",
  ]);
});

test("every change is made, and logged", async () => {
  const { server, call } = await serve();
  await call("PATCH", "/v1/services/web", { state: "drained" });
  await call("PATCH", "/v1/pools/servers/upstreams/web1", { state: "drain", force: true });
  await call("PATCH", "/v1/pools/a%2Fb/upstreams/10.0.0.1:80", { weight: 5, force: true });
  await call("PUT", "/v1/log/level", { level: "debug", for: "5m" });
  await call("POST", "/v1/stop", { now: true });
  await eventually("the stop", () => server.calls.length === 5);
  expect(server.calls).toEqual([
    { setService: ["web", "drained"] },
    { setUpstream: ["servers", "web1", { state: "drain", weight: undefined, force: true }] },
    { setUpstream: ["a/b", "10.0.0.1:80", { state: undefined, weight: 5, force: true }] },
    { setLevel: ["debug", 300_000] },
    { stop: true },
  ]);
  expect(server.changes).toEqual([
    "service web: drained",
    "upstream servers/web1: drain, forced",
    "upstream a/b/10.0.0.1:80: weight 5, forced",
    "log level debug for 5m",
    "stop now",
  ]);
});

test.each([
  ["GET", "/v1/connections?clients=1", 400, /"clients" is no parameter here/],
  ["GET", "/v1/connections?state=a&state=b", 400, /state is given twice/],
  ["GET", "/v1/connections?client=192.0.2.1/8", 400, /^client: .*bits set after its prefix/],
  ["GET", "/v1/connections?limit=1001", 400, /from 0 to 1000/],
  ["GET", "/v1/connections?sort=size", 400, /rate, bytes, age, idle/],
  ["GET", "/v1/events?every=1ms", 400, /^every: /],
  ["GET", "/v1/log?level=all", 400, /^level: /],
  ["GET", "/v2/status", 404, /nothing at \/v2\/status/],
  ["GET", "/v1/services/", 404, /nothing at/],
  ["GET", "/v1/services/%ff", 400, /escape/],
  ["PUT", "/v1/status", 405, /use GET/],
  ["DELETE", "/v1/connections", 400, /without a filter/],
  ["DELETE", "/v1/connections?state=", 400, /^state: /],
  ["DELETE", "/v1/connections/7", 400, /is not the id/],
  ["POST", "/v1/reload", 501, /no configuration file/],
  ["GET", "/v1/config", 501, /cannot show/],
] as const)("%s %s is answered with %d", async (method, path, status, detail) => {
  const { server, call } = await serve();
  const answer = await call(method, path);
  expect(answer).toMatchObject({ status, type: "application/problem+json" });
  expect(answer.body.detail).toMatch(detail);
  expect([server.calls, server.changes]).toEqual([[], []]);
});

test.each([
  ["PATCH", "/v1/services/web", {}, 400],
  ["PATCH", "/v1/services/web", { state: 1 }, 400],
  ["PATCH", "/v1/services/wed", { state: "ready" }, 404],
  ["PATCH", "/v1/services/web", { state: "up" }, 400],
  ["PATCH", "/v1/pools/p/upstreams/u", { weight: 257 }, 400],
  ["PATCH", "/v1/pools/p/upstreams/u", { weight: 1, colour: "red" }, 400],
  ["PATCH", "/v1/pools/p/upstreams/u", { state: "drain" }, 409],
  ["PUT", "/v1/log/level", { level: "debug", for: "0s" }, 400],
  ["POST", "/v1/stop", { now: "yes" }, 400],
] as const)("%s %s with %j is answered with %d", async (method, path, body, status) => {
  const { server, call } = await serve();
  expect(await call(method, path, body)).toMatchObject({ status });
  expect([server.calls, server.changes]).toEqual([[], []]);
});

test("the socket for reading changes nothing and shows no configuration", async () => {
  const { server, readOnly, admin, call } = await serve();
  expect([admin, readOnly].map((path) => statSync(path).mode & 0o777)).toEqual([0o660, 0o666]);
  expect(await call("GET", "/v1/status", undefined, readOnly)).toMatchObject({ status: 200 });
  for (const [method, path] of [
    ["DELETE", "/v1/connections/1.42.1"],
    ["PATCH", "/v1/services/web"],
    ["POST", "/v1/stop"],
    ["GET", "/v1/config"],
  ] as const) {
    expect(await call(method, path, method === "GET" ? undefined : {}, readOnly)).toMatchObject({
      status: 403,
    });
  }
  expect(server.calls).toEqual([]);
});

test("a socket that a dead process left is replaced, and nothing else is", async () => {
  const { admin, api, server } = await serve();
  const open = (path: string) =>
    AdminServer.open({ admin: { path, mode: 0o600, gid: undefined }, readOnly: undefined }, server);
  const refused = async (path: string) => String(await open(path).catch((error) => error));
  expect(await refused(admin)).toMatch(/another process listens there/);
  const file = `${admin}.txt`;
  writeFileSync(file, "kept");
  expect(await refused(file)).toMatch(/a file that is no socket/);
  expect(await refused(`/tmp/${"x".repeat(110)}`)).toMatch(/at most 107/);
  expect(await refused(`${admin}.d/admin.sock`)).toMatch(/ENOENT/);
  api.stop();
  expect(statSync(admin, { throwIfNoEntry: false })).toBeUndefined();
  const dead = Bun.spawnSync([
    ...["python3", "-c"],
    `import socket; s = socket.socket(socket.AF_UNIX); s.bind("${admin}"); s.listen()`,
  ]);
  expect(dead.exitCode).toBe(0);
  const second = await open(admin);
  expect(statSync(admin).mode & 0o777).toBe(0o600);
  second.stop();
});

import { afterEach, expect, test } from "bun:test";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { renderMetrics } from "../../../../src/control/metrics/families.ts";
import { MetricsListener } from "../../../../src/control/metrics/listener.ts";
import { parseEndpoint } from "../../../../src/net/endpoint.ts";
import { metricsData, metricsString } from "../../../helpers/metrics-data.ts";

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

function endpoint(text: string) {
  const parsed = parseEndpoint(text, { portZero: true });
  if (!parsed.ok) throw new Error(parsed.error);
  return parsed.value;
}

let unready = "";

function listen(at = "127.0.0.1:0"): MetricsListener {
  const listener = new MetricsListener(
    { listen: endpoint(at), hosts: ["metrics.example"] },
    {
      metrics: () => renderMetrics(metricsData(2, 2)),
      unready: () => unready,
      page: (_, path) => (path === "/broken" ? fail() : undefined),
    },
  );
  cleanups.push(() => listener.close());
  return listener;
}

function fail(): never {
  throw new Error("a page that fails");
}

const get = (listener: MetricsListener, path: string, init: RequestInit = {}) =>
  fetch(`http://${listener.address}${path}`, init);

test("metrics and health are there to read, and nothing else", async () => {
  const listener = listen();
  const metrics = await get(listener, "/metrics");
  expect(metrics.status).toBe(200);
  expect(metrics.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
  expect(await metrics.text()).toBe(metricsString(metricsData(2, 2)));
  expect((await get(listener, "/metrics", { method: "HEAD" })).status).toBe(200);
  expect((await get(listener, "/healthz")).status).toBe(200);
  expect((await get(listener, "/readyz")).status).toBe(200);
  unready = "stopping";
  const busy = await get(listener, "/readyz");
  expect([busy.status, await busy.text()]).toEqual([503, "stopping\n"]);
  unready = "";
  for (const path of ["/", "/metrics/", "/../etc/passwd", "/v1/stop"]) {
    expect((await get(listener, path)).status).toBe(404);
  }
  for (const method of ["POST", "PUT", "DELETE", "PATCH"]) {
    expect((await get(listener, "/metrics", { method, body: "x" })).status).toBe(405);
  }
});

test("every answer has the headers that keep a browser from misusing it", async () => {
  const listener = listen();
  const foreign = { headers: { origin: "http://evil.example" } };
  for (const [path, init, status] of [
    ["/metrics", {}, 200],
    ["/nothing", {}, 404],
    ["/metrics", { method: "POST" }, 405],
    ["/metrics", foreign, 403],
    ["/metrics", { headers: { host: "evil.example" } }, 421],
  ] as const) {
    const response = await get(listener, path, init);
    expect(response.status).toBe(status);
    expect(response.headers.get("content-security-policy")).toContain("default-src 'none'");
    expect(response.headers.get("cross-origin-resource-policy")).toBe("same-origin");
    expect(response.headers.get("x-content-type-options")).toBe("nosniff");
    expect(response.headers.get("cache-control")).toBe("no-store");
  }
  const named = { headers: { host: "metrics.example" } };
  expect((await get(listener, "/healthz", named)).status).toBe(200);
});

test("a fault of the page shows nothing of the inside", async () => {
  const response = await get(listen(), "/broken");
  expect([response.status, await response.text()]).toEqual([500, "an error: see the log\n"]);
});

test("an address that is taken is named, and IPv6 is served", async () => {
  const listener = listen("[::1]:0");
  expect(listener.address).toMatch(/^\[::1\]:\d+$/);
  expect((await get(listener, "/healthz")).status).toBe(200);
  expect(() => listen(listener.address)).toThrow(
    `Cannot bind tcp://${listener.address} for [metrics]: EADDRINUSE`,
  );
});

async function raw(listener: MetricsListener, text: string): Promise<Socket> {
  const socket = connect({ host: "127.0.0.1", port: Number(listener.address.split(":").at(-1)) });
  socket.on("error", () => {});
  cleanups.push(() => socket.destroy());
  await once(socket, "connect");
  socket.write(text);
  return socket;
}

test("clients that stall, flood or send nonsense keep nobody else from reading", async () => {
  const listener = listen();
  const head = "GET /metrics HTTP/1.1\r\nHost: ";
  const stalled = Array.from({ length: 200 }, () => raw(listener, head));
  await Promise.all(stalled);
  // Readers that never read.
  await Promise.all(
    Array.from({ length: 20 }, () =>
      raw(listener, `${head}${listener.address}\r\n\r\n`.repeat(50)),
    ),
  );
  const closed = [
    `${head}${"x".repeat(1 << 20)}\r\n\r\n`,
    `${head}x\r\n${"a: b\r\n".repeat(100_000)}\r\n`,
    "\0\0\0\0\r\n\r\n",
    `POST /metrics HTTP/1.1\r\nHost: ${listener.address}\r\nContent-Length: 999999999\r\n\r\n`,
  ].map(async (text) => {
    const socket = await raw(listener, text);
    socket.resume();
    await new Promise((done) => socket.on("close", done));
  });
  await Promise.all(closed);
  const answers = await Promise.all(Array.from({ length: 20 }, () => get(listener, "/healthz")));
  expect(answers.every(({ status }) => status === 200)).toBe(true);
});

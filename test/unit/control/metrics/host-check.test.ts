import { expect, test } from "bun:test";
import { requestFault } from "../../../../src/control/metrics/host-check.ts";

const get = { method: "GET", host: "127.0.0.1:9117", origin: null };
const hosts = ["Metrics.example:9117", "localhost:9117"];
const statusOf = (request: Partial<typeof get | { origin: string }>) =>
  requestFault({ ...get, ...request }, hosts, 9117)?.status ?? 200;

test.each([
  ["127.0.0.1:9117", 200],
  ["192.0.2.1:9117", 200],
  ["[::1]:9117", 200],
  ["[FE80::1%25eth0]:9117", 200],
  ["localhost:9117", 200],
  ["metrics.EXAMPLE:9117", 200],
  ["127.0.0.1", 421],
  ["127.0.0.1:80", 421],
  ["localhost", 421],
  ["evil.example:9117", 421],
  ["127.0.0.1.evil.example:9117", 421],
  ["evil.example#127.0.0.1:9117", 421],
  ["", 421],
])("host %p: %d", (host, status) => {
  expect(statusOf({ host })).toBe(status);
});

test("a request without a host, of another method or from another origin is not answered", () => {
  expect(requestFault({ ...get, host: null }, hosts, 9117)?.status).toBe(421);
  for (const method of ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"]) {
    expect(statusOf({ method })).toBe(405);
  }
  expect(statusOf({ method: "HEAD" })).toBe(200);
  expect(statusOf({ origin: "http://127.0.0.1:9117" })).toBe(200);
  for (const origin of ["null", "http://evil.example", "https://127.0.0.1:9117", ""]) {
    expect(statusOf({ origin })).toBe(403);
  }
});

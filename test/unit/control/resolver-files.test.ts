import { expect, test } from "bun:test";
import fc from "fast-check";
import { candidates, hostsOf, parseResolvConf } from "../../../src/control/resolver-files.ts";
import { formatAddress } from "../../../src/net/address.ts";

const usual = {
  servers: ["127.0.0.1"],
  search: [],
  ndots: 1,
  timeoutMs: 5000,
  attempts: 2,
  rotate: false,
  useTcp: false,
};

function parsed(text: string) {
  const settings = parseResolvConf(text);
  return { ...settings, servers: settings.servers.map(formatAddress) };
}

test.each([
  ["", {}],
  ["# nameserver 192.0.2.1\n; search a\n", {}],
  ["nameserver 192.0.2.53\nnameserver fe80::1%eth0\n", { servers: ["192.0.2.53", "fe80::1%eth0"] }],
  ["nameserver no\n nameserver\t192.0.2.1 # one\n", { servers: ["192.0.2.1"] }],
  ["nameserver 1.1.1.1\n".repeat(9), { servers: Array(3).fill("1.1.1.1") }],
  ["domain a.test\nsearch b.test c.test.\n", { search: ["b.test", "c.test."] }],
  ["search b.test\ndomain a.test\n", { search: ["a.test"] }],
  [`search ${"x.test ".repeat(20)}`, { search: Array(6).fill("x.test") }],
  ["search .\n", {}],
  [
    "options ndots:2 timeout:1 attempts:3 rotate use-vc edns0",
    { ndots: 2, timeoutMs: 1000, attempts: 3, rotate: true, useTcp: true },
  ],
  ["options ndots:99 timeout:99 attempts:99", { ndots: 15, timeoutMs: 30_000, attempts: 5 }],
  ["options timeout:0 attempts:-1 ndots:x", { timeoutMs: 1000, attempts: 1 }],
])("resolv.conf: %j", (text, settings) => {
  expect(parsed(text)).toEqual({ ...usual, ...settings } as ReturnType<typeof parsed>);
});

test.each([
  ["www", 1, ["www.a.test", "www.b.test", "www"]],
  ["www.x", 1, ["www.x", "www.x.a.test", "www.x.b.test"]],
  ["www.x", 2, ["www.x.a.test", "www.x.b.test", "www.x"]],
  ["www.", 1, ["www"]],
])("what is asked for %s with ndots %d", (name, ndots, expected) => {
  const settings = parseResolvConf(`search a.test b.test.\noptions ndots:${ndots}`);
  expect(candidates(name, settings)).toEqual(expected);
});

test.each([
  [
    "192.0.2.1 back.test back # first\n2001:db8::1 BACK.test\n",
    "back.test",
    "192.0.2.1 2001:db8::1",
  ],
  ["192.0.2.1 back.test back", "back.", "192.0.2.1"],
  ["# 192.0.2.1 back\nno back\n", "back", ""],
  ["", "localhost", "127.0.0.1 ::1"],
  ["", "a.localhost.", "127.0.0.1 ::1"],
  ["192.0.2.7 localhost", "localhost", "192.0.2.7"],
  ["", "notlocalhost", ""],
])("hosts: %j, %s", (text, name, expected) => {
  expect(hostsOf(text, name).map(formatAddress).join(" ")).toBe(expected);
});

test("no text is too odd", () => {
  const odd = fc.string({ unit: fc.constantFrom(..."nameserver options:1.\n #%:-") });
  fc.assert(
    fc.property(odd, fc.string(), (text, name) => {
      expect(parseResolvConf(text).servers.length).toBeGreaterThan(0);
      hostsOf(text, name);
    }),
  );
});

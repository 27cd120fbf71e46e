import { describe, expect, test } from "bun:test";
import { checkSettings, type IssueArgs } from "../../../src/config/check.ts";
import type { PoolSettings, ServiceSettings, Settings } from "../../../src/config/settings.ts";
import { problemsOf } from "../../helpers/configurations.ts";

const seen = new Set<keyof IssueArgs>();

/** The codes of what is found, with their paths. */
function issuesOf(settings: Settings): string[] {
  const issues = checkSettings(settings, { cores: 4 });
  for (const { code } of issues) seen.add(code);
  return issues.map(({ code, path }) => `${path.join(".")}: ${code}`);
}

const port = (at: number) => ({ from: at, to: at }) as never;
const tcp = { protocol: "tcp" as const, address: undefined, ports: port(80) };
const udp = { protocol: "udp" as const, address: undefined, ports: port(53) };
const target = { scheme: undefined, host: "web.example", port: 80 as never };
const service = (rest: ServiceSettings = {}): ServiceSettings => ({
  ...{ name: "web", listen: [tcp], to: [target] },
  ...rest,
});
const of = (rest: ServiceSettings, others: Settings = {}) =>
  issuesOf({ service: [service(rest)], ...others });
const at = (address: number[], from: number, to = from) =>
  ({
    protocol: "tcp",
    address: { family: address.length === 4 ? 4 : 6, bytes: Uint8Array.from(address) },
    ports: { from, to },
  }) as const as never;
const any6 = Array.from({ length: 16 }, () => 0);

describe("contradictions", () => {
  test("none in a plain service", () => {
    expect(of({})).toEqual([]);
    expect(of({ listen: [tcp, udp], "idle-timeout": 5, "udp-timeout": [] })).toEqual([]);
  });

  test("a check of an upstream without a port needs one, and NAT loses that of datagrams", () => {
    const portless = { scheme: undefined, host: "web.example", port: 0 as never };
    const check = { type: "tcp" as const };
    const pool = { name: "p", to: [portless], check };
    const own = [{ name: "web", listen: [tcp], pool: "p" }];
    expect(issuesOf({ service: own, pool: [pool] })).toEqual(["pool.0.check: check-without-port"]);
    const withPort = { ...pool, check: { ...check, port: 80 } };
    expect(issuesOf({ service: own, pool: [withPort] })).toEqual([]);
    expect(of({ to: [portless], listen: [udp], redirect: true })).toEqual([
      "service.0.redirect: redirect-original-udp",
    ]);
  });

  test("what is missing", () => {
    expect(issuesOf({})).toEqual([": missing"]);
    expect(issuesOf({ service: [{}], pool: [{}] })).toEqual([
      "pool.0: missing",
      "pool.0: missing",
      "service.0: missing",
      "service.0: missing",
      "service.0: pool-or-to",
    ]);
  });

  test("the version of the format", () => {
    expect(of({}, { version: 1 })).toEqual([]);
    expect(of({}, { version: 2 })).toEqual(["version: newer-version"]);
  });

  test("names and pools", () => {
    const pool = [{ name: "p", to: [target] }];
    const { to: _, ...pooled } = service({ pool: "p" });
    expect(issuesOf({ pool, service: [pooled] })).toEqual([]);
    expect(issuesOf({ pool, service: [{ ...pooled, pool: "q" }] })).toEqual([
      "service.0.pool: no-such-pool",
    ]);
    expect(of({ pool: "p", balance: "source-hash" }, { pool })).toEqual([
      "service.0.to: pool-and-to",
      "service.0.balance: of-the-pool",
    ]);
    expect(issuesOf({ pool: [...pool, ...pool], service: [pooled] })).toEqual([
      "pool.1.name: same-name",
    ]);
    expect(issuesOf({ service: [service(), service({ listen: [udp] })] })).toEqual([
      "service.1.name: same-name",
    ]);
  });

  test("upstreams", () => {
    expect(of({ to: ["original", target] })).toEqual(["service.0.to.0: original-alone"]);
    expect(of({ to: [{ ...target, scheme: "tcp" }] })).toEqual([]);
    expect(of({ listen: [tcp, udp], to: [target, { ...target, scheme: "tcp" }] })).toEqual([
      "service.0.to.1: upstream-protocol",
    ]);
    const pool = [{ name: "p", to: [{ ...target, scheme: "udp" as const }] }];
    expect(issuesOf({ pool, service: [{ name: "a", listen: [tcp], pool: "p" }] })).toEqual([
      "service.0.pool: upstream-protocol",
    ]);
  });

  test("pools", () => {
    const of = (own: PoolSettings, defaults: Settings["defaults"] = {}) =>
      issuesOf({
        ...{ defaults, pool: [{ name: "p", ...own }] },
        service: [{ name: "a", listen: [tcp], pool: "p" }],
      });
    const other = { ...target, host: "other.example" };
    expect(of({ upstream: [{ to: target }, { to: other, weight: 0, backup: true }] })).toEqual([]);
    expect(of({ to: [target], upstream: [{ to: other }] })).toEqual(["pool.0.to: to-and-upstream"]);
    expect(of({ upstream: [{}] })).toEqual(["pool.0.upstream.0: missing"]);
    expect(of({ upstream: [{ to: target }, { to: target }] })).toEqual([
      "pool.0.upstream.1.to: same-name",
    ]);
    expect(of({ upstream: [{ to: target }, { to: target, name: "second" }] })).toEqual([]);
    expect(
      of({
        upstream: [
          { to: target, name: "b" },
          { to: other, name: "b" },
        ],
      }),
    ).toEqual(["pool.0.upstream.1.name: same-name"]);
    const original = "original" as const;
    expect(of({ upstream: [{ to: original }] })).toEqual([]);
    expect(of({ upstream: [{ to: original }, { to: other }] })).toEqual([
      "pool.0.upstream.0.to: original-alone",
    ]);
    expect(of({ upstream: [{ to: original, weight: 1, backup: false, "slow-start": 1 }] })).toEqual(
      ["weight", "backup", "slow-start"].map((each) => `pool.0.upstream.0.${each}: needs-upstream`),
    );
    expect(of({ to: [original], check: { type: "tcp" }, "on-down": "close" })).toEqual([
      "pool.0.on-down: needs-upstream",
      "pool.0.check: needs-upstream",
    ]);
    // What all pools have is no wish of one.
    expect(of({ to: [original] }, { "on-down": "close", passive: { failures: 1 } })).toEqual([]);
    expect(of({ to: [target], passive: { rest: 2 }, check: {} }, { passive: { "rest-max": 1 } }))
      // Of a longer time than the longest one, and of a check without its type.
      .toEqual(["pool.0.passive: back-off-order", "pool.0.check: missing"]);
    expect(
      issuesOf({ pool: [{ name: "web", to: [target] }], service: [service({ to: [other] })] }),
    ).toEqual(["service.0.to: pool-of-service"]);
    const pooled = { upstream: [{ to: { ...target, scheme: "udp" as const } }] };
    expect(of(pooled)).toEqual(["service.0.pool: upstream-protocol"]);
  });

  test("a check of [defaults] is looked at like that of a pool", () => {
    const of = (check: PoolSettings["check"]) =>
      issuesOf({ service: [service()], defaults: { ...(check && { check }) } });
    expect(of({})).toEqual(["defaults.check: missing"]);
    expect(of({ type: "tcp", path: "/" })).toEqual(["defaults.check.path: needs-check-type"]);
    expect(of({ type: "none", interval: 1_000 })).toEqual([]);
  });

  test("checks", () => {
    const of = (check: PoolSettings["check"]) =>
      issuesOf({
        ...{ pool: [{ name: "p", to: [target], ...(check && { check }) }] },
        service: [{ name: "a", listen: [tcp], pool: "p" }],
      });
    const range = [{ from: 200, to: 299 }];
    expect(of({ type: "http", path: "/", host: "a", status: range, port: 1 })).toEqual([]);
    expect(of({ type: "tls", host: "a", interval: 1, timeout: 9 })).toEqual([]);
    expect(of({ type: "udp", send: "a", expect: "b" })).toEqual([]);
    expect(of({ type: "udp", expect: "b" })).toEqual(["pool.0.check: missing"]);
    expect(of({ type: "tls", path: "/", status: range, send: "x" })).toEqual(
      ["path", "status", "send"].map((each) => `pool.0.check.${each}: needs-check-type`),
    );
    expect(of({ type: "tcp", host: "a", expect: "x" })).toEqual(
      ["host", "expect"].map((each) => `pool.0.check.${each}: needs-check-type`),
    );
  });

  test("settings of a protocol that is not carried", () => {
    const ofTcp = { "max-connections": 9, "connect-timeout": 1, keepalive: 5_000 };
    expect(of({ ...ofTcp, listen: [udp] })).toEqual([
      "service.0.max-connections: needs-protocol",
      "service.0.connect-timeout: needs-protocol",
      "service.0.keepalive: needs-protocol",
    ]);
    expect(of({ "udp-timeout": [], "send-proxy": "v2:every" })).toEqual([
      "service.0.udp-timeout: needs-protocol",
      "service.0.send-proxy: needs-protocol",
    ]);
    // What all services have is no wish of one.
    const defaults = { "udp-timeout": [], "max-connections": 9, "send-proxy": "v2:every" } as const;
    expect(of({ listen: [udp] }, { defaults })).toEqual([]);
    expect(of({}, { defaults })).toEqual([]);
  });

  test("UDP, PROXY and NAT", () => {
    expect(of({ listen: [udp], "send-proxy": "v1" })).toEqual([
      "service.0.send-proxy: proxy-v1-udp",
    ]);
    expect(of({ listen: [udp] }, { defaults: { "send-proxy": "v1" } })).toEqual([
      "service.0.send-proxy: proxy-v1-udp",
    ]);
    expect(of({ listen: [udp], redirect: true, to: ["original"] })).toEqual([
      "service.0.redirect: redirect-original-udp",
    ]);
    expect(of({ redirect: true, to: ["original"] })).toEqual([]);
    expect(of({ "header-timeout": 5 })).toEqual(["service.0.header-timeout: header-without-proxy"]);
    expect(of({ "header-timeout": 5, "accept-proxy": true })).toEqual([]);
    expect(of({ "header-timeout": 5 }, { defaults: { "accept-proxy": true } })).toEqual([]);
    expect(of({ "header-timeout": 5, "accept-proxy": false })).not.toEqual([]);
  });

  test("numbers", () => {
    expect(of({ "max-connections": 2 }, { workers: 3 })).toEqual([
      "service.0.max-connections: less-than-workers",
    ]);
    expect(of({ "max-connections": 3 }, { workers: "auto" })).toHaveLength(1);
    expect(of({ "max-connections": 4 }, { workers: "auto" })).toEqual([]);
    for (const ms of [999, 32_768_000]) {
      expect(of({ keepalive: ms })).toEqual(["service.0.keepalive: keepalive-range"]);
    }
    for (const ms of [0, 1000, 32_767_000]) expect(of({ keepalive: ms })).toEqual([]);
  });

  test("rules", () => {
    expect(of({ capture: { "bypass-private": true } })).toEqual([
      "service.0.capture.bypass-private: capture-without-routes",
    ]);
    expect(of({ capture: { local: false } }, { routes: { sysctl: false } })).toEqual([]);
    expect(of({}, { routes: { table: 7 } })).toEqual(["routes.table: capture-without-routes"]);
    const routes = { install: "auto" as const, sysctl: true };
    expect(of({ capture: { "bypass-private": true } }, { routes })).toEqual([]);
    expect(of({}, { routes, user: "nobody" })).toEqual(["user: user-with-sysctl"]);
  });
});

describe("sockets", () => {
  const both = (a: unknown, b: unknown) =>
    issuesOf({
      service: [
        service({ listen: [a as never] }),
        service({ name: "other", listen: [b as never] }),
      ],
    });
  const clash = ["service.1.listen.0: same-socket"];

  test("one socket is of one service", () => {
    expect(both(tcp, tcp)).toEqual(clash);
    expect(both(tcp, { ...tcp, protocol: "udp" })).toEqual([]);
    expect(both(tcp, at([127, 0, 0, 1], 80))).toEqual(clash);
    expect(both(at([127, 0, 0, 1], 80), at([127, 0, 0, 2], 80))).toEqual([]);
    expect(both(at([127, 0, 0, 1], 80), at([127, 0, 0, 1], 81))).toEqual([]);
    expect(both(at(any6, 80), tcp)).toEqual(clash);
    expect(both(at(any6, 80), at([127, 0, 0, 1], 80))).toEqual(clash);
    expect(both(tcp, at([...any6.slice(1), 1], 80))).toEqual([]);
    expect(both(at([1, 1, 1, 1], 10, 20), at([1, 1, 1, 1], 20, 30))).toEqual(clash);
    expect(both(at([1, 1, 1, 1], 10, 20), at([1, 1, 1, 1], 21, 30))).toEqual([]);
  });

  test("port 0 is another one each time", () => {
    const free = { ...tcp, ports: port(0) };
    expect(both(free, free)).toEqual([]);
  });

  test("there are not too many", () => {
    const wide = { ...tcp, ports: { from: 1000, to: 5095 } as never };
    expect(of({ listen: [wide] })).toEqual([]);
    expect(both(wide, at([1, 1, 1, 1], 9))).toEqual(["service.1.listen.0: too-many-sockets"]);
  });
});

test("each code has been shown here", () => {
  expect([...seen].sort()).toEqual([
    ...(["back-off-order", "capture-without-routes", "check-without-port"] as const),
    "header-without-proxy",
    ...(["keepalive-range", "less-than-workers", "missing", "needs-check-type"] as const),
    ...(["needs-protocol", "needs-upstream", "newer-version"] as const),
    ...(["no-such-pool", "of-the-pool", "original-alone", "pool-and-to"] as const),
    ...(["pool-of-service", "pool-or-to", "proxy-v1-udp", "redirect-original-udp"] as const),
    ...(["same-name", "same-socket", "to-and-upstream"] as const),
    ...(["too-many-sockets", "upstream-protocol", "user-with-sysctl"] as const),
  ]);
});

test("in the words of a file", async () => {
  const text = `version = 2
workers = 8
user = "nobody"
routes = { install = "auto", sysctl = true }
[[pool]]
name = "web"
to = ["original", "a:1"]
[[service]]
name = "a"
listen = [":80", "udp://:80"]
to = "tcp://a:1"
max-connections = 7
keepalive = "10h"
header-timeout = "1s"
send-proxy = "v1"
[[service]]
name = "a"
listen = "127.0.0.1:80"
pool = "wep"
to = "a:1"
balance = "source-hash"
max-sessions = 8
`;
  expect(await problemsOf(text)).toEqual([
    "main.toml:1:1: version: this program knows the format up to version 1: give that version",
    "main.toml:3:1: user: only root can restore settings of the kernel: leave [routes] sysctl " +
      "or user out",
    'main.toml:7:7: pool "web": to[0]: "original" excludes other upstreams: give no other',
    'main.toml:11:1: service "a": to: tcp://… carries tcp only, and udp is wanted too: give ' +
      '"HOST:PORT"',
    'main.toml:12:1: service "a": max-connections: 7 is less than one for each of the 8 workers: ' +
      "give at least 8",
    'main.toml:13:1: service "a": keepalive: "10h" is not accepted: give "1s" to "9h"',
    'main.toml:14:1: service "a": header-timeout: this needs accept-proxy',
    'main.toml:15:1: service "a": send-proxy: version 1 supports TCP only: give "v2", or listen ' +
      "for TCP only",
    'main.toml:17:1: service "a": name: another one is called "a": give each a name of its own',
    'main.toml:18:1: service "a": listen: ":80" of service "a" needs this socket: give another ' +
      "port or address",
    'main.toml:19:1: service "a": pool: there is no pool "wep"; did you mean "web"?',
    'main.toml:20:1: service "a": to: a service has a pool or upstreams of its own: leave "pool" ' +
      'or "to" out',
    'main.toml:21:1: service "a": balance: "balance" is a setting of the pool: give it there',
    'main.toml:22:1: service "a": max-sessions: this needs a listener for udp, and the ' +
      "service has none",
  ]);
});

test("pools, in the words of a file", async () => {
  const text = `[[pool]]
name = "web"
to = "a:1"
check = { type = "http", path = "health", status = "99-700", send = "hex:0" }
passive = { failures = 0, rest = "1m", rest-max = "30s" }
[[pool.upstream]]
name = "Web 1"
to = "a:1"
weight = 300
[[pool.upstream]]
to = "original"
slow-start = "0s"
backup = 1
[[pool]]
name = "dns"
to = ["a:1", "a:1"]
check = { type = "udp", interval = "99ms" }
[[pool]]
name = "other"
check = { type = "tcp", path = "/" }
passive = { rest = "1m", rest-max = "30s" }
[[pool.upstream]]
to = "a:1"
[[pool.upstream]]
to = "a:1"
[[service]]
name = "dns"
listen = ":80"
to = "b:1"
`;
  expect(await problemsOf(text)).toEqual([
    'main.toml:3:1: pool "web": to: "to" is short for [[pool.upstream]]: leave "to" or those ' +
      "tables out",
    'main.toml:4:33: pool "web": check.path: "health" is not accepted: give a path, "/health"',
    'main.toml:4:52: pool "web": check.status: "99-700" is not accepted: give a status or a ' +
      'range, "200-399"',
    'main.toml:4:69: pool "web": check.send: "hex:0" is not accepted: give two digits a ' +
      'byte, "hex:00ff"',
    'main.toml:5:1: pool "web": passive: "rest" is longer than "rest-max": give at most that',
    'main.toml:5:24: pool "web": passive.failures: "0" is not accepted: give a number from 1 ' +
      "to 1000",
    'main.toml:7:8: pool "web": upstream[0].name: "Web 1" is not a name: give at most 63 ' +
      'small letters, digits, ".", "_" or "-", the first of them a letter or digit',
    'main.toml:9:10: pool "web": upstream[0].weight: "300" is not accepted: give a number ' +
      "from 0 to 256",
    'main.toml:11:1: pool "web": upstream[1].to: "original" excludes other upstreams: give ' +
      "no other",
    'main.toml:12:14: pool "web": upstream[1].slow-start: "0s": give a time, such as "60s"',
    'main.toml:13:10: pool "web": upstream[1].backup: 1 is not accepted: give true or false, ' +
      "without quotes",
    'main.toml:17:1: pool "dns": check: "send" is missing',
    'main.toml:17:36: pool "dns": check.interval: "99ms" is too short: give at least "100ms"',
    'main.toml:20:25: pool "other": check.path: this needs a check of type "http"',
    'main.toml:21:1: pool "other": passive: "rest" is longer than "rest-max": give at most ' +
      "that",
    'main.toml:25:1: pool "other": upstream[1].to: another one is called "a:1": give each a ' +
      "name of its own",
    'main.toml:29:1: service "dns": to: these upstreams are a pool named "dns", and another ' +
      "pool has that name: give the service or that pool another name",
  ]);
});

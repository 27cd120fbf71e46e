import { expect, test } from "bun:test";
import fc from "fast-check";
import * as v from "valibot";
import { effectiveSettings } from "../../../src/config/effective.ts";
import { plainValue } from "../../../src/config/located.ts";
import { complete } from "../../../src/config/service.ts";
import {
  configurationKind,
  type PoolSettings,
  type Settings,
} from "../../../src/config/settings.ts";
import { readText } from "../../../src/config/text.ts";
import { writeToml } from "../../../src/config/write.ts";
import { anySettings, readText as readFile } from "../../helpers/configurations.ts";

const parsed = (text: string) => {
  const { root, problems } = readText(text);
  expect(problems).toEqual([]);
  return v.safeParse(configurationKind.parsed, plainValue(root));
};

/** Empty lists and tables say nothing: they are not written. */
const saying = (settings: Settings) =>
  Object.fromEntries(
    Object.entries(settings).filter(([, value]) => !Array.isArray(value) || value.length > 0),
  );

test("what is written is read as the same settings", () => {
  fc.assert(
    fc.property(anySettings, (settings) => {
      const { output, issues } = parsed(writeToml(settings));
      expect(issues).toBeUndefined();
      expect(output).toEqual(saying(settings));
    }),
    { numRuns: 100 },
  );
}, 240_000);

test("what is written fits the schema, as TOML and as JSON", () => {
  fc.assert(
    fc.property(anySettings, (settings) => {
      const isWhole = (each: { name?: unknown; to?: unknown; listen?: unknown }) =>
        each.name !== undefined;
      fc.pre((settings.service ?? []).every((each) => isWhole(each) && each.listen !== undefined));
      const isWholePool = (each: PoolSettings) =>
        (each.check === undefined || each.check.type !== undefined) &&
        (each.upstream ?? []).every(({ to }) => to !== undefined);
      const { check } = settings.defaults ?? {};
      fc.pre(check === undefined || check.type !== undefined);
      fc.pre((settings.pool ?? []).every((each) => isWhole(each) && isWholePool(each)));
      const json = JSON.stringify(plainValue(readText(writeToml(settings)).root));
      const value = plainValue(readText(json).root);
      expect(v.safeParse(configurationKind.wire, value).issues).toBeUndefined();
      expect(v.safeParse(configurationKind.parsed, value).output).toEqual(saying(settings));
    }),
    { numRuns: 100 },
  );
}, 240_000);

test("effective settings say the same as those that they are made of", async () => {
  const text = `
    drain-timeout = "5s"
    [defaults]
    idle-timeout = "1m"
    balance = "source-hash"
    udp-timeout = "20s"
    send-proxy = "v2:every"
    header-timeout = "1s"
    [[pool]]
    name = "web"
    to = ["192.0.2.1:80", "tcp://web.example:80"]
    [[service]]
    name = "a"
    listen = ":80"
    pool = "web"
    [[service]]
    name = "b"
    listen = ["udp://:53", ":53"]
    to = "original"
    accept-proxy = true
    redirect = false
    udp-timeout = { default = "3s", 54 = "9s" }
    [[service]]
    name = "c"
    listen = "udp://:5000-5002"
    to = "192.0.2.1:53"
    source = "self"
    log-level = "debug"`;
  const first = await readFile(text);
  expect(first.problems).toEqual([]);
  const second = await readFile(writeToml(effectiveSettings(first.settings)));
  expect(second.problems).toEqual([]);
  // The services are compared below, and the settings are others that say the same.
  const rest = { services: [], settings: {} };
  expect({ ...second.configuration, ...rest }).toEqual({
    ...first.configuration,
    ...rest,
  } as never);
  for (const [i, service] of (second.configuration?.services ?? []).entries()) {
    const other = first.configuration?.services[i];
    expect(service.route).toEqual(other?.route as never);
    expect(service.listen).toEqual(other?.listen as never);
    expect(service.timeouts.answeredSessions).toEqual(
      (other?.listen.some(({ protocol }) => protocol === "udp")
        ? other.timeouts.answeredSessions
        : service.timeouts.answeredSessions) as never,
    );
  }
  expect(writeToml(effectiveSettings(second.settings))).toBe(
    writeToml(effectiveSettings(first.settings)),
  );
});

test("a check of [defaults] is of all upstreams that it fits", async () => {
  const first = await readFile(`
    [defaults]
    check = { type = "http", path = "/health", interval = "5s" }
    [[pool]]
    name = "plain"
    to = "192.0.2.1:80"
    [[pool]]
    name = "own"
    to = "192.0.2.1:80"
    check = { type = "tcp" }
    [[pool]]
    name = "unchecked"
    to = "192.0.2.1:80"
    check = { type = "none" }
    [[pool]]
    name = "portless"
    to = "192.0.2.1"
    [[pool]]
    name = "original"
    to = "original"
    [[service]]
    name = "tcp"
    listen = ":80"
    to = "192.0.2.1:80"
    [[service]]
    name = "udp"
    listen = "udp://:53"
    to = "192.0.2.1:53"
    [[service]]
    name = "both"
    listen = [":54", "udp://:54"]
    to = "192.0.2.1:53"`);
  expect(first.problems).toEqual([]);
  const second = await readFile(writeToml(effectiveSettings(first.settings)));
  expect(second.problems).toEqual([]);
  for (const { configuration } of [first, second]) {
    const pools = [
      ...(configuration?.pools ?? []),
      ...(configuration?.services ?? []).map(({ route }) => route.pool),
    ];
    const types = pools.map(({ name, check }) => [name, check?.probe.type ?? ""]);
    expect(Object.fromEntries(types)).toEqual({
      ...{ plain: "http", own: "tcp", unchecked: "", portless: "", original: "" },
      ...{ tcp: "http", udp: "", both: "http" },
    });
    expect(pools[0]?.check).toMatchObject({ intervalMs: 5_000, timeoutMs: 1_000 });
    expect(pools[1]?.check).toMatchObject({ intervalMs: 2_000 });
  }
  const port = await readFile(`
    [defaults]
    check = { type = "udp", send = "ping", port = 9 }
    [[service]]
    name = "udp"
    listen = "udp://:53"
    to = "192.0.2.1"`);
  expect(port.configuration?.services[0]?.route.pool.check).toMatchObject({ port: 9 });
});

test("the complete configuration has every default", async () => {
  const service = { name: "a", listen: [], to: ["original" as const] };
  const { services, ...rest } = complete({ service: [service] });
  expect(rest).toMatchObject({ workers: 1, drainTimeoutMs: 30_000, strictLimits: false });
  expect(services[0]).toMatchObject({
    ingress: { transparent: true, redirected: false, acceptProxy: undefined },
    route: { source: { kind: "client", keepPort: false }, sourceFallback: false },
    timeouts: { headerMs: 5_000, connectMs: 10_000, idleMs: 600_000, sessionIdleMs: 60_000 },
    log: { level: "info" },
  });
  expect(services[0]?.timeouts.answeredSessions).toEqual([{ port: 53, timeoutMs: 5_000 }]);
});

test("of a redirected service the upstream sees an own address", () => {
  const own = { name: "a", listen: [], to: ["original" as const] };
  const [first, second] = complete({
    defaults: { redirect: true },
    service: [own, { ...own, source: { kind: "client", keepPort: true } }],
  }).services;
  expect(first?.route.source).toEqual({ kind: "self" });
  expect(second?.route.source).toEqual({ kind: "client", keepPort: true });
});

/** Configurations for tests: read from memory, and made at random. */

import fc from "fast-check";
import {
  type ConfigurationSystem,
  type ReadConfiguration,
  readConfiguration,
} from "../../src/config/file.ts";
import { problemText } from "../../src/config/problem.ts";
import type { Settings } from "../../src/config/settings.ts";
import type { NetworkSource, UpstreamTarget } from "../../src/config/syntax.ts";
import type { Address, Family } from "../../src/net/address.ts";
import { networkOf } from "../../src/net/cidr.ts";
import { parseEndpoint } from "../../src/net/endpoint.ts";

/** A system whose files are in memory; `main.toml` is where a configuration begins. */
export function systemOf(
  files: Readonly<Record<string, string | Uint8Array>>,
): ConfigurationSystem {
  const read = async (path: string) => {
    const content = Object.hasOwn(files, path) ? files[path] : undefined;
    if (content === undefined) throw new Error("ENOENT");
    return typeof content === "string" ? new TextEncoder().encode(content) : content;
  };
  return {
    read,
    readList: read,
    resolve: (_, path) => path,
    list: async (_, pattern) =>
      pattern.endsWith("*")
        ? Object.keys(files).filter((name) => name.startsWith(pattern.slice(0, -1)))
        : [pattern],
    identity: async (path) => path,
    userId: (name) => (name === "www-data" ? 33 : undefined),
    groupId: (name) => (name === "www-data" ? 33 : undefined),
    cores: 4,
  };
}

/** Reads a configuration of one file, and of others that it names. */
export function readText(
  text: string | Uint8Array,
  others: Readonly<Record<string, string | Uint8Array>> = {},
): Promise<ReadConfiguration> {
  return readConfiguration("main.toml", systemOf({ ...others, "main.toml": text }));
}

/** Its problems, as they are told. */
export async function problemsOf(
  text: string | Uint8Array,
  others: Readonly<Record<string, string | Uint8Array>> = {},
): Promise<string[]> {
  return (await readText(text, others)).problems.map(problemText);
}

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const address = (family: Family): fc.Arbitrary<Address> =>
  bytes(family === 4 ? 4 : 16).map((each) => ({ family, bytes: each }));
const anyAddress = fc.oneof(address(4), address(6));
const port = fc.integer({ min: 1, max: 65535 });
const name = fc.stringMatching(/^[a-z0-9][a-z0-9_.-]{0,10}$/);
const count = fc.integer({ min: 1, max: 1_000_000 });
const ms = fc.integer({ min: 0, max: 0x7fffffff });
const range = fc
  .tuple(port, port)
  .map(([a, b]) => ({ from: Math.min(a, b), to: Math.max(a, b) })) as fc.Arbitrary<never>;
const some = <T>(item: fc.Arbitrary<T>) => fc.array(item, { minLength: 1, maxLength: 3 });

const network: fc.Arbitrary<NetworkSource> = fc.oneof(
  anyAddress.chain((each) =>
    fc.integer({ min: 0, max: each.bytes.length * 8 }).map((prefix) => networkOf(each, prefix)),
  ),
  fc.stringMatching(/^[ -~]{1,10}$/).map((file) => ({ file })),
);
const mark = fc
  .tuple(fc.integer({ min: 1, max: 0xffffffff }), fc.integer({ min: 0, max: 0xffffffff }))
  .map(([value, more]) => ({ value, mask: (value | more) >>> 0 })) as fc.Arbitrary<never>;
const upstream: fc.Arbitrary<UpstreamTarget> = fc.record({
  scheme: fc.constantFrom(undefined, "tcp" as const, "udp" as const),
  // A link-local address would need its interface.
  host: fc.oneof(address(4), fc.constantFrom("web.example", "localhost")),
  port: port as fc.Arbitrary<never>,
});
const to = fc.oneof(fc.constant(["original" as const]), some(upstream));
const balance = fc.constantFrom("round-robin", "least-connections", "source-hash");
const level = fc.constantFrom("error", "warning", "info", "debug");
const identities = some(fc.oneof(fc.nat(0xfffffffe), fc.constantFrom("www-data", "root")));

const shared = {
  source: fc.oneof(
    fc.constant({ kind: "self" as const }),
    fc.record({ kind: fc.constant("client" as const), keepPort: fc.boolean() }),
    anyAddress.map((each) => ({ kind: "address" as const, address: each.bytes })),
  ),
  "source-fallback": fc.constant("self"),
  "socket-mark": fc.integer({ min: 0, max: 0xffffffff }),
  transparent: fc.boolean(),
  redirect: fc.boolean(),
  "accept-proxy": fc.oneof(fc.boolean(), some(network)),
  "client-first": fc.boolean(),
  "fast-open": fc.boolean(),
  path: fc.constantFrom("relay", "kernel", "auto"),
  offload: fc.constantFrom("auto", "off"),
  "header-timeout": ms.map((each) => each || 2 ** 52),
  "send-proxy": fc.constantFrom("v1", "v2", "v2:every"),
  "max-connections": count,
  "max-connections-per-client": count,
  "connection-rate-per-client": count,
  "max-sessions": count,
  "max-sessions-per-client": count,
  "session-rate-per-client": count,
  "connect-timeout": ms.map((each) => each || 2 ** 52),
  "idle-timeout": ms.map((each) => each || 2 ** 52),
  "half-closed-timeout": ms.map((each) => each || 2 ** 52),
  "udp-timeout": fc
    .tuple(
      fc.option(ms, { nil: undefined }),
      fc.uniqueArray(fc.tuple(port, ms), { selector: ([each]) => each, maxLength: 2 }),
    )
    .map(([general, byPort]) => [
      ...(general === undefined ? [] : [{ port: undefined, ms: general + 1 }]),
      // As objects of JavaScript have their keys.
      ...byPort.sort(([a], [b]) => a - b).map(([each, time]) => ({ port: each, ms: time + 1 })),
    ])
    .filter((timeouts) => timeouts.length > 0)
    .filter((timeouts) => timeouts.every((each) => each.ms <= 0x7fffffff)),
  keepalive: ms,
  "user-timeout": ms,
  balance,
};

const time = fc.integer({ min: 1, max: 0x7fffffff });
const poolDefaults = {
  balance,
  "on-down": fc.constantFrom("keep", "close"),
  "when-all-down": fc.constantFrom("try", "refuse"),
  passive: fc.record(
    { failures: fc.integer({ min: 1, max: 1_000 }), rest: time, "rest-max": time },
    { requiredKeys: [] },
  ),
  check: fc.record(
    {
      type: fc.constantFrom("tcp", "tls", "http", "udp", "none"),
      port,
      interval: fc.integer({ min: 100, max: 0x7fffffff }),
      timeout: time,
      rise: fc.integer({ min: 1, max: 100 }),
      fall: fc.integer({ min: 1, max: 100 }),
      jitter: fc.integer({ min: 0, max: 50 }),
      path: fc.stringMatching(/^\/[!-~]{0,20}$/),
      host: fc.stringMatching(/^[!-~]{1,20}$/),
      status: some(
        fc
          .tuple(fc.integer({ min: 100, max: 599 }), fc.integer({ min: 100, max: 599 }))
          .map(([a, b]) => ({ from: Math.min(a, b), to: Math.max(a, b) })),
      ),
      send: fc.constantFrom("ping", "hex:00Ff", "hex", "é"),
      expect: fc.constantFrom("pong", "hex:00"),
    },
    { requiredKeys: [] },
  ),
};

const pool = fc.record(
  {
    name,
    to,
    upstream: some(
      fc.record(
        {
          name,
          to: fc.oneof(fc.constant("original" as const), upstream),
          weight: fc.integer({ min: 0, max: 256 }),
          backup: fc.boolean(),
          "slow-start": time,
        },
        { requiredKeys: [] },
      ),
    ),
    ...poolDefaults,
  },
  { requiredKeys: [] },
);

const service = fc.record(
  {
    name,
    listen: some(
      fc.record({
        protocol: fc.constantFrom("tcp" as const, "udp" as const),
        address: fc.option(anyAddress, { nil: undefined }),
        ports: range,
      }),
    ),
    pool: name,
    to,
    capture: fc.record(
      {
        dst: some(network),
        src: some(network),
        dport: some(range),
        in: some(fc.constantFrom("eth0", "eth*", "lo")),
        family: fc.constantFrom("4", "6", "both"),
        local: fc.boolean(),
        bypass: some(network),
        "bypass-private": fc.boolean(),
        "guard-mark": mark,
        "guard-uid": identities,
        "guard-gid": identities,
        "guard-cgroup": some(fc.stringMatching(/^[ -~]{1,20}$/)),
      },
      { requiredKeys: [] },
    ),
    ...shared,
    "log-level": level,
  },
  { requiredKeys: [] },
);

/** Settings of all kinds, whether they contradict each other or not. */
export const anySettings = fc.record(
  {
    version: count,
    workers: fc.oneof(fc.integer({ min: 1, max: 64 }), fc.constant("auto" as const)),
    "drain-timeout": ms,
    user: fc.stringMatching(/^[ -~]{1,10}$/),
    "strict-limits": fc.boolean(),
    admin: fc.record(
      {
        socket: fc.constantFrom("/run/tproxy/admin.sock", "none"),
        mode: fc.nat(0o777),
        group: fc.constantFrom("www-data", 33),
        "read-only-socket": fc.constantFrom("/run/tproxy/stats.sock", "none"),
      },
      { requiredKeys: [] },
    ),
    include: some(fc.stringMatching(/^[ -~]{1,20}$/)),
    metrics: fc.record({
      listen: fc.constantFrom(
        ...["127.0.0.1:9117", "[::1]:9117", "*:0"].map((text) => {
          const parsed = parseEndpoint(text, { portZero: true });
          if (!parsed.ok) throw new Error(parsed.error);
          return parsed.value;
        }),
      ),
      hosts: some(fc.constantFrom("localhost:9117", "metrics.example")),
    }),
    log: fc.record(
      {
        level,
        format: fc.constantFrom("auto", "text", "json", "journal"),
        time: fc.constantFrom("local", "utc", "none"),
        lossless: fc.boolean(),
        connections: fc.constantFrom("all", "failed", "none"),
        sample: count,
        file: fc.stringMatching(/^\/[a-z]{1,20}$/),
      },
      { requiredKeys: [] },
    ),
    routes: fc.record(
      {
        install: fc.constantFrom("auto", "none"),
        mark,
        table: fc.integer({ min: 1, max: 0xffffffff }),
        priority: fc.integer({ min: 1, max: 32765 }),
        "table-name": fc.constantFrom("tproxyd", "tproxyd-lan"),
        sysctl: fc.boolean(),
      },
      { requiredKeys: [] },
    ),
    defaults: fc.record({ ...shared, ...poolDefaults }, { requiredKeys: [] }),
    pool: fc.array(pool, { maxLength: 3 }),
    service: fc.array(service, { maxLength: 3 }),
  },
  { requiredKeys: [] },
) as unknown as fc.Arbitrary<Settings>;

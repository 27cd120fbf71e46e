/** What keeps a service from the kernel path, and which setting that is. */

import { describe, expect, test } from "bun:test";
import { type PathFacts, pathObstacles } from "../../../src/config/kernel-path.ts";
import { complete, type Service } from "../../../src/config/service.ts";
import type { ServiceSettings } from "../../../src/config/settings.ts";
import { parseAddress } from "../../../src/net/address.ts";
import { parseTarget } from "../../../src/net/target.ts";

const address = (text: string) => {
  const parsed = parseAddress(text);
  if (!parsed.ok) throw new Error(parsed.error);
  return parsed.value;
};

const to = (text: string) => {
  const parsed = parseTarget(text);
  if (!parsed.ok) throw new Error(parsed.error);
  return parsed.value;
};

/** A service that the kernel can carry, with these settings. */
function service(settings: ServiceSettings = {}): Service {
  const listen = [{ protocol: "tcp", address: undefined, ports: { from: 80, to: 80 } }];
  const own = { listen, to: [to("192.0.2.9:80")], path: "auto", ...settings } as ServiceSettings;
  const [completed] = complete({ service: [own] }).services;
  return completed as Service;
}

const facts: PathFacts = {
  installs: true,
  families: [4],
  upstreams: [address("192.0.2.9")],
  forwards: [4],
  isOwn: () => false,
};

const settingsOf = (of: Service, around: Partial<PathFacts> = {}) =>
  pathObstacles(of, { ...facts, ...around }).map(({ setting }) => setting);

describe("obstacles of the kernel path", () => {
  test("a plain service has none", () => {
    expect(settingsOf(service())).toEqual([]);
    expect(settingsOf(service({ balance: "source-hash", source: { kind: "self" } }))).toEqual([]);
  });

  const settings: readonly ServiceSettings[] = [
    { "accept-proxy": true },
    { "send-proxy": "v2" },
    { to: ["original"] },
    { redirect: true },
    { "source-fallback": "self" },
    { "socket-mark": 7 as never },
    { keepalive: 10_000 },
    { "user-timeout": 10_000 },
    { "client-first": true },
    { "fast-open": true },
    { "max-connections": 10 },
    { "max-connections-per-client": 10 },
    { "connection-rate-per-client": 10 },
    { "max-sessions": 10 },
    { "max-sessions-per-client": 10 },
    { "session-rate-per-client": 10 },
  ];
  for (const each of settings) {
    const [name = ""] = Object.keys(each);
    test(name, () => expect(settingsOf(service(each))).toEqual([name]));
  }

  test("the surroundings", () => {
    expect(settingsOf(service(), { installs: false })).toEqual(["routes"]);
    expect(settingsOf(service(), { families: [4, 6] })).toEqual(["family"]);
    expect(settingsOf(service(), { upstreams: [address("127.0.0.1")] })).toEqual(["to"]);
    const zoned = { families: [6] as const, upstreams: [{ ...address("fe80::1"), zone: "eth0" }] };
    expect(settingsOf(service(), { ...zoned, forwards: [6] })).toEqual(["to"]);
  });

  test("a host that does not forward, unless the upstream is on it", () => {
    const around = { forwards: [] };
    expect(pathObstacles(service(), { ...facts, ...around })).toEqual([
      { setting: undefined, why: "this host does not forward IPv4 (net.ipv4.ip_forward)" },
    ]);
    expect(settingsOf(service(), { ...around, isOwn: () => true })).toEqual([]);
  });
});

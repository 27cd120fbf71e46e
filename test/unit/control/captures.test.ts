import { describe, expect, test } from "bun:test";
import { formatMessage } from "@optique/core/message";
import { parse } from "@optique/core/parser";
import { drainPlan } from "../../../src/capture/plan/drain.ts";
import { single } from "../../../src/capture/plan/joint-plan.ts";
import { forwardCommand } from "../../../src/cli/options/forward.ts";
import { settingsOf } from "../../../src/cli/options/forward-settings.ts";
import { inFlags } from "../../../src/cli/words/service.ts";
import { issueLine } from "../../../src/cli/words/settings.ts";
import { checkSettings } from "../../../src/config/check.ts";
import { complete, type Service } from "../../../src/config/service.ts";
import { bindAddress } from "../../../src/control/endpoints.ts";
import { captureRequest, intentOf, socketMark } from "../../../src/control/server/captures.ts";
import { nothingToCapture } from "../../../src/control/server/issues.ts";

/** What `forward` with these arguments would capture. @throws UsageError */
function capture(line: string, protocols: ("tcp" | "udp")[] = ["tcp"]) {
  const parsed = parse(forwardCommand, ["forward", ...line.split(" ")]);
  if (!parsed.success) throw new Error(formatMessage(parsed.error));
  const settings = settingsOf(parsed.value);
  const [issue] = checkSettings(settings, { cores: 1 });
  if (issue !== undefined) throw new Error(issueLine(issue));
  const { services, routes } = complete(settings);
  const [service] = services as [Service];
  const listeners = service.listen.map(({ endpoint }) => bindAddress(endpoint));
  const isOwn = (address: Uint8Array) => [10, 127, 0xfd].includes(address[0] as number);
  try {
    const request = captureRequest(service, routes);
    const captured = { listeners, protocols, backends: undefined, isOwn };
    const intent = intentOf(service, request, captured);
    if (intent === undefined) throw nothingToCapture(service);
    return { intent, mark: socketMark(service, [intent]) };
  } catch (error) {
    throw inFlags(error);
  }
}

const auto = (line: string) => capture(`--to 192.0.2.9:80 --routes auto ${line}`);
const ports = (...list: number[]) => list.map((port) => ({ from: port, to: port }));

describe("what is captured", () => {
  test.each([
    [":80", { families: [4], ports: ports(80), toPort: undefined, replyPath: true }],
    ["[::]:80", { families: [4, 6], ports: ports(80), toPort: undefined }],
    [":80 :443", { families: [4], ports: ports(80, 443), toPort: undefined }],
    [":80 --dport 80", { ports: ports(80), toPort: undefined }],
    [":50080 --dport 80,443", { ports: ports(80, 443), toPort: 50080, toAddresses: [] }],
    ["127.0.0.1:80 --dport 80", { toPort: 80, toAddresses: [{ family: 4 }] }],
    ["10.0.0.1:80 --in eth0", { captures: true, ports: ports(80), toPort: 80 }],
    ["10.0.0.1:80", { captures: false, replyPath: true, families: [4], protocols: ["tcp"] }],
    ["10.0.0.1:80 :443", { captures: true, ports: ports(443), toPort: undefined }],
    ["8.8.8.8:80", { destinations: [{ prefix: 32 }], ports: ports(80), toPort: undefined }],
    ["8.8.8.8:80 8.8.4.4:80", { destinations: [{}, {}], ports: ports(80), toPort: undefined }],
    ["[2001:db8::9]:80", { destinations: [{ family: 6, prefix: 128 }], families: [6] }],
    ["[::]:80 --dst 10.0.0.0/8", { families: [4] }],
    ["[::]:80 --family 6", { families: [6] }],
    [":80 --source self", { replyPath: true }],
    [":80 --source self --redirect", { replyPath: false }],
    [":50080 --redirect --source self --dport 80", { redirect: true, toPort: 50080 }],
    [":80 --source 192.0.2.77", { replyPath: true }],
    [":80 --mark 2/2 --table 7 --in eth0", { mark: { value: 2, mask: 2 }, table: 7 }],
  ])("%s", (line, expected) => {
    expect(auto(line).intent).toMatchObject(expected as object);
  });

  test("UDP: by TPROXY, which knows all fragments, as long as one port is enough", () => {
    const udp = (line: string) => capture(`--to 192.0.2.9:80 --routes auto ${line}`, ["udp"]);
    expect(udp("[::]:53").intent).toMatchObject({ ports: ports(53), toPort: 53 });
    expect(udp(":53 :5353").intent).toMatchObject({ ports: ports(53, 5353), toPort: undefined });
    const foreign = { destinations: [{ prefix: 32 }], toPort: 53, toAddresses: [{ family: 4 }] };
    expect(udp("8.8.8.8:53").intent).toMatchObject(foreign);
    expect(udp("10.0.0.1:53").intent).toMatchObject({ captures: false, protocols: ["udp"] });
  });

  test("--local: our own connections have a mark, and are left alone by it", () => {
    expect(auto(":80 --source self").mark).toBeUndefined();
    const { intent, mark } = auto(":80 --source self --local");
    expect(intent.guards.mark).toEqual({ value: 2, mask: 2 } as never);
    expect(mark).toBe(2 as never);
    expect(auto(":80 --local --mark 0x3/0x3").mark).toBe(4 as never);
    expect(auto(":80 --local --guard-uid 33").mark).toBeUndefined();
    expect(auto(":80 --local --guard-mark 0x10/0x30 --socket-mark 0x60").mark).toBe(0x50 as never);
  });
});

test.each([
  ["[::1]:80 --family 4", "The rules capture IPv4, and no listener accepts it"],
  [
    ":80 --dst 2001:db8::/32",
    'The rules capture IPv6, and no listener accepts it: give "[::]:PORT"',
  ],
  ["10.0.0.1:80 --source self", "--routes has no rules to install: packets to an address of"],
  ["10.0.0.1:80 --redirect --source self", "--routes has no rules to install"],
  [":80 [fd00::1]:443", "cannot capture for IPv6, where listeners have addresses of this"],
  ["8.8.8.8:80 :443", "port 80 or port 443: give addresses with one port"],
  [":80 :443 --dport 8080", "port 80 or port 443: give addresses with one port"],
  [":80 --no-transparent", "--routes and --no-transparent exclude each other"],
  [
    ":80 --redirect --source client",
    '--source "client" excludes --redirect, which brings no replies back',
  ],
  [":80 --local --mark 1", '--mark "0x1" leaves none'],
  [":80 --socket-mark 0x3", '--socket-mark "0x3" contains the mark 0x1/0x1'],
  [":80 --guard-uid 33", "add --local"],
])("refused: %s", (line, message) => {
  expect(() => auto(line)).toThrow(message);
});

test("options of routes without --routes are refused, rather than ignored", () => {
  const without = (options: string) => () => capture(`--to 192.0.2.9:80 :80 ${options}`);
  expect(without("--dport 80")).toThrow("--dport needs --routes auto");
  expect(without("--guard-uid 1")).toThrow("--guard-uid needs --routes auto");
  expect(without("--mark 2")).toThrow("the mark of our own sockets is --socket-mark");
  expect(without("--redirect")).not.toThrow("needs --routes auto");
});

describe("while open connections come to their end", () => {
  const drained = (line: string) =>
    drainPlan(single(auto(line).intent), "tproxyd_draining_7").firewall;
  const rules = (line: string) =>
    drained(line).chains.flatMap((chain) => chain.rules.map(({ purpose }) => purpose));

  test("only what belongs to them is delivered, whoever's address upstreams see", () => {
    const kept: ReturnType<typeof rules> = ["reply path", "errors"];
    expect(rules("[::]:80")).toEqual(["reply path", "reply path", "errors", "errors"]);
    expect(rules(":80 --source self --bypass 10.0.0.0/8")).toEqual(kept);
    expect(rules("10.0.0.1:80")).toEqual(kept);
  });

  test("the table has another name: the next process can have this one's", () => {
    expect(drained(":80").name).toBe("tproxyd_draining_7");
  });

  test("NAT keeps its chains and a rule that has connections tracked, in each family", () => {
    const tracking = { purpose: "drain", matches: [{ kind: "reply" }] };
    expect(drained("[::]:80 --redirect --source self --local").chains).toMatchObject([
      { name: "prerouting", type: "nat", rules: [tracking, tracking] },
      { name: "output", type: "nat", rules: [tracking, tracking] },
    ]);
  });

  test("what this host sends keeps its rules", () => {
    expect(rules(":80 --local")).toContain("capture");
  });
});

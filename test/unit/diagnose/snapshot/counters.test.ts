import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  counterNames,
  countersMoved,
  hasListener,
  parseCounters,
} from "../../../../src/diagnose/snapshot/counters.ts";

const snmp = `Ip: Forwarding DefaultTTL InReceives InAddrErrors
Ip: 2 64 21905 3
Tcp: RtoAlgorithm MaxConn InSegs OutRsts
Tcp: 1 -1 21075 187
`;
const netstat = `TcpExt: SyncookiesSent ListenDrops
TcpExt: 0 4
IpExt: InNoRoutes InTruncatedPkts
IpExt: 5 0
`;
const snmp6 = `Ip6InReceives                   	12
Ip6InNoRoutes                   	1
`;

describe("parseCounters", () => {
  test("reads the three files as one", () => {
    const counters = parseCounters(snmp + netstat + snmp6);
    expect(Object.fromEntries(counters)).toEqual({
      IpForwarding: 2,
      IpDefaultTTL: 64,
      IpInReceives: 21905,
      IpInAddrErrors: 3,
      TcpRtoAlgorithm: 1,
      TcpMaxConn: -1,
      TcpInSegs: 21075,
      TcpOutRsts: 187,
      TcpExtSyncookiesSent: 0,
      TcpExtListenDrops: 4,
      IpExtInNoRoutes: 5,
      IpExtInTruncatedPkts: 0,
      Ip6InReceives: 12,
      Ip6InNoRoutes: 1,
    });
  });

  test("skips lines that do not belong together", () => {
    expect(parseCounters("Ip: A B\nTcp: 1 2\nIp: 3 4\nIp: A\nIp: 1 2\nx y z\n\nname\n").size).toBe(
      0,
    );
  });

  test("reads back what it is written as", () => {
    const name = fc.stringMatching(/^[A-Z][A-Za-z0-9]{0,12}$/);
    const group = fc.dictionary(name, fc.nat(), { minKeys: 1, noNullPrototype: true });
    fc.assert(
      fc.property(fc.dictionary(name, group, { noNullPrototype: true }), (groups) => {
        const entries = Object.entries(groups);
        const text = entries
          .flatMap(([prefix, of]) =>
            [Object.keys(of), Object.values(of)].map((w) => `${prefix}: ${w.join(" ")}`),
          )
          .join("\n");
        const counters = parseCounters(text);
        // Two groups can make one name: "A" with "BC" and "AB" with "C". The last one counts.
        const expected = new Map(
          entries.flatMap(([prefix, of]) =>
            Object.entries(of).map(([key, value]): [string, number] => [`${prefix}${key}`, value]),
          ),
        );
        expect([...counters].sort()).toEqual([...expected].sort());
      }),
    );
  });

  test("takes any text", () => {
    fc.assert(fc.property(fc.string(), (text) => void parseCounters(text)));
  });

  test("knows the counters of this kernel", async () => {
    const files = ["snmp", "netstat", "snmp6"].map((name) => Bun.file(`/proc/net/${name}`).text());
    const counters = parseCounters((await Promise.all(files)).join("\n"));
    for (const name of Object.values(counterNames[4])) expect(counters.has(name)).toBe(true);
  });
});

test("countersMoved tells the difference, of IPv6 without multicast", () => {
  const before = new Map([
    ["IpInReceives", 10],
    ["Ip6InReceives", 10],
    ["Ip6InMcastPkts", 1],
    ["TcpOutRsts", 7],
  ]);
  const after = new Map([
    ["IpInReceives", 12],
    ["IpInAddrErrors", 1],
    ["Ip6InReceives", 15],
    ["Ip6InMcastPkts", 4],
    ["TcpOutRsts", 8],
  ]);
  expect(countersMoved(4, before, after)).toMatchObject({
    received: 2,
    addressErrors: 1,
    resets: 1,
    forwarded: 0,
  });
  expect(countersMoved(6, before, after)).toMatchObject({
    received: 2,
    addressErrors: 0,
    resets: 1,
  });
});

describe("hasListener", () => {
  const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:1F90 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 2
   2: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 0 0
`;
  const rows: [port: number, expected: boolean][] = [
    [80, true],
    [443, true],
    [8080, false],
    [0x50bb, false],
    [0, false],
  ];
  for (const [port, expected] of rows) {
    test(`${port}`, () => expect(hasListener(tcp, port)).toBe(expected));
  }
});

import { describe, expect, test } from "bun:test";
import { AF_INET } from "../../../../ffi/constants.ts";
import { EHOSTUNREACH, ENETUNREACH } from "../../../../ffi/errno.ts";
import { RTN_LOCAL, RTN_UNICAST } from "../../../../ffi/netlink/constants.ts";
import type { Mark } from "../../../../ffi/types.ts";
import {
  diagnosePath,
  type PathObservations,
  type PathStep,
  pathSteps,
  type RouteAnswer,
  selectsMark,
} from "../../../../src/diagnose/probe/path.ts";
import { counterNames } from "../../../../src/diagnose/snapshot/counters.ts";

const mark = { value: 1 as Mark, mask: 1 };
const nowhere: RouteAnswer = { kind: "error", errno: EHOSTUNREACH };
const here: RouteAnswer = { kind: "route", type: RTN_LOCAL, table: 100 };
const away: RouteAnswer = { kind: "route", type: RTN_UNICAST, table: 254 };
const still = {
  received: 1,
  addressErrors: 0,
  noRoutes: 0,
  forwarded: 0,
  segments: 0,
  resets: 0,
  answersUnrouted: 0,
  listenDrops: 0,
};

/** All in place, and yet the client has no connection. */
const whole: PathObservations = {
  family: 4,
  destination: "8.8.8.8",
  port: 80,
  mark,
  connected: false,
  marking: { rules: 1, packets: 1 },
  unmarked: nowhere,
  marked: here,
  selecting: [{ priority: 100, table: 100, hasLocalRoute: true }],
  listener: { transparent: true },
  counters: still,
  counterNames: counterNames[4],
};

const dropped = { ...still, addressErrors: 1 };

const table: readonly [
  what: string,
  seen: Partial<PathObservations>,
  step: PathStep,
  reason: string,
][] = [
  ["the client is connected", { connected: true }, "delivered", "The client has its connection."],
  [
    "connected, whatever else is odd",
    { connected: true, listener: undefined, counters: dropped },
    "delivered",
    "The client has its connection.",
  ],
  [
    "nothing has come in",
    { counters: { ...still, received: 0 }, marking: { rules: 1, packets: 0 } },
    "arrival",
    "No packet for 8.8.8.8 has arrived here.",
  ],
  [
    "no firewall rule",
    { marking: { rules: 0, packets: 0 }, counters: dropped },
    "mark",
    "No firewall rule sets mark 0x1/0x1. So 8.8.8.8 is not this host's, and the packet is " +
      "dropped (IpInAddrErrors +1).",
  ],
  [
    "a firewall rule that matches something else, on a router",
    {
      marking: { rules: 1, packets: 0 },
      unmarked: away,
      counters: { ...still, forwarded: 2 },
    },
    "mark",
    "The firewall rule that sets mark 0x1/0x1 has matched no packet. So the packet is forwarded " +
      "by table 254 (IpForwDatagrams +2).",
  ],
  [
    "a router that knows no way",
    {
      marking: { rules: 0, packets: 0 },
      unmarked: { kind: "error", errno: ENETUNREACH },
      counters: { ...still, noRoutes: 1 },
    },
    "mark",
    "No firewall rule sets mark 0x1/0x1. So 8.8.8.8 is not this host's, and the packet is " +
      "dropped (IpExtInNoRoutes +1).",
  ],
  [
    "no ip rule",
    { marked: nowhere, selecting: [], counters: dropped },
    "rule",
    "No ip rule asks for mark 0x1/0x1. So 8.8.8.8 is not this host's, and the packet is dropped " +
      "(IpInAddrErrors +1).",
  ],
  [
    "an ip rule before ours has the say",
    { marked: away, counters: { ...still, forwarded: 1 } },
    "rule",
    "Another ip rule comes before the one for mark 0x1/0x1. So the packet is forwarded by table " +
      "254 (IpForwDatagrams +1).",
  ],
  [
    "an empty table",
    {
      marked: nowhere,
      selecting: [{ priority: 100, table: 100, hasLocalRoute: false }],
      counters: dropped,
    },
    "route",
    "Ip rule 100 sends mark 0x1/0x1 to table 100, which has no local route for 8.8.8.8. So " +
      "8.8.8.8 is not this host's, and the packet is dropped (IpInAddrErrors +1).",
  ],
  [
    "an unreachable route is no local one, and nothing was counted",
    {
      marked: { kind: "route", type: 7, table: 100 },
      selecting: [{ priority: 7, table: 100, hasLocalRoute: false }],
    },
    "route",
    "Ip rule 7 sends mark 0x1/0x1 to table 100, which has no local route for 8.8.8.8. So 8.8.8.8 " +
      "is not this host's, and the packet is dropped.",
  ],
  [
    "no listener",
    { listener: undefined, counters: { ...still, segments: 1, resets: 1 } },
    "socket",
    "Nothing listens on port 80, and the reset (TcpOutRsts +1) cannot leave from there.",
  ],
  [
    "no listener, IPv6",
    {
      family: 6,
      counterNames: counterNames[6],
      listener: undefined,
      counters: { ...still, segments: 1, resets: 1 },
    },
    "socket",
    "Nothing listens on port 80: reset (TcpOutRsts +1).",
  ],
  [
    "no listener on an address that needs no mark",
    { unmarked: here, marking: { rules: 0, packets: 0 }, listener: undefined },
    "socket",
    "Nothing listens on port 80.",
  ],
  [
    "a listener that is full",
    { counters: { ...still, segments: 1, listenDrops: 3 } },
    "socket",
    "The listener took no more connections (TcpExtListenDrops +3).",
  ],
  [
    "a listener without the option",
    {
      listener: { transparent: false },
      counters: { ...still, segments: 1, answersUnrouted: 1, listenDrops: 1 },
    },
    "answer",
    "The listener has the packet, but without IP_TRANSPARENT its SYN-ACK finds no route from " +
      "8.8.8.8 (IpOutNoRoutes +1).",
  ],
  [
    "a listener that does not know the way back",
    { counters: { ...still, segments: 1, answersUnrouted: 1 } },
    "answer",
    "The listener has the packet, but its SYN-ACK finds no route from 8.8.8.8 (IpOutNoRoutes +1).",
  ],
  [
    "the answer is lost elsewhere",
    { counters: { ...still, segments: 1 } },
    "answer",
    "The listener has the packet; no answer reached the client.",
  ],
];

describe("diagnosePath:", () => {
  for (const [what, seen, step, reason] of table) {
    test(what, () => {
      const verdict = diagnosePath({ ...whole, ...seen });
      expect(verdict).toMatchObject({ step, reason });
    });
  }

  test("every step is found by some row", () => {
    expect(new Set(table.map(([, , step]) => step))).toEqual(new Set(pathSteps));
  });

  test("all facts are in the evidence", () => {
    const seen = { ...whole, unmarked: away, counters: { ...still, segments: 2 } };
    expect(diagnosePath(seen).evidence).toEqual([
      "firewall rules that set mark 0x1/0x1: 1, packets 1",
      "route look-up: unicast, table 254",
      "route look-up with the mark: local, table 100",
      "ip rules for the mark: 100 to table 100 (local route: yes)",
      "listener on port 80: IP_TRANSPARENT 1",
      "counters: IpInReceives +1, TcpInSegs +2",
    ]);
    const bare = { selecting: [], listener: undefined, counters: { ...still, received: 0 } };
    expect(diagnosePath({ ...whole, ...bare }).evidence.slice(3)).toEqual([
      "ip rules for the mark: none",
      "listener on port 80: none",
      "counters: none",
    ]);
  });
});

describe("selectsMark:", () => {
  const rule = (value: object) => ({ family: AF_INET, table: 100, ...value });
  const rows: [rule: object, value: number, expected: boolean][] = [
    [{ mark: 1, mask: 1 }, 1, true],
    [{ mark: 1, mask: 1 }, 3, true],
    [{ mark: 1, mask: 0xffffffff }, 3, false],
    [{ mark: 1 }, 1, true],
    [{ mark: 0x80000000, mask: 0x80000000 }, 0x80000001, true],
    [{ mark: 2, mask: 2 }, 1, false],
    [{ mark: 1, mask: 1, invert: true }, 1, false],
    [{}, 1, false],
  ];
  for (const [selector, value, expected] of rows) {
    test(`${JSON.stringify(selector)} and mark ${value}`, () => {
      const of = { value: value as Mark, mask: 0xffffffff };
      expect(selectsMark(rule(selector), of)).toBe(expected);
    });
  }
});

/** Every check of a packet's way: a sound path has no failure, and each fault has its sentence. */

import { describe, expect, test } from "bun:test";
import { AF_INET } from "../../../../ffi/constants.ts";
import { EHOSTUNREACH, EINVAL, EPERM } from "../../../../ffi/errno.ts";
import { RT_TABLE_LOCAL, RTN_LOCAL, RTN_UNICAST } from "../../../../ffi/netlink/constants.ts";
import { type InetSocket, TCP_CLOSE, TCP_LISTEN } from "../../../../ffi/netlink/diag.ts";
import type { Link } from "../../../../ffi/netlink/link.ts";
import type { Route } from "../../../../ffi/netlink/route.ts";
import type { Rule } from "../../../../ffi/netlink/rule.ts";
import type { Mark } from "../../../../ffi/types.ts";
import { judgePath, sideChecks, wayChecks } from "../../../../src/diagnose/checks/path.ts";
import { freshState } from "../../../../src/diagnose/nft-evaluator/state.ts";
import { isAccepted, type PacketTrace } from "../../../../src/diagnose/nft-evaluator/walk.ts";
import type { RouteLookup } from "../../../../src/diagnose/snapshot/host.ts";
import type { PathFacts } from "../../../../src/diagnose/snapshot/path-facts.ts";
import { ip } from "../../../helpers/addresses.ts";

const [p0, u0] = [2, 3];
const route = (type: number, table: number, oif = 1): Route => {
  return { family: AF_INET, type, table, protocol: 4, oif };
};
const rule = (priority: number, table: number, changes: Partial<Rule> = {}): Rule => {
  return { family: AF_INET, priority, table, ...changes };
};
const answer = (found: Route): RouteLookup => ({ kind: "route", route: found });
const refused = (errno: number): RouteLookup => ({ kind: "error", errno });

const local = rule(0, RT_TABLE_LOCAL);
const ours = rule(100, 100, { mark: 1, mask: 1 });
const main = rule(32766, 254);
const localRoute = route(RTN_LOCAL, 100);
const forwarded = answer(route(RTN_UNICAST, 254, u0));

const socket = (changes: Partial<InetSocket> = {}): InetSocket => ({
  family: AF_INET,
  state: TCP_LISTEN,
  local: ip("0.0.0.0"),
  localPort: 50080,
  remote: ip("0.0.0.0"),
  remotePort: 0,
  device: 0,
  uid: 0,
  inode: 7,
  transparent: true,
  ...changes,
});

const touch = { rule: "inet tproxyd prerouting handle 3", comment: "capture" };
const through: PacketTrace = {
  ...freshState(1),
  verdict: "accept",
  dropped: undefined,
  others: [],
};
const passage: PacketTrace = {
  ...through,
  marking: [{ ...touch, mark: 1 }],
  tproxy: { ...touch, port: 50080, address: undefined },
};
/** A rule that drops, or marks, or neither: which cannot be told. */
const other = { rule: "inet other c handle 9", base: "inet other c" };
const doubts = [{ ...other, reason: "a set", branch: "match" }];
const stopped: PacketTrace = { ...through, verdict: "drop", dropped: other };
const doubtful: PacketTrace = { ...through, doubts, others: [{ ...stopped, doubts }] };
const missed = { ...passage, tproxy: undefined, missed: passage.tproxy };
const uncaptured = { ...passage, mark: 0, marking: [], tproxy: undefined };

const sound: PathFacts = {
  packet: {
    protocol: "tcp",
    source: { family: 4, bytes: ip("10.9.0.2") },
    destination: { family: 4, bytes: ip("8.8.8.8") },
    port: 80,
    iif: "p0",
    destinationType: RTN_UNICAST,
  },
  capture: { mark: { value: 1 as Mark, mask: 1 }, table: 100, priority: 100, toPort: 50080 },
  passage,
  rank: isAccepted,
  input: through,
  later: { passage, input: through },
  legacyTables: [],
  tables: { rules: [local, ours, main], routes: [localRoute] },
  mark: 1,
  unmarked: forwarded,
  marked: answer(localRoute),
  decision: { rule: ours, route: localRoute },
  back: answer(route(RTN_UNICAST, 254, p0)),
  answer: { route: answer(route(RTN_UNICAST, 254, p0)), output: through, out: through },
  isSourceLocalByMark: true,
  isSourceLocal: false,
  settings: { rpFilter: 0, srcValidMark: false, acceptLocal: false, routeLocalnet: false },
  loUp: true,
  bridgeCall: false,
  link: { index: p0, name: "p0", up: true, running: true, loopback: false, kind: "veth" },
  master: undefined,
  wanted: { protocol: "tcp", address: ip("10.9.0.1"), port: 50080, iif: p0 },
  sockets: [socket()],
  names: new Map([
    [1, "lo"],
    [p0, "p0"],
    [u0, "u0"],
  ]),
  chains: [],
};
const judge = (changes: Partial<PathFacts>) =>
  judgePath({ ...sound, ...changes }, [...wayChecks, ...sideChecks]);

const dropped = { marked: refused(EINVAL) };
const udp = { ...sound.packet, protocol: "udp", port: 53 } as const;
const udpWanted = { ...sound.wanted, protocol: "udp", port: 50053 } as const;
const udpSocket = socket({ state: TCP_CLOSE, localPort: 50053 });

const faults: [name: string, changes: Partial<PathFacts>, severity: string, text: RegExp][] = [
  ["the rules cannot be read", { passage: undefined }, "unknown", /without CAP_NET_ADMIN/],
  ["another rule drops", { passage: { ...passage, dropped: touch } }, "failure", /drops it/],
  ["no rule marks", { passage: uncaptured }, "failure", /No firewall rule sets mark 0x1\/0x1/],
  [
    "no rule marks, but not all is seen",
    { passage: uncaptured, legacyTables: ["mangle"] },
    "unknown",
    /iptables-legacy/,
  ],
  [
    "a rule may mark",
    { passage: { ...uncaptured, doubts, others: [{ ...stopped, doubts }] } },
    "unknown",
    /Whether it is captured depends on rule inet other c handle 9.*: a set/,
  ],
  [
    "the mark is overwritten",
    { passage: { ...passage, mark: 0, marking: [...passage.marking, { rule: "x", mark: 0 }] } },
    "failure",
    /rule x comes after it and leaves 0x0/,
  ],
  [
    "TPROXY to another port",
    { passage: { ...passage, tproxy: { ...touch, port: 1, address: undefined } } },
    "failure",
    /to port 1 instead of to port 50080/,
  ],
  [
    "no ip rule",
    { marked: forwarded, tables: { rules: [local, main], routes: [] }, decision: undefined },
    "failure",
    /No ip rule asks for mark 0x1\/0x1.*routed on by u0, table 254/,
  ],
  [
    "a rule that wins",
    {
      marked: forwarded,
      tables: { rules: [local, rule(10, 200), ours], routes: [localRoute] },
      decision: { rule: rule(10, 200), route: route(RTN_UNICAST, 200, u0) },
    },
    "failure",
    /Ip rule 10 \(from all lookup 200\) comes before ip rule 100/,
  ],
  [
    "the wrong table",
    {
      marked: refused(EHOSTUNREACH),
      tables: { rules: [local, { ...ours, table: 101 }], routes: [] },
      decision: undefined,
    },
    "failure",
    /sends mark 0x1\/0x1 to table 101, not to table 100.*dropped \(EHOSTUNREACH\)/,
  ],
  [
    "no local route",
    { marked: forwarded, tables: { rules: [local, ours], routes: [] }, decision: undefined },
    "failure",
    /Table 100, .*has no local route for 8\.8\.8\.8\./,
  ],
  [
    "src_valid_mark",
    { ...dropped, settings: { ...sound.settings, srcValidMark: true } },
    "failure",
    /src_valid_mark is 1/,
  ],
  [
    "strict rp_filter",
    { ...dropped, settings: { ...sound.settings, rpFilter: 1 }, back: forwarded },
    "failure",
    /rp_filter is 1 \(strict\) on p0, but the route back to 10\.9\.0\.2 goes by u0/,
  ],
  [
    "rp_filter, and no way back",
    { ...dropped, settings: { ...sound.settings, rpFilter: 2 }, back: answer(localRoute) },
    "failure",
    /there is no route back/,
  ],
  ["a martian", { ...dropped, isSourceLocal: true }, "failure", /accept_local is 0 on p0/],
  [
    "127.0.0.1 from outside",
    { ...dropped, packet: { ...sound.packet, source: { family: 4, bytes: ip("127.0.0.1") } } },
    "failure",
    /route_localnet is 0/,
  ],
  [
    "127.0.0.1 asked for from outside",
    { ...dropped, packet: { ...sound.packet, destination: { family: 4, bytes: ip("127.0.0.1") } } },
    "failure",
    /A packet to 127\.0\.0\.1 may not come in by p0: route_localnet is 0/,
  ],
  ["refused for no known reason", dropped, "failure", /refuses 10\.9\.0\.2 by p0: EINVAL/],
  ["no listener", { sockets: [], passage: missed }, "failure", /Nothing listens on tcp port 50080/],
  [
    "a listener elsewhere",
    { sockets: [socket({ local: ip("127.0.0.1") })], passage: missed },
    "failure",
    /ask for 10\.9\.0\.1:50080 .*bound to 127\.0\.0\.1:50080, so rule/,
  ],
  [
    "a listener on another device",
    { sockets: [socket({ device: u0 })], passage: missed },
    "failure",
    /0\.0\.0\.0:50080 on u0/,
  ],
  [
    "a listener that is not transparent",
    { sockets: [socket({ transparent: false })], passage: missed },
    "failure",
    /does not have IP_TRANSPARENT/,
  ],
  [
    "a kernel that does not tell",
    { sockets: [{ ...socket(), transparent: undefined } as unknown as InetSocket] },
    "unknown",
    /does not tell whether/,
  ],
  ["a blackhole", { back: refused(EINVAL) }, "failure", /finds no route to 10\.9\.0\.2: EINVAL/],
  [
    "mark overlap",
    {
      tables: {
        rules: [...sound.tables.rules, rule(200, 52, { mark: 3, mask: 0xff })],
        routes: [],
      },
    },
    "warning",
    /Ip rule 200 \(fwmark 0x3\/0xff lookup 52\) reads bits of mark 0x1\/0x1/,
  ],
  [
    "a setting that cannot be read",
    { ...dropped, settings: { ...sound.settings, rpFilter: undefined } },
    "failure",
    /Its settings cannot be read here/,
  ],
  ["INPUT drops", { input: stopped }, "failure", /Rule inet other c handle 9 drops it on its way/],
  [
    "INPUT by its policy",
    { input: { ...stopped, dropped: { ...other, rule: "inet other c", isPolicy: true } } },
    "failure",
    /The policy of chain inet other c drops it/,
  ],
  [
    "INPUT may drop",
    { input: doubtful },
    "unknown",
    /let in depends on rule inet other c handle 9/,
  ],
  [
    "OUTPUT drops the answer",
    { answer: { ...sound.answer, output: stopped } },
    "failure",
    /handle 9 drops the SYN-ACK from 8\.8\.8\.8 on its way out/,
  ],
  [
    "POSTROUTING may drop the answer",
    { answer: { ...sound.answer, out: doubtful } },
    "unknown",
    /Whether the SYN-ACK from 8\.8\.8\.8 leaves depends on/,
  ],
  [
    "only first packets are let in",
    { later: { passage, input: stopped } },
    "failure",
    /drops the later packets/,
  ],
  [
    "only first packets are marked",
    { later: { passage: uncaptured, input: through } },
    "failure",
    /gets mark 0x1\/0x1 and the later ones do not/,
  ],
  [
    "a destination that NAT rewrites",
    { passage: { ...passage, rewritten: [{ ...other, side: "destination" }] } },
    "failure",
    /handle 9 rewrites its destination \(NAT\)/,
  ],
  [
    "a port of a bridge",
    { master: { ...sound.link, name: "br0", index: 9, kind: "bridge" } as Link },
    "failure",
    /p0 is a port of the bridge br0/,
  ],
  ["no such interface", { link: undefined }, "warning", /There is no interface p0 here/],
  [
    "a bridge whose settings cannot be read",
    { bridgeCall: undefined },
    "unknown",
    /Whether net\.bridge\.bridge-nf-call-iptables is 1 cannot be read/,
  ],
  ["a bridge", { bridgeCall: true }, "failure", /bridge-nf-call-iptables is 1 and p0 is a bridge/],
  [
    "a foreign wildcard socket",
    {
      packet: udp,
      wanted: udpWanted,
      sockets: [udpSocket, socket({ state: TCP_CLOSE, localPort: 53, transparent: false })],
    },
    "warning",
    /A socket on 0\.0\.0\.0:53 \(inode 7\).*EADDRINUSE/,
  ],
];

describe("judgePath", () => {
  test("a sound path has no finding but good ones", () => {
    expect(judge({}).map(({ severity }) => severity)).toEqual(["ok", "ok", "ok", "ok", "ok"]);
  });

  test.each(faults)("%s", (_, changes, severity, text) => {
    const found = judge(changes).filter((each) => each.severity !== "ok");
    expect(
      found.map((each) => [each.severity, text.test(each.text) ? "named" : each.text]),
    ).toEqual([[severity, "named"]]);
  });

  test("every failure says what repairs it, but for what has no name", () => {
    for (const [name, changes] of faults) {
      if (name === "refused for no known reason" || name === "another rule drops") continue;
      for (const each of judge(changes)) {
        if (each.severity === "failure" && !/handle|^Rule x/.test(each.text)) {
          expect(`${name}: ${each.repair}`).not.toEndWith("undefined");
        }
      }
    }
  });

  test("a refusal of the look-up itself is no local route", () => {
    const [, delivery] = judge({ marked: refused(EPERM), decision: undefined });
    expect(delivery?.severity).toBe("failure");
  });
});

import { describe, expect, test } from "bun:test";
import { parseIntent } from "../../../../src/capture/plan/intent.ts";
import { planLine } from "../../../../src/cli/words/plan.ts";
import { parseAddress } from "../../../../src/net/address.ts";
import { parseCidr } from "../../../../src/net/cidr.ts";

function cidr(text: string) {
  const result = parseCidr(text);
  if (!result.ok) throw new Error(result.error);
  return result.value;
}

function address(text: string) {
  const result = parseAddress(text);
  if (!result.ok) throw new Error(result.error);
  return result.value;
}

function answer(request: object): string {
  const result = parseIntent(request);
  return result.ok ? "accepted" : planLine(result.issue);
}

const ports = [{ from: 80, to: 80 }];
const mark = (value: number, mask = value) => ({ value, mask });
const loop = "--local would capture what the proxy itself sends, in a loop: add --guard-mark";

const cases: Readonly<Record<string, [what: string, request: object, message: string][]>> = {
  "loops of local capture": [
    ["without a guard", { local: true }, loop],
    ["with a backend that is captured", { local: true, backends: [backend("192.0.2.7")] }, loop],
    [
      "with a backend among the destinations",
      { local: true, destinations: [cidr("192.0.2.0/24")], backends: [backend("192.0.2.7")] },
      loop,
    ],
    ["with a mark", { local: true, guardMark: mark(2) }, "accepted"],
    ["with a user", { local: true, guardUids: [0] }, "accepted"],
    ["with a group", { local: true, guardGids: [0xfffffffe] }, "accepted"],
    ["with a control group", { local: true, guardCgroups: ["a.slice/b.service"] }, "accepted"],
    [
      "with backends that are bypassed",
      { local: true, bypass: [cidr("192.0.2.0/24")], backends: [backend("192.0.2.7")] },
      "accepted",
    ],
    [
      "with backends that are no destination",
      { local: true, destinations: [cidr("8.8.8.8")], backends: [backend("192.0.2.7")] },
      "accepted",
    ],
    [
      "with a backend on this host",
      { local: true, families: [4], backends: [backend("127.0.0.1")] },
      "accepted",
    ],
    ["a guard of nothing", { guardUids: [7] }, "a guard tells the proxy's own packets"],
    [
      "a guard's mark that the rule routes",
      { local: true, guardMark: mark(3) },
      'guard mark "0x3/0x3" has the mark 0x1/0x1 in it, by which packets are routed to the ' +
        'listener: give another, "0x2/0x2"',
    ],
    ["a guard's mark beside ours", { local: true, guardMark: mark(2, 0xffffffff) }, "accepted"],
  ],
  NAT: [
    ["without a port", { redirect: true }, "--redirect has no port to redirect to: add --to-port"],
    ["of udp", { redirect: true, toPort: 80, protocols: ["udp"] }, "--redirect cannot capture udp"],
    ["with a mark", { redirect: true, toPort: 80, mark: mark(1) }, "has no use for --mark"],
    ["with a table", { redirect: true, toPort: 80, table: 7 }, "has no use for --table"],
    ["with a priority", { redirect: true, toPort: 80, priority: 7 }, "no use for --priority"],
    ["with a reply path", { redirect: true, toPort: 80, replyPath: true }, "for --reply-path"],
    ["with a backend", { redirect: true, toPort: 80, backends: [backend("::1")] }, "--backend"],
    ["and a port", { redirect: true, toPort: 80 }, "accepted"],
    ["and local", { redirect: true, toPort: 80, local: true, guardUids: [1] }, "accepted"],
  ],
  "the listener's address": [
    ["without a port", { toAddresses: [address("127.0.0.1")] }, "--to-address has no port"],
    [
      "of one family for two",
      { families: [4, 6], toPort: 80, toAddresses: [address("127.0.0.1")] },
      "one address for each family that is captured, here IPv4 and IPv6",
    ],
    [
      "twice for one family",
      { ports, toPort: 80, toAddresses: [address("127.0.0.1"), address("127.0.0.2")] },
      "--to-address takes one address for each family",
    ],
    ["alone", { ports, toPort: 80, toAddresses: [address("::1")] }, "accepted"],
  ],
  "what is bypassed": [
    ["is all", { bypass: [cidr("0.0.0.0/0")] }, "nothing of IPv4 is left to capture"],
    [
      "is all in halves",
      { bypass: [cidr("::/1"), cidr("8000::/1")] },
      "nothing of IPv6 is left to capture",
    ],
    [
      "is every destination",
      { destinations: [cidr("10.1.0.0/16"), cidr("192.168.1.1")], bypassPrivate: true },
      'destination "10.1.0.0/16" is also to be bypassed',
    ],
    [
      "is one of the destinations",
      { destinations: [cidr("10.1.0.0/16"), cidr("8.8.8.8")], bypassPrivate: true },
      "accepted",
    ],
  ],
  "the reply path": [
    ["of udp to every port", { replyPath: true, protocols: ["udp"] }, "accepted"],
    ["of udp", { replyPath: true, protocols: ["udp"], ports }, "accepted"],
    ["alone", { replyPath: true }, "accepted"],
    ["alone, for a listener", { replyPath: true, toPort: 80 }, "--to-port has nothing to hand"],
  ],
  backends: [
    ["of a family that is not captured", { families: [6], backends: [backend("192.0.2.7")] }, "4"],
    ["here", { backends: [{ ...backend("192.0.2.7"), here: true }] }, 'port too, "192.0.2.7:80"'],
    ["here, of IPv6", { backends: [{ ...backend("fd00::1"), here: true }] }, '"[fd00::1]:80"'],
    [
      "here, with a port",
      { backends: [{ ...backend("fd00::1"), here: true, port: 80 }] },
      "accepted",
    ],
    ["of loopback", { backends: [backend("127.0.0.1"), backend("::1")] }, "accepted"],
    ["elsewhere", { backends: [backend("192.0.2.7")] }, "accepted"],
  ],
  settings: [
    ["of every interface", { ports, sysctl: true }, "accepted"],
    [
      "of lo, and of where replies come",
      { interfaces: ["lo"], replyPath: true, sysctl: true },
      "accepted",
    ],
    ["of lo", { interfaces: ["lo"], sysctl: true }, "--sysctl sets nothing here"],
    ["of IPv6", { families: [6], interfaces: ["eth0"], sysctl: true }, "--sysctl sets nothing"],
    ["of an interface", { interfaces: ["eth0"], sysctl: true }, "accepted"],
  ],
  names: [
    ["of what drops afterwards", { tableName: "tproxyd-a_closed" }, "is a name of tproxy's own"],
    ["of one that drains", { tableName: "tproxyd_draining_7" }, "is a name of tproxy's own"],
    ["of the lock", { tableName: "tproxyd_lock" }, "is a name of tproxy's own"],
    ["of a keyword", { tableName: "tproxy" }, '"tproxy" is not accepted: give a name that begins'],
    ["of a shell", { tableName: "tproxyd;id" }, "is not accepted: give a name that begins"],
    ["too long", { tableName: "tproxyd-of-the-department" }, "at most 20 letters"],
    ["of one's own", { tableName: "tproxyd-lan" }, "accepted"],
    ["of a group above", { local: true, guardCgroups: ["../x"] }, '"../x" is not a control group'],
    ["of a group below that", { local: true, guardCgroups: ["a/../b"] }, "is not a control group"],
    ["of an absolute group", { local: true, guardCgroups: ["/a"] }, "is not a control group"],
    ["of a group with quotes", { local: true, guardCgroups: ['a"b'] }, "is not a control group"],
    ["of nobody", { local: true, guardUids: [0xffffffff] }, '"4294967295" is not a user\'s id'],
    [
      "with a zone",
      { backends: [{ address: { ...address("fe80::1"), zone: "eth0" } }] },
      "not an address",
    ],
  ],
};

function backend(text: string) {
  return { address: address(text) };
}

for (const [title, each] of Object.entries(cases)) {
  describe(title, () => {
    test.each(each)("%s", (_, request, message) => {
      expect(answer(request)).toContain(message);
    });
  });
}

/** `explain` says what the kernel then does: bound, connected, or refused for the reason given. */

import { describe, expect } from "bun:test";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { testWith } from "../helpers/tools.ts";
import { type Case, program, testFault, topology } from "./doctor/set-up.ts";

const testTraffic = testWith(["ip", "nft", "nsenter", "socat", "curl"], {
  "network namespaces": canUnshare,
});

/** Asks `explain bind` and binds; both lines of every attempt. */
const attempts = `
attempt() {
  tproxy explain bind "$@" | tail -n 1
  tproxy bind "$@" --timeout 1ms > said 2>&1 && echo bound ||
    grep -o 'E[A-Z]\\{4,\\}' said | head -n 1
}`;

describe("explain bind and the kernel agree", () => {
  const binds: [args: string, setting: string, explained: RegExp, kernel: string][] = [
    ["8.8.8.8:80", "", /It will work: .*IP_TRANSPARENT/, "bound"],
    ["8.8.8.8:80 --no-transparent", "", /EADDRNOTAVAIL/, "EADDRNOTAVAIL"],
    ["8.8.8.8:80 --no-transparent --freebind", "", /It will work: .*IP_FREEBIND/, "bound"],
    [
      "8.8.8.8:80 --no-transparent",
      "sysctl -qw net.ipv4.ip_nonlocal_bind=1",
      /It will work: .*ip_nonlocal_bind is 1/,
      "bound",
    ],
    ["10.9.0.1:80 --no-transparent", "", /It will work: .*this host's/, "bound"],
    ["10.9.0.255:80 --no-transparent --udp", "", /It will work: .*RTN_BROADCAST/, "bound"],
    ["127.9.9.9:80 --no-transparent", "", /It will work: .*this host's/, "bound"],
    ["udp://10.9.0.1:53", "foreign UDP-RECV:53 0035 udp", /EADDRINUSE/, "EADDRINUSE"],
    ["[2001:db8::1]:80", "", /It will work: .*IP_TRANSPARENT/, "bound"],
    ["[2001:db8::1]:80 --no-transparent", "", /EADDRNOTAVAIL/, "EADDRNOTAVAIL"],
    ["[fd00:9::1]:80 --no-transparent", "", /It will work: .*this host's/, "bound"],
    ["[fe80::1]:80 --no-transparent", "", /EINVAL/, "EINVAL"],
  ];
  for (const [args, setting, explained, kernel] of binds) {
    testTraffic(`bind ${args}${setting === "" ? "" : ` after ${setting}`}`, async () => {
      const { stdout } = await inNamespace(`${topology}\n${attempts}\n${setting}\nattempt ${args}`);
      const [first, second] = stdout.trim().split("\n");
      expect(first).toMatch(explained);
      expect(second).toBe(kernel);
    });
  }
});

const accepts: readonly Case[] = [
  {
    name: "accept: nothing is captured",
    broken: "serve :80",
    ask: "explain accept 8.8.8.8:80 --in p0 --from 10.9.0.2",
    cause: /FAILURE +ip rule +8\.8\.8\.8 is not this host's/,
    repair: "capture --dport 80 --in p0 --family 4",
  },
  {
    name: "accept: no listener, IPv6",
    broken: "capture --dport 80 --in p0 --family 6",
    ask: "explain accept [2001:db8::9]:80 --in p0 --from fd00:9::2",
    cause: /FAILURE +listener +Nothing listens on tcp port 80/,
    repair: "serve '[::]:80'",
  },
  {
    name: "accept: an iptables script, and no route for the answer",
    broken: `tproxy routes --print --dport 80 --in p0 --family 4 > rules.sh
      sh -e rules.sh; serve :80`,
    ask: "explain accept 8.8.8.8:80 --in p0 --from 10.7.0.2",
    cause: /FAILURE +answer +.*finds no route to 10\.7\.0\.2: ENETUNREACH/,
    repair: "ip route add 10.7.0.0/24 via 10.9.0.2",
    needs: { iptables: Bun.which("iptables") !== null },
  },
  {
    name: "connect: an ip rule by source",
    broken: `capture --dport 80 --in p0 --family 4 --reply-path
      ip rule add from 10.9.0.2 lookup 210 priority 20; ip route add blackhole default table 210`,
    ask: "explain connect 10.8.0.2:80 --from 10.9.0.2",
    cause: /FAILURE +route +.*10\.9\.0\.2.*EINVAL/,
    repair: "ip rule del priority 20",
  },
  {
    name: "connect: a source that POSTROUTING replaces",
    broken: `capture --dport 80 --in p0 --family 4 --reply-path
      nft 'table ip own { chain post { type nat hook postrouting priority 100; masquerade; }; }'`,
    ask: "explain connect 10.8.0.2:80 --from 10.9.0.2",
    cause: /FAILURE +nat +Rule ip own post handle 2 replaces the source 10\.9\.0\.2/,
    repair: "nft insert rule ip own post oifname u0 tcp dport 80 accept",
  },
  {
    name: "connect: replies that INPUT does not let in",
    broken: `nft 'table inet own { chain in { type filter hook input priority 0;
      policy drop; }; }'`,
    ask: "explain connect 10.8.0.2:80",
    cause: /FAILURE +way back +The policy of chain inet own in drops it: A reply from/,
    repair: "nft add rule inet own in ct state established accept",
  },
  {
    name: "accept: INPUT rejects",
    broken: `capture --dport 80 --in p0 --family 4; serve :80
      nft 'table inet own { chain in { type filter hook input priority 0; iifname p0 reject; }; }'`,
    ask: "explain accept 8.8.8.8:80 --in p0 --from 10.9.0.2",
    cause: /FAILURE +input +Rule inet own in handle 2 drops it on its way to the socket/,
    repair: "nft insert rule inet own in iifname p0 tcp dport 80 accept",
  },
  {
    name: "connect: no route",
    broken: "",
    ask: "explain connect 8.8.8.8:80",
    cause: /FAILURE +route +There is no route to 8\.8\.8\.8: connect fails with ENETUNREACH/,
    repair: "ip route add default via 10.8.0.2",
  },
];

describe("explain names the step", () => {
  accepts.forEach(testFault);
});

const unprivileged = "setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all";

testTraffic("a rule that cannot be told makes explain promise nothing", async () => {
  const { stdout } = await inNamespace(`${topology}
    capture --dport 80 --in p0 --family 4; serve :80
    nft 'table inet own { chain in { type filter hook input priority 0;
      numgen random mod 1000000 0 drop; }; }'
    status tproxy explain accept 8.8.8.8:80 --in p0 --from 10.9.0.2`);
  expect(stdout).toMatch(
    /\nIt cannot be told whether it will work\. Whether it is let in depends on rule inet own in /,
  );
  expect(stdout).toEndWith("status 1\n");
});

describe("without privileges", () => {
  testWith(["ip", "nft", "setpriv"], { "network namespaces": canUnshare })(
    "doctor and explain say what they can, and what they could not check",
    async () => {
      const { stdout, stderr } = await inNamespace(`${topology}
        capture --dport 80 --in p0 --family 4
        serve :80
        cd /
        unprivileged() {
          ${unprivileged} ${program} "$@"
        }
        status unprivileged doctor --dport 80 --in p0 --family 4 --probe 8.8.8.8:80
        status unprivileged explain bind 8.8.8.8:8080
      `);
      expect(stderr).toBe("");
      expect(stdout).toMatch(/FAILURE +capabilities/);
      expect(stdout).toMatch(/unknown +kernel +.*EPERM/);
      expect(stdout).toMatch(/unknown +firewall +.*CAP_NET_ADMIN/);
      expect(stdout).toMatch(/ok +ip rule +Ip rule 100/);
      expect(stdout).toMatch(/unknown +probe +.*CAP_NET_ADMIN/);
      expect(stdout).toMatch(/It will not work: bind tcp:..8\.8\.8\.8:8080 fails with EPERM/);
    },
  );
});

describe("--json", () => {
  testTraffic("is one object with the findings and the conclusion", async () => {
    const { stdout } = await inNamespace(`${topology}
      tproxy doctor --dport 80 --in p0 --family 4 --json || :
      echo ---
      tproxy explain bind 8.8.8.8:80 --json
    `);
    const [doctor, bind] = stdout.split("---\n").map((text) => JSON.parse(text));
    expect(doctor).toMatchObject({ ok: false, sections: [{ title: "System" }, {}, {}] });
    expect(doctor.sections[2].findings).toContainEqual(
      expect.objectContaining({ check: "firewall", severity: "failure" }),
    );
    expect(bind).toMatchObject({ what: "bind", works: true });
  });
});

testTraffic("accept without privileges does not guess what the firewall does", async () => {
  const { stdout } = await inNamespace(`${topology}
    capture --dport 80 --in p0 --family 4 --to-port 50080; serve :50080
    setpriv --bounding-set -all --inh-caps -all ${program} \\
      explain accept 8.8.8.8:80 --in p0 --from 10.9.0.2 || echo "status $?"
    setpriv --bounding-set -all --inh-caps -all ${program} \\
      explain connect 10.9.0.2:80 --from 10.9.0.1 | tail -n 1`);
  expect(stdout).toMatch(/\nIt cannot be told whether it will work\. 8\.8\.8\.8 .*\nstatus 1\n/);
  expect(stdout).not.toContain("FAILURE");
  expect(stdout).toMatch(/\nIt will work: what goes from 10\.9\.0\.1 .*\n$/);
});

testTraffic("what would be ignored, and an interface that is not here, are refused", async () => {
  const { stdout } = await inNamespace(`${topology}
    for words in "bind 8.8.8.8:80 --in p0" "bind 8.8.8.8:80 --from 10.9.0.2" \\
      "accept 8.8.8.8:80 --freebind" "connect 8.8.8.8:80 --no-transparent" \\
      "accept 8.8.8.8:80 --in eth9"; do
      status tproxy explain $words 2>&1
    done`);
  expect(stdout.trim().split("\n")).toEqual([
    "tproxy: --in is for accept, not for bind: leave it out",
    "status 2",
    "tproxy: --from is for accept and connect, not for bind: leave it out",
    "status 2",
    "tproxy: --freebind is for bind, not for accept: leave it out",
    "status 2",
    "tproxy: --no-transparent is for bind, not for connect: leave it out",
    "status 2",
    'tproxy: --in: there is no interface "eth9" here: see "ip link"',
    "status 2",
  ]);
});

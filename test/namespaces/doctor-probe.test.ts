/** `doctor --probe`: the hop where a real packet ends, that nothing leaves, and nothing stays. */

import { describe, expect } from "bun:test";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { testWith } from "../helpers/tools.ts";
import { type Case, testFault, topology } from "./doctor/set-up.ts";

const intent = "--dport 80 --in p0 --family 4";
const working = `capture ${intent}; serve :80`;
const probed = `doctor ${intent} --probe 8.8.8.8:80`;
const everywhere = "--dport 80 --family both";

/** A probe that ended at a hop because of a rule, with the command that lets it through. */
function ending(hop: string, rule: string, repair: string): RegExp {
  return new RegExp(`FAILURE +${hop} +The .* ${rule} drops it\\.\\n +repair: ${repair}`);
}
const insertIn = "nft insert rule inet other in iifname p0 tcp dport 80 accept";

const cases: readonly Case[] = [
  {
    name: "no listener",
    broken: `capture ${everywhere}`,
    ask: "doctor --probe 8.8.8.8:80",
    cause: /ok +input .*\n +FAILURE +socket +No SYN-ACK was made.* Nothing listens on tcp port 80/,
    repair: "serve '[::]:80'",
  },
  {
    name: "no listener, IPv6",
    broken: `capture ${everywhere}`,
    ask: "doctor --probe [2001:db8::9]:80",
    cause: /FAILURE +socket +.* Nothing listens on tcp port 80/,
    repair: "serve '[::]:80'",
  },
  {
    name: "listener not transparent",
    broken: `capture ${everywhere}; foreign TCP-LISTEN:80,fork 0050 tcp; holder=$!`,
    ask: "doctor --probe 8.8.8.8:80",
    cause: /FAILURE +socket +.* The listener on 0\.0\.0\.0:80 does not have IP_TRANSPARENT/,
    repair: `kill $holder; wait $holder || :; serve :80`,
  },
  {
    name: "src_valid_mark=1, repaired for the one interface",
    broken: `${working}; sysctl -qw net.ipv4.conf.p0.src_valid_mark=1`,
    ask: probed,
    cause: /FAILURE +routing +The SYN was dropped .*src_valid_mark is 1/,
    repair: "sysctl -qw net.ipv4.conf.p0.accept_local=1",
  },
  {
    name: "no local route while this host forwards",
    broken: `${working}; sysctl -qw net.ipv4.ip_forward=1; ip route flush table 100
      ip route add default via 10.8.0.2
      within upstream nft 'add table inet seen; add chain inet seen in {
        type filter hook prerouting priority 0; }; add rule inet seen in tcp dport 80 counter'`,
    ask: probed,
    cause: /FAILURE +routing +The SYN was routed on, past the proxy; here the probe has stopped it/,
    repair: `ip route add local 0.0.0.0/0 dev lo table 100
      within upstream nft list ruleset | grep -q "packets 0"`,
  },
  {
    name: "a drop in PREROUTING by iptables-legacy, which netlink does not show",
    broken: `${working}; iptables-legacy -t raw -A PREROUTING -p tcp --dport 80 -j DROP`,
    ask: probed,
    cause: /FAILURE +prerouting +The SYN was dropped in PREROUTING/,
    repair: "iptables-legacy -t raw -F",
    needs: { "iptables-legacy": Bun.which("iptables-legacy") !== null },
  },
  {
    name: "a drop in INPUT",
    broken: `${working}; nft add table inet other
      nft 'add chain inet other in { type filter hook input priority 0; }'
      nft add rule inet other in tcp dport 80 drop`,
    ask: probed,
    cause: ending("input", "Rule inet other in handle 2", insertIn),
    repair: "nft insert rule inet other in tcp dport 80 accept",
  },
  {
    name: "a drop in INPUT that no reading of the rules can tell, in a chain of its own",
    broken: `${working}; nft 'table inet other {
      chain chance { numgen random mod 1000000000 != 7 drop; }
      chain in { type filter hook input priority 0; tcp dport 80 jump chance; }; }'`,
    ask: probed,
    cause: ending("input", "Rule inet other chance handle \\d+", insertIn),
    repair: "nft delete table inet other",
  },
  {
    name: "a policy of iptables in INPUT",
    broken: `${working}; iptables -P INPUT DROP`,
    ask: probed,
    cause: ending(
      "input",
      "The policy of chain ip filter INPUT",
      "iptables -w -t filter -I INPUT -i p0 -p tcp --dport 80 -j ACCEPT",
    ),
    repair: "iptables -P INPUT ACCEPT",
    needs: { iptables: Bun.which("iptables") !== null },
  },
  {
    name: "a drop in OUTPUT",
    broken: `${working}; nft add table inet other
      nft 'add chain inet other out { type filter hook output priority 0; }'
      nft add rule inet other out tcp sport 80 drop`,
    ask: probed,
    cause: ending(
      "answer",
      "Rule inet other out handle 2",
      "nft insert rule inet other out .*tcp sport 80 accept",
    ),
    repair: "nft insert rule inet other out tcp sport 80 accept",
  },
  {
    name: "no socket for a datagram",
    broken: "capture --proto udp --dport 53 --family 4 --to-port 50053",
    ask: "doctor --probe 8.8.8.8:53 --udp",
    cause: /FAILURE +socket +No socket took it \(UdpNoPorts \+1\)/,
    repair: "serve --udp --echo :50053",
  },
];

describe("doctor --probe names the hop where it ended", () => {
  cases.forEach(testFault);
});

const testTraffic = testWith(["ip", "nft", "nsenter"], { "network namespaces": canUnshare });

/** All that a probe might leave. Counters and lifetimes of the rules are no matter. */
const dump = `dump() {
  ip -o link show; ip -o address show; ip -4 route show table all; ip -6 route show table all
  ip -4 rule; ip -6 rule; nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*//'
}`;

describe("what a probe leaves: nothing", () => {
  testTraffic("when it has ended", async () => {
    const { stdout, stderr } = await inNamespace(`${topology}\n${dump}
      ${working}
      dump > before
      tproxy ${probed} > result
      dump > after
      diff before after && echo same
    `);
    expect(stdout + stderr).toBe("same\n");
  });

  for (const signal of ["INT", "TERM", "KILL"]) {
    testTraffic(`when it is ended half-way by SIG${signal}`, async () => {
      const { stdout, stderr } = await inNamespace(`${topology}\n${dump}
        capture ${intent}
        dump > before
        tproxy ${probed} > result & probe=$!
        until nft list table inet tproxyd_probe > /dev/null 2>&1; do kill -0 $probe; done
        program=$(pgrep -P $probe || echo $probe)
        kill -${signal} $program
        wait $probe || echo "status $?"
        while ip link show tproxyprobe > /dev/null 2>&1; do :; done
        dump > after
        diff before after && echo same
      `);
      const status = { INT: 130, TERM: 143, KILL: 137 }[signal];
      expect(stdout).toBe(`status ${status}\nsame\n`);
      expect(stderr).not.toContain("error");
    });
  }

  testTraffic("a second probe waits for no one: it says that one is running", async () => {
    const { stdout } = await inNamespace(`${topology}
      ip link add tproxyprobe type veth peer name other
      tproxy doctor --probe 8.8.8.8:80 || :
      ip link show tproxyprobe > /dev/null && echo still there
    `);
    expect(stdout).toContain("another probe is running");
    expect(stdout).toEndWith("still there\n");
  });
});

testTraffic(
  "what no client elsewhere can ask for is refused, and --udp without a probe",
  async () => {
    const { stdout } = await inNamespace(`${topology}
    for to in 127.0.0.1 0.0.0.0 224.0.0.1 255.255.255.255 [::1] [::] [ff02::1]; do
      status tproxy doctor --probe $to:80 2>&1
    done
    status tproxy doctor --listen :53 --udp 2>&1`);
    expect(
      stdout.match(/^tproxy: --probe: ".*" is no address that a client .*\nstatus 2$/gm),
    ).toHaveLength(7);
    const [words, status] = stdout.trim().split("\n").slice(-2);
    expect(words).toMatch(/^tproxy: --udp needs --probe: give that, "--proto udp" or /);
    expect(status).toBe("status 2");
  },
);

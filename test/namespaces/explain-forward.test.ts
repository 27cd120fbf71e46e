/**
 * What stands between clients and an upstream that the kernel is to carry them to: each cause is
 * named by `explain forward`, and nothing once it is repaired.
 */

import { describe, expect } from "bun:test";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { testWith } from "../helpers/tools.ts";
import { type Case, program, testFault, topology } from "./doctor/set-up.ts";

const forwards = "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1";
const ask = "explain forward :80 --to 10.8.0.2:8080 --routes auto --in p0 --src 10.9.0.0/24";
const ask6 =
  "explain forward [::]:80 --to [fd00:8::2]:8080 --family 6 --routes auto --in p0 --src fd00:9::2";
const v6 = `ip address add fd00:8::1/64 dev u0 nodad; ${forwards}`;

const cases: readonly Case[] = [
  {
    name: "forwarding is off",
    broken: "sysctl -qw net.ipv4.ip_forward=0",
    ask,
    cause:
      /FAILURE +forwarding +net\.ipv4\.conf\.p0\.forwarding is 0.*\n.*sysctl -w net\.ipv4\.ip_f/,
    repair: forwards,
  },
  {
    name: "forwarding of IPv6 is off",
    broken: `${v6}; sysctl -qw net.ipv6.conf.all.forwarding=0`,
    ask: ask6,
    cause: /FAILURE +forwarding +net\.ipv6\.conf\.all\.forwarding is 0/,
    repair: forwards,
  },
  {
    name: "a foreign policy drops what is forwarded, as with Docker",
    broken: `${forwards}; iptables -P FORWARD DROP`,
    ask,
    cause:
      /FAILURE +forward +The policy of chain ip filter FORWARD drops it.*\n.*--dport 8080 -j ACC/,
    repair: "iptables -P FORWARD ACCEPT",
  },
  {
    name: "a rule drops what comes back",
    broken: `${forwards}; iptables -A FORWARD -i u0 -p tcp -j DROP`,
    ask,
    cause: /FAILURE +reply +Rule ip filter FORWARD handle \d+ drops the upstream's reply/,
    repair: "iptables -F FORWARD",
  },
  {
    name: "notrack",
    broken: `${forwards}; nft add table inet r
      nft 'add chain inet r c { type filter hook prerouting priority raw; }'
      nft add rule inet r c tcp dport 80 notrack`,
    ask,
    cause: /FAILURE +firewall +A rule exempts it from connection tracking \(notrack\)/,
    repair: "nft delete table inet r",
  },
  {
    name: "a foreign rule translates the destination",
    broken: `${forwards}; iptables -t nat -A PREROUTING -p tcp --dport 80 -j DNAT --to 10.8.0.7:81`,
    ask,
    cause: /FAILURE +translation +Rule ip nat PREROUTING handle \d+ translates its destination/,
    repair: "iptables -t nat -F PREROUTING",
  },
  {
    name: "a foreign masquerade before ours",
    broken: `${forwards}; nft add table inet m
      nft 'add chain inet m c { type nat hook postrouting priority srcnat - 10; }'
      nft add rule inet m c oifname u0 masquerade`,
    ask,
    cause: /FAILURE +source +Rule inet m c handle \d+ replaces the client's address/,
    repair: "nft delete table inet m",
  },
  {
    name: "no route to the upstream",
    broken: `${forwards}; ip route del 10.8.0.0/24`,
    ask,
    cause: /FAILURE +route +There is no route to the upstream 10\.8\.0\.2: ENETUNREACH/,
    repair: "ip route add 10.8.0.0/24 dev u0",
  },
];

describe("one fault each: its cause is named, and nothing once it is repaired", () => {
  cases.forEach(testFault);
});

testWith([], { "network namespaces": canUnshare })(
  "what works otherwise: a masquerade of others, the clients' link, this host, UDP, names",
  async () => {
    const { stdout, stderr } = await inNamespace(`${topology}
      ${forwards}
      iptables -t nat -A POSTROUTING -j MASQUERADE
      status tproxy ${ask}
      status tproxy ${ask.replace("10.8.0.2:8080", "10.9.0.7:8080")}
      status tproxy ${ask.replace("10.8.0.2:8080", "10.8.0.1:8080")} --udp
      status tproxy ${ask.replace("10.8.0.2:8080", "web.example:8080")}
      tproxy ${ask} --json
      status tproxy explain forward :80
      status tproxy explain forward :80 --to original --path auto
      status tproxy explain forward :80 --to 10.8.0.2:8080 --path auto --send-proxy v2
      status tproxy ${ask} --path kernel --keepalive 9s
      status tproxy explain forward :80 --to 10.8.0.2:8080 --routes auto --in nosuchinterfacename
      sysctl -qw net.ipv4.ip_forward=0
      status tproxy explain forward :80 --to 10.8.0.2:8080 --path auto
      ${forwards}
      ${program} forward :80 --to 10.8.0.2:80 --to 10.8.0.1:80 --path kernel --routes auto > log &
      carrying=$!; started="$started $!"
      until grep -q carries log; do kill -0 $carrying; done
      echo "== carried"
      tproxy ${ask} --path kernel || :
      kill $carrying; wait $carrying`);
    const [masqueraded = "", sameLink = "", here = "", named = "", ...rest] =
      stdout.split(/^status \d\n/m);
    expect(masqueraded).toMatch(/ok +source +Rule ip nat POSTROUTING .* tproxy comes before it\./);
    expect(masqueraded).toMatch(
      /\ntcp from 10\.9\.0\.2 by p0 to 203\.0\.113\.80:80, carried by the kernel to 10\.8\.0\.2:80/,
    );
    expect(sameLink).toMatch(/WARNING +route +The upstream 10\.9\.0\.7 is on the clients' link/);
    expect(here).toMatch(/ok +route +The upstream 10\.8\.0\.1 is on this host\.\n.*ok +input/);
    expect(here).toMatch(/\nudp from/);
    expect(named).toMatch(/unknown +name +web\.example is looked up when the service starts/);
    expect(JSON.parse(rest[0]?.split("\n")[0] ?? "")).toMatchObject({
      ok: true,
      sections: [{ title: "Data path" }, { findings: expect.any(Array) }],
    });
    const statuses = [...stdout.matchAll(/^status (\d)$/gm)].map(([, status]) => Number(status));
    expect(statuses).toEqual([0, 0, 0, 0, 2, 0, 0, 1, 2, 0]);
    expect(masqueraded).toMatch(
      /ok +path +The relay carries it .*; the kernel could, with --path k/,
    );
    expect(stdout).toMatch(/ok +path +The relay carries it, not the kernel: --to: "original" is/);
    expect(stdout).toMatch(
      /ok +path +The relay carries it, not the kernel: --send-proxy: the kernel/,
    );
    expect(stdout).toMatch(
      /FAILURE +path +--path kernel cannot carry it: --keepalive: there is no/,
    );
    const [, carried = ""] = stdout.split("== carried\n");
    expect(carried).toMatch(/ok +path +The kernel carries it, as --path kernel asks\./);
    expect(carried).toMatch(/WARNING +counts +nf_conntrack_acct is 0/);
    expect(carried).not.toMatch(/FAILURE|unknown/);
    expect(stderr).toContain("--to is missing");
    expect(stderr).toContain("no interface here has the name");
  },
);

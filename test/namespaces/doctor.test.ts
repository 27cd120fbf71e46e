/**
 * Set-ups that are broken in one way each, made in namespaces: `doctor` and `explain` name the
 * cause, and say that nothing is wrong once it is repaired.
 */

import { describe, expect } from "bun:test";
import { existsSync } from "node:fs";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { testWith } from "../helpers/tools.ts";
import { type Case, program, testFault } from "./doctor/set-up.ts";

const intent = "--dport 80 --in p0 --family 4";
const intent6 = "--dport 80 --in p0 --family 6";
const tproxyIntent = `${intent} --to-port 50080`;
const udpIntent = "--dport 53 --in p0 --family 4 --proto udp --to-port 50053";
const backendIntent = `${tproxyIntent} --reply-path --backend 10.8.0.2:8080`;
const localIntent = "--dport 80 --family 4 --local --guard-uid 65534 --to-port 50080";
const working = `capture ${intent}; serve :80`;
const table = "ip route add local 0.0.0.0/0 dev lo table 100";

const cases: readonly Case[] = [
  {
    name: "src_valid_mark=1",
    broken: `${working}; sysctl -qw net.ipv4.conf.all.src_valid_mark=1`,
    ask: `doctor ${intent}`,
    cause: /FAILURE +source +src_valid_mark is 1.*\n.*repair: sysctl -w .*p0\.accept_local=1/,
    repair: "sysctl -qw net.ipv4.conf.all.src_valid_mark=0",
  },
  {
    name: "strict rp_filter on an asymmetric path",
    broken: `${working}; ip route add 198.51.100.0/24 via 10.8.0.2
      sysctl -qw net.ipv4.conf.p0.rp_filter=1`,
    ask: `doctor ${intent} --src 198.51.100.7`,
    cause: /FAILURE +source +rp_filter is 1 \(strict\) on p0, but the route back .* goes by u0/,
    repair: "sysctl -qw net.ipv4.conf.p0.rp_filter=2",
  },
  {
    name: "DIVERT missing",
    broken: working,
    ask: "explain connect 10.8.0.2:80 --from 10.9.0.2",
    cause: /FAILURE +way back +.*marked by no firewall rule.*DIVERT/,
    repair: `release ${intent}; capture ${intent} --reply-path`,
  },
  {
    name: "wrong table",
    broken: `${working}; ip rule del priority 100
      ip rule add priority 100 fwmark 1/1 lookup 101`,
    ask: `doctor ${intent}`,
    cause: /FAILURE +ip rule +Ip rule 100 .*sends mark 0x1\/0x1 to table 101, not to table 100/,
    repair: "ip rule del priority 100; ip rule add priority 100 fwmark 1/1 lookup 100",
  },
  {
    name: "no ip rule",
    broken: `${working}; ip rule del priority 100`,
    ask: `doctor ${intent}`,
    cause: /FAILURE +ip rule +No ip rule asks for mark 0x1\/0x1/,
    repair: "ip rule add priority 100 fwmark 1/1 lookup 100",
  },
  {
    name: "missing local route",
    broken: `${working}; ip route flush table 100`,
    ask: `doctor ${intent}`,
    cause: /FAILURE +local route +Table 100, .*has no local route for/,
    repair: table,
  },
  {
    name: "missing local route, IPv6",
    broken: `capture ${intent6}; serve '[::]:80'; ip -6 route flush table 100`,
    ask: `doctor ${intent6}`,
    cause: /FAILURE +local route +Table 100, .*has no local route for 2001:db8::50/,
    repair: "ip -6 route add local ::/0 dev lo table 100",
  },
  {
    name: "mark overlap",
    broken: `${working}; ip route add default via 10.8.0.2 table 52
      ip rule add priority 50 fwmark 0x1/0xff lookup 52`,
    ask: `doctor ${intent}`,
    cause: /FAILURE +ip rule +Ip rule 50 .*bits of the same mark and comes before ip rule 100/,
    repair: "ip rule del priority 50",
  },
  {
    name: "a higher-priority rule that wins",
    broken: `${working}; ip route add default via 10.8.0.2 table 200
      ip rule add priority 10 lookup 200`,
    ask: `doctor ${intent}`,
    cause: /FAILURE +ip rule +Ip rule 10 \(from all lookup 200\) comes before ip rule 100/,
    repair: "ip rule del priority 10",
  },
  {
    name: "an ip rule by source, which local capture is routed by",
    broken: `ip route add default via 10.8.0.2; capture ${localIntent}; serve :50080
      ip route add default via 10.8.0.2 table 200
      ip rule add from 10.8.0.1 lookup 200 priority 50`,
    ask: `doctor ${localIntent}`,
    cause: /FAILURE +ip rule +Ip rule 50 \(from 10\.8\.0\.1 lookup 200\) comes before ip rule 100/,
    repair: "ip rule del priority 50",
  },
  {
    name: "NAT of what this host sends, in front of local capture",
    broken: `ip route add default via 10.8.0.2; capture ${localIntent}; serve :50080
      iptables -t nat -A OUTPUT -p tcp --dport 80 -j DNAT --to 10.8.0.2:8080`,
    ask: `doctor ${localIntent}`,
    cause: /WARNING +output +.*rule ip nat OUTPUT handle \d+ rewrites its destination \(NAT\)/,
    repair: "iptables -w -t nat -I OUTPUT -p tcp --dport 80 -j ACCEPT",
    works: true,
  },
  {
    name: "INPUT closed to what local capture brings back by lo",
    broken: `ip route add default via 10.8.0.2; capture ${localIntent}; serve :50080
      nft 'table inet f { chain in { type filter hook input priority 0; policy drop; }; }'`,
    ask: `doctor ${localIntent}`,
    cause: /FAILURE +input +The policy of chain inet f in drops it.*\n.*nft insert rule inet f in/,
    repair: `nft insert rule inet f in iifname lo tcp dport 80 accept
      nft insert rule inet f in iifname u0 tcp dport 80 accept`,
  },
  {
    name: "local capture that excepts another user than it should",
    broken: `ip route add default via 10.8.0.2; serve :50080
      capture --dport 80 --family 4 --local --guard-uid 1001 --to-port 50080`,
    ask: "doctor --dport 80 --family 4 --local --guard-uid 1000 --to-port 50080",
    cause: /FAILURE +output +No rule of the output hook sets mark 0x1\/0x1 on it/,
    repair: `release --dport 80 --family 4 --local --guard-uid 1001 --to-port 50080
      capture --dport 80 --family 4 --local --guard-uid 1000 --to-port 50080`,
  },
  {
    name: "a port of a bridge",
    broken: `ip link add br0 type bridge; ip link set p0 master br0; ip address flush dev p0
      ip address add 10.9.0.1/24 dev br0; ip link set br0 up
      sysctl -qw net.bridge.bridge-nf-call-iptables=0 2> /dev/null || :
      capture ${intent}; serve :80`,
    ask: `doctor ${intent}`,
    cause:
      /FAILURE +interface +p0 is a port of the bridge br0.*\n.*repair: .* by br0 instead of p0/,
    repair: "ip link del br0; ip address add 10.9.0.1/24 dev p0",
  },
  {
    name: "our own MASQUERADE on the way to a backend",
    broken: `capture ${backendIntent}; serve :50080
      iptables -t nat -A POSTROUTING -o u0 -j MASQUERADE`,
    ask: `doctor ${backendIntent}`,
    cause: /FAILURE +nat +Rule ip nat POSTROUTING handle \d+ replaces the source 10\.9\.0\.2/,
    repair: "iptables -w -t nat -I POSTROUTING -o u0 -p tcp --dport 8080 -j ACCEPT",
  },
  {
    name: "DIVERT missing on the way back from a backend",
    broken: `capture ${tproxyIntent}; serve :50080`,
    ask: `doctor ${backendIntent}`,
    cause: /FAILURE +way back +A reply from 10\.8\.0\.2:8080 .*marked by no firewall rule.*DIVERT/,
    repair: `release ${tproxyIntent}; capture ${backendIntent}`,
  },
  {
    name: "a backend's replies dropped in INPUT",
    broken: `capture ${backendIntent}; serve :50080
      nft 'table inet other { chain in { type filter hook input priority 0; iifname u0 drop; }; }'`,
    ask: `doctor ${backendIntent}`,
    cause: /FAILURE +way back +Rule inet other in handle 2 drops it: A reply from 10\.8\.0\.2:8080/,
    repair: "nft insert rule inet other in iifname u0 tcp sport 8080 accept",
  },
  {
    name: "/proc/sys that cannot be read",
    broken: working,
    ask: `doctor ${intent}`,
    prefix: "unshare -m sh -c 'mount -t tmpfs none /proc/sys; \"$@\"' sh",
    cause:
      /unknown +source checks +src_valid_mark, rp_filter.*cannot be read[\s\S]*unknown +forwarding/,
    repair: "",
    works: "Nothing wrong was found. 2 could not be checked.",
  },
  {
    name: "no firewall rule for the interface",
    broken: `capture --dport 80 --in u0 --family 4; serve :80`,
    ask: `doctor ${intent}`,
    cause: /FAILURE +firewall +No firewall rule sets mark 0x1\/0x1/,
    repair: `release --dport 80 --in u0 --family 4; capture ${intent}`,
  },
  {
    name: "another chain drops",
    broken: `${working}; nft add table inet other
      nft 'add chain inet other early { type filter hook prerouting priority -300; }'
      nft add rule inet other early tcp dport 80 drop`,
    ask: `doctor ${intent}`,
    cause: /FAILURE +firewall +Rule inet other early handle 2 drops it/,
    repair: "nft delete table inet other",
  },
  {
    name: "another chain overwrites the mark",
    broken: `${working}; nft add table ip other
      nft 'add chain ip other late { type filter hook prerouting priority -100; }'
      nft add rule ip other late meta mark set 0`,
    ask: `doctor ${intent}`,
    cause: /FAILURE +firewall +Rule inet tproxyd .*but rule ip other late handle 2 comes after it/,
    repair: "nft delete table ip other",
  },
  {
    name: "listener not transparent",
    broken: `capture ${intent}; foreign TCP-LISTEN:80 0050 tcp; holder=$!`,
    ask: `doctor ${intent}`,
    cause: /FAILURE +listener +The listener on 0\.0\.0\.0:80 does not have IP_TRANSPARENT/,
    repair: `kill $holder; wait $holder || :; serve :80`,
  },
  {
    name: "listener on 127.0.0.1 without --on-ip",
    broken: `capture ${tproxyIntent}; serve 127.0.0.1:50080`,
    ask: `doctor ${tproxyIntent}`,
    cause: /FAILURE +listener +The look-up will ask for 10\.9\.0\.1:50080 .*127\.0\.0\.1:50080/,
    repair: `release ${tproxyIntent}; capture ${tproxyIntent} --to-address 127.0.0.1`,
  },
  {
    name: "no listener",
    broken: `capture ${tproxyIntent}`,
    ask: `doctor ${tproxyIntent}`,
    cause: /FAILURE +listener +Nothing listens on tcp port 50080/,
    repair: "serve :50080",
  },
  {
    name: "lo down",
    broken: `capture ${localIntent}; serve :50080; ip route add default via 10.8.0.2
      ip link set lo down`,
    ask: `doctor ${localIntent}`,
    cause: /FAILURE +lo +lo is down/,
    repair: "ip link set lo up",
  },
  {
    name: "no default route for local capture",
    broken: `capture ${localIntent}; serve :50080`,
    ask: `doctor ${localIntent}`,
    cause: /FAILURE +route +This host has no route to 203\.0\.113\.80: .*ENETUNREACH/,
    repair: "ip route add default via 10.8.0.2",
  },
  {
    name: "a foreign wildcard UDP socket on the port",
    broken: `capture ${udpIntent}; serve --udp :50053; foreign UDP-RECV:53 0035 udp; holder=$!`,
    ask: `doctor ${udpIntent}`,
    cause: /WARNING +udp answers +A socket on 0\.0\.0\.0:53 .*EADDRINUSE/,
    repair: "kill $holder; wait $holder || :",
    works: true,
  },
  {
    name: "missing capability",
    broken: working,
    ask: `doctor ${intent}`,
    prefix: "setpriv --bounding-set -net_admin,-net_raw --inh-caps -net_admin,-net_raw",
    cause: /FAILURE +capabilities +IP_TRANSPARENT needs CAP_NET_ADMIN or CAP_NET_RAW/,
    repair: "",
    needs: { setpriv: Bun.which("setpriv") !== null },
  },
  {
    name: "bridge-nf-call-iptables=1",
    broken: `ip link add br0 type bridge; ip link set p0 master br0; ip address flush dev p0
      ip address add 10.9.0.1/24 dev br0; ip link set br0 up
      sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=0
      capture --dport 80 --in br0 --family 4 --to-port 50080; serve :50080`,
    ask: "doctor --dport 80 --in br0 --family 4 --to-port 50080",
    cause: /FAILURE +bridge +net\.bridge\.bridge-nf-call-iptables is 1 and br0 is a bridge/,
    repair: "sysctl -qw net.bridge.bridge-nf-call-iptables=0",
    needs: { br_netfilter: existsSync("/proc/sys/net/bridge") },
  },
  {
    name: "blackhole route to the client",
    broken: `${working}; ip route add blackhole 10.9.0.2`,
    ask: `doctor ${intent}`,
    cause: /FAILURE +answer +The SYN-ACK .*finds no route to 10\.9\.0\.2: EINVAL/,
    repair: "ip route del blackhole 10.9.0.2",
  },
];

describe("one fault each: its cause is named, and nothing once it is repaired", () => {
  cases.forEach(testFault);
});

testWith(["conntrack"], { "network namespaces": canUnshare })(
  "how full connection tracking is, as root and as nobody",
  async () => {
    const insert = "conntrack -I -p udp -s 10.9.0.2 -d 10.8.0.2 --dport 53 -t 100 --sport";
    const { stderr, stdout } = await inNamespace(`${insert} 1; ${insert} 2
      ${program} doctor || :
      setpriv --bounding-set -net_admin --inh-caps -net_admin ${program} doctor || :`);
    const line = /ok +conntrack +2 of \d+ entries are used \(0 %\): enough for \d+ TCP/g;
    expect(stdout + stderr).toMatch(line);
    expect(stdout.match(line)).toHaveLength(2);
  },
);

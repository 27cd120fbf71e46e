/** What would keep packets from rules is said when these are put in: by routes, and by forward. */

import { expect } from "bun:test";
import { existsSync } from "node:fs";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { command, runAmongHosts } from "../helpers/three-hosts.ts";
import { testWith } from "../helpers/tools.ts";

const means = { "network namespaces": canUnshare };

/** What is made first, the options, and the only warning; none: nothing is said. */
type Case = readonly [before: string, options: string, warning: RegExp | undefined];

const table200 = "ip route add default dev p0 table 200";
const cases: Readonly<Record<string, Case>> = {
  "nothing in the way": ["", "--in p0", undefined],
  "a rule in front, without a mark": [
    `${table200}; ip rule add from 10.0.0.0/8 lookup 200 priority 50`,
    "--in p0",
    /"ip rule 50: from 10\.0\.0\.0\/8 lookup 200.*" comes before ours \(100\), and what it matches/,
  ],
  "of other sources": [
    `${table200}; ip rule add from 10.0.0.0/8 lookup 200 priority 50`,
    "--in p0 --src 192.0.2.0/24",
    undefined,
  ],
  "to a network within ours": [
    `${table200}; ip rule add to 198.51.100.0/25 lookup 200 priority 50`,
    "--in p0 --dst 198.51.100.0/24",
    /"ip rule 50: .*to 198\.51\.100\.0\/25/,
  ],
  "by another interface": [
    `${table200}; ip rule add iif p1 lookup 200 priority 50`,
    "--in p0",
    undefined,
  ],
  "of this host's own, which is not captured": [
    `${table200}; ip rule add iif lo lookup 200 priority 50`,
    "--in p0",
    undefined,
  ],
  "of this host's own, which is": [
    `${table200}; ip rule add from 10.9.0.1 iif lo lookup 200 priority 50`,
    "--in p0 --local --guard-uid 4242",
    /"ip rule 50: from 10\.9\.0\.1/,
  ],
  "a table without a route": ["ip rule add lookup 200 priority 50", "--in p0", undefined],
  "behind ours": [`${table200}; ip rule add lookup 200 priority 150`, "--in p0", undefined],
  "a rule that refuses": [
    "ip rule add from 192.0.2.0/24 prohibit priority 50",
    "--in p0",
    /"ip rule 50: from 192\.0\.2\.0\/24 prohibit/,
  ],
  "no such interface": ["", "--in eth9", /--in eth9: there is no such interface.*there are lo, /],
  "no interface by that beginning": ["", "--in eth*", /--in eth\*: no interface's name begins so/],
  "one by that beginning": ["", "--in p*", undefined],
  "the port of a bridge": [
    "ip link add br0 type bridge; ip link set p0 master br0",
    "--in p0",
    /--in p0: it is a port of the bridge br0.*give --in br0/,
  ],
  "an alternative name": [
    "ip link property add dev p0 altname uplink-to-the-provider-1",
    "--in uplink-to-the-provider-1",
    /uplink-to-the-provider-1 is another name of p0: rules match p0/,
  ],
};
const bridged: Case = [
  `ip link add br0 type bridge
   sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=0`,
  "--in br0",
  /bridge-nf-call-iptables is 1: packets of br0 pass the rules before they are routed/,
];
if (existsSync("/proc/sys/net/bridge")) Object.assign(cases, { "bridge-nf-call": bridged });

const undo = `ip rule del priority 50 2>/dev/null || :; ip rule del priority 150 2>/dev/null || :
  ip route flush table 200 2>/dev/null || :; ip link del br0 2>/dev/null || :`;

testWith(["ip"], means)(
  "routes --apply",
  async () => {
    const names = Object.keys(cases);
    const script = names.map((name) => {
      const [before, options] = cases[name] as Case;
      return `echo "==="; ${before}
      ${command} routes --apply --dport 80 --to-port 50080 --family 4 ${options} 2>&1 >out.log || :
      grep -q applied out.log || echo "not applied"
      ${command} routes --remove > out.log; ${undo}`;
    });
    const start = `set -f
    ip link add p0 type veth peer name p1; ip link set p0 up; ip link set p1 up
    ip address add 10.9.0.1/24 dev p0`;
    const { stdout, stderr } = await inNamespace(`${start}\n${script.join("\n")}`, {
      timeoutMs: 230_000,
    });
    expect(stderr).toBe("");
    const said = stdout.split("===\n").slice(1);
    const wrong = names.filter((name, index) => {
      const [, , warning] = cases[name] as Case;
      const text = said[index] ?? "nothing ran";
      if (warning === undefined) return text !== "";
      return !(/^tproxy: [^\n]*\n$/.test(text) && warning.test(text));
    });
    expect(wrong.map((name) => [name, said[names.indexOf(name)]])).toEqual([]);
  },
  240_000,
);

testWith(["ip", "nft", "nsenter"], means)(
  "forward --routes auto says it too, and captures by how a name begins",
  async () => {
    const { stdout, proxy } = await runAmongHosts(
      `at_backend listen --json --reply served "10.9.2.2:7000"
      ip route add default via 10.9.2.2 table 200
      ip rule add from 10.7.0.0/16 lookup 200 priority 50
      ${command} forward --json :50080 --to 10.9.2.2:7000 --routes auto --in 'p0*,q*' --dport 80 \
        >> proxy.log &
      proxy=$!; started="$started $proxy"
      until grep -q '"bound"' proxy.log; do kill -0 "$proxy"; sleep 0.02; done
      nft list table inet tproxyd | grep -c 'iifname "[pq].*\\*"'
      echo hi | within client ${command} bind --tcp :0 --to 8.8.8.8:80
      kill "$proxy"; wait "$proxy" || :`,
      { files: {}, timeoutMs: 230_000 },
    );
    expect(stdout).toMatch(/^2$/m);
    expect(stdout).toMatch(/^served$/m);
    const warnings = proxy.filter(({ event }) => event === "warning").map(({ text }) => text);
    expect(warnings.join("\n")).toMatch(/"ip rule 50: from 10\.7\.0\.0\/16 .* comes before ours/);
    expect(warnings.join("\n")).toMatch(/--in q\*: no interface's name begins so/);
  },
  240_000,
);

/** What is made first, the arguments, and whether it is said that nothing brings packets. */
const uncaptured: readonly (readonly [before: string, args: string, said: boolean])[] = [
  [":", ":80 --to 192.0.2.1:80", true],
  [":", "[::]:80 --to original --source self", true],
  [":", ":80 --to 192.0.2.1:80 --udp", true],
  [":", "127.0.0.1:80 --to 192.0.2.1:80", false],
  [":", ":80 --to 192.0.2.1:80 --source self", false],
  [":", ":80 --to 192.0.2.1:80 --accept-proxy", false],
  [":", ":80 --to 192.0.2.1:80 --no-transparent", false],
  [":", ":80 --to 192.0.2.1:80 --routes auto", false],
  ["ip route add local 198.51.100.0/24 dev lo", ":80 --to 192.0.2.1:80", false],
  ["ip route del local 198.51.100.0/24 dev lo", ":80 --to 192.0.2.1:80", true],
  ["ip -6 rule add fwmark 1 lookup 100", "[::]:80 --to 192.0.2.1:80", false],
];

/** The same for several services: the line is logged once. */
const uncapturedFile = `
admin = { socket = "none" }
log = { format = "text", time = "none" }
service = [
  { name = "web", listen = ":81", to = "192.0.2.1:80" },
  { name = "dns", listen = "udp://:53", to = "192.0.2.1:53" },
]`;

testWith(["ip"], means)(
  "forward logs once that nothing brings packets here, and only where that is so; run as well",
  async () => {
    const script = uncaptured.map(
      ([before, args]) => `echo "==="; ${before}
      : > out.log; ${command} forward --log-time none ${args} > out.log 2>&1 & proxy=$!
      until grep -q 'Bound to' out.log; do kill -0 "$proxy"; sleep 0.02; done
      kill "$proxy"; wait "$proxy" || :
      grep 'captures packets' out.log || :`,
    );
    script.push(`echo "==="; ip -6 rule del fwmark 1 lookup 100
      echo '${uncapturedFile}' > web.toml
      ${command} run -c web.toml > run.log 2>&1 & proxy=$!
      until grep -q 'Bound to' run.log; do kill -0 "$proxy"; sleep 0.02; done
      kill "$proxy"; wait "$proxy" || :
      grep 'captures packets' run.log || :`);
    const { stdout, stderr } = await inNamespace(script.join("\n"), { timeoutMs: 230_000 });
    expect(stderr).toBe("");
    const told = stdout.split("===\n").slice(1);
    const warning =
      "[!] no ip rule or route here captures packets for other hosts: only packets to this " +
      "host's own addresses are forwarded; give ";
    const line = `${warning}--routes auto, or see "tproxy routes --help"\n`;
    // With the names of the file, not with flags that run does not have.
    expect(told.pop()).toBe(`${warning}[routes] install = "auto", or rules of your own\n`);
    expect(told.map((text, i) => [uncaptured[i]?.[1], text])).toEqual(
      uncaptured.map(([, args, said]) => [args, said ? line : ""]),
    );
  },
  240_000,
);

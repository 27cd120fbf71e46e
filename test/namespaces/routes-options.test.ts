/**
 * The printed scripts of the options beyond the capture itself, at work between a client and a
 * server in namespaces of their own: what is bypassed, NAT, the reply path, sets, two instances.
 */

import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { printed } from "../helpers/routes.ts";
import { testWith } from "../helpers/tools.ts";

const tools = ["ip", "nft", "iptables", "ip6tables", "nsenter", "python3"];
const means = { "network namespaces": canUnshare };
const testTraffic = testWith(tools, means);

const source = (name: string) => readFileSync(new URL(name, import.meta.url), "utf8");
const files = { "transparent.py": source("transparent.py"), "traffic.py": source("traffic.py") };

/** `client` reaches `server`, which has 8.8.8.8 and more, through this namespace, a router. */
const route = `
namespace client
namespace server
veth client p0 c0
veth server p1 s0
ip address add 10.9.0.1/24 dev p0
ip address add 10.9.1.1/24 dev p1
within client ip address add 10.9.0.2/24 dev c0
within server ip address add 10.9.1.2/24 dev s0
ip address add fd00:9::1/64 dev p0 nodad
ip address add fd00:91::1/64 dev p1 nodad
within client ip address add fd00:9::2/64 dev c0 nodad
within server ip address add fd00:91::2/64 dev s0 nodad
within client ip route add default via fd00:9::1
within server ip route add default via fd00:91::1
within server ip address add 2001:db8::8/128 dev s0
ip route add 2001:db8::8 via fd00:91::2
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
within client ip route add default via 10.9.0.1
within server ip route add default via 10.9.1.1
for address in 8.8.8.8 8.8.4.4 192.168.7.7; do
  within server ip address add "$address/32" dev s0
  ip route add "$address" via 10.9.1.2
done
echo 1 > /proc/sys/net/ipv4/ip_forward
background nsenter -t "$server" -n python3 transparent.py listen 80 server-ready 'server: '
until [ -e server-ready ]; do kill -0 "$!"; done
listen() {
  background python3 transparent.py listen "$1" ready 'proxy: '
  until [ -e ready ]; do kill -0 "$!"; done
}
ask() { within client python3 transparent.py ask 10 "$@"; }
dump() {
  { ip rule; ip -6 rule; ip route show table all; nft list ruleset; iptables-save
    ip6tables-save; ipset save; sysctl -a -r 'accept_local|rp_filter'
  } 2>/dev/null | grep -v '^#' | sed -E 's/packets [0-9]+ bytes [0-9]+//' > "$1"
}
`;

function scripts(args: readonly string[], prefix = "") {
  return {
    [`${prefix}apply.sh`]: printed(...args),
    [`${prefix}undo.sh`]: printed(...args, "--undo"),
  };
}

/** Applies the script, does `then`, takes it back; the answers, and that nothing is left. */
async function between(args: readonly string[], then: string, before = "") {
  const outcome = await inNamespace(
    `${route}
    ${before}
    dump before
    sh -e apply.sh
    ${then}
    sh -e undo.sh
    dump after
    diff before after`,
    { files: { ...files, ...scripts(args) } },
  );
  expect({ stderr: outcome.stderr, status: outcome.status }).toEqual({ stderr: "", status: 0 });
  return outcome.stdout.trim().split("\n");
}

const dialects = ["iptables", "nft"] as const;

describe("what is bypassed is forwarded", () => {
  for (const dialect of dialects) {
    const capture = ["--dialect", dialect, "--in", "p0", "--dport", "80", "--proto", "tcp,udp"];
    const ask = "listen 50080; ask tcp 8.8.8.8 80 udp 8.8.8.8 80 tcp 192.168.7.7 80";
    for (const option of [["--bypass", "192.168.7.0/24,198.51.100.1"], ["--bypass-private"]]) {
      testTraffic(`${dialect}, ${option.join(" ")}`, async () => {
        expect(await between([...capture, "--to-port", "50080", ...option], ask)).toEqual([
          "proxy: tcp for 8.8.8.8:80",
          "proxy: udp for 8.8.8.8:80",
          "server: tcp for 192.168.7.7:80",
        ]);
      });
    }
  }
});

describe("by NAT", () => {
  for (const dialect of dialects) {
    testTraffic(`${dialect}: a relay with SO_ORIGINAL_DST, and no TPROXY`, async () => {
      const lines = await between(
        ["--dialect", dialect, "--redirect", "--to-port", "50080", "--dport", "80", "--in", "p0"],
        `background python3 traffic.py relay 50080 0 relay-ready log
        until [ -e relay-ready ]; do kill -0 "$!"; done
        ask tcp 8.8.8.8 80 tcp 8.8.4.4 80
        sort log`,
      );
      expect(lines).toEqual([
        "relayed: server: tcp for 8.8.8.8:80",
        "relayed: server: tcp for 8.8.4.4:80",
        "('8.8.4.4', 80)",
        "('8.8.8.8', 80)",
      ]);
    });
  }
});

describe("TPROXY to an address", () => {
  for (const dialect of dialects) {
    testTraffic(`${dialect}: a listener on 127.0.0.1 gets it`, async () => {
      const args = ["--dialect", dialect, "--to-port", "50080", "--to-address", "127.0.0.1"];
      const lines = await between(
        [...args, "--dport", "80", "--in", "p0"],
        `background python3 traffic.py relay 50080 0 relay-ready log 127.0.0.1
        until [ -e relay-ready ]; do kill -0 "$!"; done
        ask tcp 8.8.8.8 80`,
      );
      expect(lines).toEqual(["relayed: server: tcp for 8.8.8.8:80"]);
    });
  }
});

describe("the reply path of connections with the client's address", () => {
  const start = (to: string, protocol: string) => `
    background python3 traffic.py spoof-relay 50080 relay-ready ${to} ${protocol}
    until [ -e relay-ready ]; do kill -0 "$!"; done`;
  const places = {
    4: { destination: "8.8.8.8", server: "10.9.1.2", clients: "10.9.0.0/24" },
    6: { destination: "2001:db8::8", server: "fd00:91::2", clients: "fd00:9::/64" },
  } as const;
  const cases = dialects.flatMap((dialect) =>
    ([4, 6] as const).flatMap((family) =>
      ["tcp", "udp"].map((protocol) => ({ dialect, family, protocol })),
    ),
  );
  for (const { dialect, family, protocol } of cases) {
    const title = `${dialect}, IPv${family}, ${protocol}`;
    const { destination, server, clients } = places[family];
    const capture = ["--dialect", dialect, "--in", "p0", "--proto", protocol, "--dport", "80"];
    const all = [...capture, "--to-port", "50080", "--family", `${family}`];
    // The server answers the client, whose address the relay has taken.
    const question = `ask ${protocol} ${destination} 80`;
    const twice = `${start(server, protocol)}\n${question}\n${question}`;
    testTraffic(`${title}: none without --reply-path`, async () => {
      const args = [...all, "--dst", destination];
      expect(await between(args, twice)).toEqual(Array(2).fill("relayed: no answer"));
    });
    testTraffic(`${title}: it is there with it`, async () => {
      const shown = family === 4 ? server : `[${server}]`;
      const answer = `relayed: server: ${protocol} for ${shown}:80`;
      // What is bypassed includes the clients: what they get is, not what the proxy gets for them.
      const lines = await between([...all, "--reply-path", "--bypass", clients], twice);
      expect(lines).toEqual([answer, answer]);
    });
  }
});

describe("a client that uses its port again while the proxy is in TIME_WAIT", () => {
  for (const dialect of dialects) {
    testTraffic(`${dialect}: reaches the listener, with the reply path as well`, async () => {
      const capture = ["--dialect", dialect, "--dport", "80", "--to-port", "50080"];
      const again = "within client python3 traffic.py again 5 8.8.8.8 80 4000 4000 4001 4001";
      const lines = await between([...capture, "--reply-path"], `listen 50080\n${again}`);
      expect(lines).toEqual(Array(4).fill("proxy: tcp for 8.8.8.8:80"));
    });
  }
});

describe("a backend beside a client", () => {
  // It reaches the client by another way than this host, until what is printed is done there.
  const beside = `
    ip address add 10.9.1.1/24 dev p1 2>/dev/null || :
    ip link add l0 type veth peer name l1
    eval "ip link set l0 netns $client; ip link set l1 netns $server"
    within client ip address add 10.9.2.2/24 dev l0
    within server ip address add 10.9.2.1/24 dev l1
    within client ip link set l0 up
    within server ip link set l1 up
    within server ip route add 10.9.0.0/24 via 10.9.2.2
    background python3 traffic.py spoof-relay 50080 relay-ready 10.9.1.2
    until [ -e relay-ready ]; do kill -0 "$!"; done`;
  for (const dialect of dialects) {
    testTraffic(`${dialect}: answers through this host with what is printed for it`, async () => {
      const args = ["--dialect", dialect, "--dport", "80", "--to-port", "50080", "--in", "p0"];
      const commands = (script: string) =>
        ["PROXY=10.9.1.1", ...[...script.matchAll(/^# (ip .*)$/gm)].map(([, text]) => text)].join(
          "; ",
        );
      const all = [...args, "--backend", "10.9.1.2:80"];
      const there = (...more: string[]) =>
        `within server sh -ec '${commands(printed(...all, ...more))}'`;
      const lines = await between(
        all,
        `${beside}
        ask tcp 8.8.8.8 80
        ${there()}
        ask tcp 8.8.8.8 80
        ${there("--undo")}
        within server ip rule | grep -c 'lookup 100' || :
        ask tcp 8.8.8.8 80`,
      );
      expect(lines).toEqual([
        "relayed: no answer",
        "relayed: server: tcp for 10.9.1.2:80",
        "0",
        "relayed: no answer",
      ]);
    });
    testTraffic(`${dialect}: on this host, by an ip rule of the script`, async () => {
      const args = ["--dialect", dialect, "--dport", "80", "--to-port", "50080", "--in", "p0"];
      const lines = await between(
        [...args, "--backend", "127.0.0.1:80"],
        `background python3 traffic.py hello 80 backend-ready
        until [ -e backend-ready ]; do kill -0 "$!"; done
        background python3 traffic.py spoof-relay 50080 relay-ready 127.0.0.1
        until [ -e relay-ready ]; do kill -0 "$!"; done
        ask tcp 8.8.8.8 80`,
      );
      expect(lines).toEqual(["relayed: hello 10.9.0.2"]);
    });
  }
});

describe("a long list, from a file or from standard input", () => {
  const list = Array.from({ length: 300 }, (_, i) => `100.64.${i % 256}.${2 * (i >> 8)}\n`);
  for (const dialect of dialects) {
    const needed = dialect === "iptables" ? [...tools, "ipset"] : tools;
    testWith(needed, { ...means, root: process.getuid?.() === 0 })(
      `${dialect}: a set that captures what is in it`,
      async () => {
        const file = `/tmp/tproxy-list-${process.pid}-${dialect}`;
        await Bun.write(file, `# of a test\n${list.join("")}8.8.8.0/24 # and this\n`);
        try {
          const capture = ["--dialect", dialect, "--dst", `@${file}`, "--to-port", "50080"];
          const lines = await between(capture, "listen 50080\nask tcp 8.8.8.8 80 tcp 8.8.4.4 80");
          expect(lines).toEqual(["proxy: tcp for 8.8.8.8:80", "server: tcp for 8.8.4.4:80"]);
        } finally {
          await Bun.file(file).delete();
        }
      },
    );
  }
});

describe("two instances", () => {
  for (const dialect of dialects) {
    testTraffic(`${dialect}: each takes back its own`, async () => {
      const other = ["--table-name", "tproxyd-two", "--table", "200", "--priority", "200"];
      const args = ["--dialect", dialect, "--in", "p0", "--proto", "tcp"];
      const second = [...args, ...other, "--mark", "2/2", "--dst", "8.8.4.4"];
      const { stdout, stderr } = await inNamespace(
        `${route}
        listen 50080
        dump before
        sh -e apply.sh
        dump one
        sh -e two-apply.sh
        ask tcp 8.8.8.8 80 tcp 8.8.4.4 80
        sh -e two-undo.sh
        dump still
        diff one still
        ask tcp 8.8.8.8 80 tcp 8.8.4.4 80
        sh -e undo.sh
        dump after
        diff before after`,
        {
          files: {
            ...files,
            ...scripts([...args, "--dst", "8.8.8.8", "--to-port", "50080"]),
            ...scripts([...second, "--to-port", "50080"], "two-"),
          },
        },
      );
      expect({ stdout, stderr }).toEqual({
        stdout:
          "proxy: tcp for 8.8.8.8:80\nproxy: tcp for 8.8.4.4:80\n" +
          "proxy: tcp for 8.8.8.8:80\nserver: tcp for 8.8.4.4:80\n",
        stderr: "",
      });
    });
  }
});

describe("where src_valid_mark is 1", () => {
  for (const dialect of dialects) {
    const args = ["--dialect", dialect, "--in", "p0", "--dport", "80", "--to-port", "50080"];
    const on = "echo 1 > /proc/sys/net/ipv4/conf/all/src_valid_mark";
    const ask = "listen 50080; within client python3 transparent.py ask 1 tcp 8.8.8.8 80";
    testTraffic(`${dialect}: nothing arrives`, async () => {
      expect(await between(args, ask, on)).toEqual(["no answer"]);
    });
    testWith([...tools, "sysctl"], { ...means, root: process.getuid?.() === 0 })(
      `${dialect}: with --sysctl it does, and the setting is restored`,
      async () => {
        // What is kept of the setting is kept in a /run of its own.
        const { stdout, stderr } = await inNamespace(
          `${route}
          ${on}
          listen 50080
          export client
          unshare -m sh -eu inner.sh`,
          {
            files: {
              ...files,
              ...scripts([...args, "--sysctl"]),
              "inner.sh": `
              mount -t tmpfs none /run
              ask() { nsenter -t "$1" -n python3 transparent.py ask 10 tcp 8.8.8.8 80; }
              sysctl -a -r accept_local > before
              sh -e apply.sh
              ask "$client"
              sh -e apply.sh 2>/dev/null || echo refused
              ask "$client"
              sh -e undo.sh
              sysctl -a -r accept_local > after
              diff before after
              ls /run`,
            },
          },
        );
        const answer = "proxy: tcp for 8.8.8.8:80\n";
        expect({ stdout, stderr }).toEqual({ stdout: `${answer}refused\n${answer}`, stderr: "" });
      },
    );
  }
});

/**
 * `routes --local` at work: what a program of this host sends to another is brought to the
 * listener, and what the proxy itself sends, told by each kind of guard, is not.
 */

import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { printed } from "../helpers/routes.ts";
import { testWith } from "../helpers/tools.ts";

const isRoot = process.getuid?.() === 0;
const tools = ["ip", "nft", "iptables", "ip6tables", "nsenter", "python3", "setpriv"];
const testTraffic = testWith(tools, { "network namespaces": canUnshare, root: isRoot });

const source = (name: string) => readFileSync(new URL(name, import.meta.url), "utf8");
const files = { "transparent.py": source("transparent.py"), "traffic.py": source("traffic.py") };

/** This namespace has the programs and the proxy; `server` is the world, with 8.8.8.8 in it. */
const world = `
neighbour server p0 s0
for address in 8.8.8.8/32 192.168.7.7/32 2001:db8::8/128; do
  within server ip address add "$address" dev s0
done
ip route add default via 10.9.0.2
ip route add default via fd00:9::2
background nsenter -t "$server" -n python3 transparent.py listen 80 server-ready 'server: '
until [ -e server-ready ]; do kill -0 "$!"; done
listen() {
  background python3 transparent.py listen "$1" ready 'proxy: '
  until [ -e ready ]; do kill -0 "$!"; done
}
ask() { python3 transparent.py ask 10 "$@"; }
dump() {
  { ip rule; ip -6 rule; ip route show table all; nft list ruleset; iptables-save
    ip6tables-save; } 2>/dev/null | grep -v '^#' > "$1"
}
`;

const both = "tcp 8.8.8.8 80 udp 8.8.8.8 80 tcp 2001:db8::8 80 udp 2001:db8::8 80";
const answers = (who: string) =>
  ["tcp", "udp"].map((protocol) => `${who}: ${protocol} for 8.8.8.8:80`).join("\n") +
  "\n" +
  ["tcp", "udp"].map((protocol) => `${who}: ${protocol} for [2001:db8::8]:80`).join("\n") +
  "\n";

function scripts(args: readonly string[]) {
  return { ...files, "apply.sh": printed(...args), "undo.sh": printed(...args, "--undo") };
}

describe("a program's connections are captured, the proxy's go past", () => {
  const guards: Record<string, [option: string, asProxy: string]> = {
    mark: ["--guard-mark 0x2/0x2", "python3 - marked 2"],
    "whole mark": ["--guard-mark 0x2", "python3 - marked 2"],
    user: ["--guard-uid 4242", "setpriv --reuid 4242 --clear-groups python3 - marked 0"],
    group: ["--guard-gid 4242", "setpriv --regid 4242 --clear-groups python3 - marked 0"],
  };
  for (const dialect of ["iptables", "nft"]) {
    for (const [name, [option, asProxy]] of Object.entries(guards)) {
      for (const port of [undefined, 50080]) {
        const how = port === undefined ? [] : ["--to-port", `${port}`];
        testTraffic(`${dialect}, guarded by ${name}, ${port ? "TPROXY" : "mark"}`, async () => {
          const args = ["--dialect", dialect, "--local", "--dport", "80", "--proto", "tcp,udp"];
          const outcome = await inNamespace(
            `${world}
            listen ${port ?? 80}
            dump before
            ask ${both}
            sh -e apply.sh
            ask ${both}
            ${asProxy} ${both} < traffic.py
            sh -e undo.sh
            dump after
            ask ${both}
            cmp before after`,
            { files: scripts([...args, ...option.split(" "), "--in", "p0", ...how]) },
          );
          expect(outcome).toEqual({
            stdout: [
              answers("server"),
              answers("proxy"),
              answers("server"),
              answers("server"),
            ].join(""),
            stderr: "",
            status: 0,
          });
        });
      }
    }
  }
});

describe("a relay that connects on", () => {
  for (const dialect of ["iptables", "nft"]) {
    for (const way of ["--to-port 50080", "--redirect --to-port 50080"]) {
      testTraffic(`${dialect}, ${way}: reaches the server, and does not meet itself`, async () => {
        const args = ["--dialect", dialect, "--local", "--guard-mark", "2/2", "--dport", "80"];
        const outcome = await inNamespace(
          `${world}
          dump before
          sh -e apply.sh
          background python3 traffic.py relay 50080 2 relay-ready log
          until [ -e relay-ready ]; do kill -0 "$!"; done
          ask tcp 8.8.8.8 80
          ask tcp 8.8.8.8 80
          wc -l < log
          sh -e undo.sh
          dump after
          cmp before after`,
          { files: scripts([...args, "--family", "4", ...way.split(" ")]) },
        );
        const answer = "relayed: server: tcp for 8.8.8.8:80\n";
        expect(outcome).toEqual({ stdout: `${answer}${answer}2\n`, stderr: "", status: 0 });
      });
    }
  }
});

describe("what is bypassed goes past", () => {
  const options = {
    "--bypass": ["--bypass", "192.168.0.0/16,2001:db8::/32"],
    "--bypass-private": ["--bypass-private"],
  };
  for (const dialect of ["iptables", "nft"]) {
    for (const [name, option] of Object.entries(options)) {
      testTraffic(`${dialect}, ${name}`, async () => {
        const args = ["--dialect", dialect, "--local", "--guard-mark", "2/2", "--dport", "80"];
        const { stdout, stderr } = await inNamespace(
          `${world}
          listen 80
          sh -e apply.sh
          ask tcp 8.8.8.8 80 tcp 192.168.7.7 80 tcp 2001:db8::8 80
          sh -e undo.sh`,
          { files: scripts([...args, ...option]) },
        );
        const documentation = name === "--bypass" ? "server" : "proxy";
        expect({ stdout, stderr }).toEqual({
          stdout:
            "proxy: tcp for 8.8.8.8:80\nserver: tcp for 192.168.7.7:80\n" +
            `${documentation}: tcp for [2001:db8::8]:80\n`,
          stderr: "",
        });
      });
    }
  }
});

const hasGroups = readFileSync("/proc/filesystems", "utf8").includes("cgroup2");
const testGroups = testWith(tools, {
  "network namespaces": canUnshare,
  root: isRoot,
  cgroup2: hasGroups,
});

testGroups("a control group's sockets go past", async () => {
  const args = ["--local", "--guard-cgroup", "tproxy-test-guard", "--dport", "80", "--family", "4"];
  const { stdout, stderr } = await inNamespace(
    `${world}
    listen 80
    unshare -m sh -eu inside.sh`,
    {
      files: {
        ...files,
        "nft.sh": printed("--dialect", "nft", ...args),
        "nft-undo.sh": printed("--dialect", "nft", ...args, "--undo"),
        "iptables.sh": printed("--dialect", "iptables", ...args),
        "iptables-undo.sh": printed("--dialect", "iptables", ...args, "--undo"),
        "inside.sh": `
        mount -t cgroup2 none /sys/fs/cgroup
        group=/sys/fs/cgroup/tproxy-test-guard
        mkdir -p "$group"
        trap 'rmdir "$group"' EXIT
        for dialect in nft iptables; do
          sh -e $dialect.sh
          python3 transparent.py ask 10 tcp 8.8.8.8 80
          sh -c 'echo $$ > "$1/cgroup.procs"; exec python3 transparent.py ask 10 tcp 8.8.8.8 80' \\
            - "$group"
          sh -e $dialect-undo.sh
        done`,
      },
    },
  );
  const each = "proxy: tcp for 8.8.8.8:80\nserver: tcp for 8.8.8.8:80\n";
  expect({ stdout, stderr }).toEqual({ stdout: each + each, stderr: "" });
});

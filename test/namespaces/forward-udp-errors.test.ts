/** What `forward --udp` makes of ICMP errors and of queues that are full, beside the direct way. */

import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { canUnshare, unshareCommand } from "../helpers/netns.ts";
import { testWith } from "../helpers/tools.ts";
import { eventsOf, inLab, testInLab } from "../helpers/udp-lab.ts";

const files = {
  "datagrams.py": readFileSync(new URL("datagrams.py", import.meta.url), "utf8"),
};

/** How a host may refuse, by port, and the errno that a connected socket gets of that, if any. */
const refusals = [
  { port: 9001, reject: "icmp type port-unreachable", v4: "111", v6: "111" },
  { port: 9002, reject: "icmp type admin-prohibited", v4: "113", v6: "111" },
  { port: 9003, reject: "icmp type host-prohibited", v4: "113", v6: "111" },
  { port: 9004, reject: "icmp type net-prohibited", v4: "101", v6: "111" },
  { port: 9005, reject: "icmp type prot-unreachable", v4: "92", v6: "111" },
  { port: 9006, reject: "icmp type host-unreachable", v4: "silence", v6: "111" },
  { port: 9007, reject: "icmpv6 type admin-prohibited", v4: "111", v6: "13" },
  { port: 9008, reject: "icmpv6 type addr-unreachable", v4: "111", v6: "silence" },
];

const inUrl = (address: string) => (address.includes(":") ? `[${address}]` : address);
const rules = refusals
  .map(({ port, reject }) => `udp dport ${port} reject with ${reject}`)
  .join("\n");

describe.each([
  { family: "4", asked: "8.8.8.8", upstream: "10.9.2.2" },
  { family: "6", asked: "2001:db8::9", upstream: "fd00:2::2" },
])("IPv$family", ({ family, asked, upstream }) => {
  testInLab("every ICMP error: the client hears what it would have heard by itself", async () => {
    const isSilent = ({ v4, v6 }: (typeof refusals)[0]) => (family === "4" ? v4 : v6) === "silence";
    const silent = refusals.find(isSilent)?.port;
    const { stdout, proxy } = await inLab(
      `
      within backend sh -c 'ip address add ${asked} dev lo
        echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
        echo 0 > /proc/sys/net/ipv6/icmp/ratelimit'
      ip route add '${asked}' via '${upstream}'
      within backend nft -f - <<'RULES'
        table inet refusing {
          chain input {
            type filter hook input priority 0
            ${rules}
          }
        }
RULES
      capture 9001-9008
      forward '[::]:50053' --udp --to original
      for port in ${refusals.map(({ port }) => port).join(" ")}; do
        case $port in ${silent}) wait=1 ;; *) wait=10 ;; esac
        echo "port $port: $(within client python3 datagrams.py ask '${asked}' "$port" 1 2 "$wait")"
      done
      stop
    `,
      files,
    );
    for (const { port, v4, v6 } of refusals) {
      expect(stdout).toContain(`port ${port}: outcomes ${family === "4" ? v4 : v6}\n`);
    }
    const stopped = eventsOf(proxy, "forwarded").filter(({ reason }) => reason === "stopped");
    expect(stopped).toHaveLength(1);
  });

  testInLab("answers that are older than an ICMP error go on before the session ends", async () => {
    const { stdout, proxy } = await inLab(
      `
      in_background backend python3 datagrams.py last-words '${upstream}' 9000 > server.log
      until grep -q bound server.log; do kill -0 "$!"; done
      capture 53
      forward '[::]:50053' --udp --to '${inUrl(upstream)}:9000' --source self
      in_background client python3 datagrams.py listen '${asked}' 53 > client.log
      listener=$!
      until [ -e answered ]; do kill -0 "$listener"; done
      kill -STOP "$proxy"
      : > stopped
      until grep -q said server.log; do kill -0 "$listener"; done
      errors() { awk '/^Icmp: [0-9]/ { print $5 } /Icmp6InDestUnreachs/ { print $2 }' \
        /proc/net/snmp /proc/net/snmp6; }
      until errors | grep -q '[1-9]'; do kill -0 "$listener"; done
      kill -CONT "$proxy"
      wait "$listener"
      logged forwarded 1
      sort client.log
    `,
      files,
    );
    expect(stdout).toStartWith("heard a refusal\nheard last 0\nheard last 1\nheard last 2\n");
    expect(eventsOf(proxy, "forwarded")).toMatchObject([
      { upstream_datagrams: 4, reason: "unreachable", ended_by: "upstream", error: "ECONNREFUSED" },
    ]);
  });
});

const tbf = "tc qdisc add dev lo root tbf rate 1mbit burst 10kb limit 10kb";
const hasTbf =
  canUnshare && Bun.spawnSync([...unshareCommand, ...tbf.split(" ")], { stderr: "ignore" }).success;
// Only root has larger buffers than net.core.rmem_max and wmem_max allow.
const testAsRoot = testWith(["ip", "nft", "nsenter", "python3"], {
  "network namespaces": canUnshare,
  "sch_tbf of the kernel": hasTbf,
  root: process.getuid?.() === 0,
});

testAsRoot(
  "what waits at a slower interface is not lost, as it is not when it is routed",
  async () => {
    const { stdout, proxy } = await inLab(
      `
    tc qdisc add dev p1 root tbf rate 100mbit burst 64kb limit 16mb
    in_background backend python3 datagrams.py sink 9000 > server.log
    until grep -q bound server.log; do kill -0 "$!"; done
    capture 53
    forward '[::]:50053' --udp --to 10.9.2.2:9000 --to '[fd00:2::2]:9000'
    for asked in 8.8.8.8 2001:db8::9; do
      within client python3 datagrams.py burst "$asked" 53 600 1400
    done
    stop
  `,
      files,
    );
    expect(stdout).toStartWith("arrived 600\narrived 600\n");
    expect(eventsOf(proxy, "warning")).toEqual([]);
  },
);

/**
 * The kernel path under load while things fail around it: the rules of others are flushed, an
 * upstream dies, the clients' interface is made anew, the process drains. Each attempt is counted.
 */

import { expect } from "bun:test";
import { canUnshare } from "../helpers/netns.ts";
import { command, runAmongHosts } from "../helpers/three-hosts.ts";
import { testWith } from "../helpers/tools.ts";

const read = (name: string) => Bun.file(new URL(`./${name}`, import.meta.url)).text();
const files = { "flows.py": await read("flows.py"), "load.py": await read("load.py") };
const clients = [2, 11, 12, 13].map((n) => `10.9.1.${n}`);

/** What the clients of a part of the test met with. */
function countsOf(stdout: string, part: string): Record<string, number> {
  return JSON.parse(new RegExp(`^${part} (.*)$`, "m").exec(stdout)?.[1] ?? "{}");
}

testWith(["ip", "nft", "python3"], { "network namespaces": canUnshare })(
  "forward --path kernel under load: a flush, a dead upstream, a new interface, a drain",
  async () => {
    const { stdout, proxy } = await runAmongHosts(
      `
      within backend ip address add 10.9.2.3/24 dev b0
      for n in 11 12 13; do within client ip address add 10.9.1.$n/24 dev c0; done
      sysctl -qw net.ipv4.ip_forward=1
      serve() {
        : > "server-$1.log"
        in_background backend python3 flows.py serve 8080 "$1" > "server-$1.log"
        until grep -q serving "server-$1.log"; do kill -0 $!; done
      }
      load() { within client python3 load.py "$1" 80 8.8.8.8 ${clients.join(" ")}; }
      logged() { until grep -q "$1" proxy.log; do kill -0 $proxy; sleep 0.05; done; }
      serve 10.9.2.2
      serve 10.9.2.3
      dying=$!
      ${command} forward :80 --json --routes auto --path kernel --log-level warning --in p0 \\
        --to 10.9.2.2:8080 --to 10.9.2.3:8080 > proxy.log 2>&1 &
      proxy=$!; started="$started $proxy"
      logged kernel-path
      nft add table inet foreign
      load 4 > flushed & loading=$!
      sleep 1; nft flush ruleset; sleep 1; nft add table inet foreign; nft flush ruleset
      wait $loading
      load 6 > died & loading=$!
      sleep 1; kill -KILL $dying
      logged 'rests for'
      wait $loading
      load 2 > without
      ip link del p0
      veth client p0 c0
      ip address add 10.9.1.1/24 dev p0
      within client ip address add 10.9.1.2/24 dev c0
      for n in 11 12 13; do within client ip address add 10.9.1.$n/24 dev c0; done
      within client ip route add default via 10.9.1.1
      load 2 > anew
      mkfifo lines; exec 7<>lines
      nsenter -t "$client" -n python3 flows.py hold 80 8.8.8.8 < lines > held.log &
      held=$!; started="$started $!"
      until grep -q sees held.log; do :; done
      kill -TERM $proxy
      logged 'may go on'
      echo 'while it drains' >&7
      until grep -q 'while it drains' held.log; do :; done
      echo "held while it drained"
      kill $held
      wait $proxy && echo "ended: 0" || echo "ended: $?"
      for part in flushed died without anew; do echo "$part $(cat $part)"; done`,
      { files, timeoutMs: 230_000 },
    );
    const counts = (part: string) => countsOf(stdout, part);
    for (const part of ["flushed", "without", "anew"]) {
      const { asked = 0, ...met } = counts(part);
      expect(asked).toBeGreaterThan(20);
      // Not a single one is lost.
      expect([part, met]).toEqual([part, { answered: asked }]);
    }
    const { asked = 0, answered = 0, ...lost } = counts("died");
    expect(answered).toBeGreaterThan(20);
    // Only what the upstream itself had accepted when it died; nobody is refused. The kernel closes
    // the listener of a dead process last, so a client may have been accepted once more.
    expect(asked - answered).toBeLessThanOrEqual(2 * clients.length);
    expect(Object.keys(lost)).not.toContain("ConnectionRefusedError");
    expect(Object.keys(lost)).not.toContain("TimeoutError");
    expect(stdout).toContain("held while it drained\nended: 0");
    expect(proxy.map(({ text }) => text)).toContainEqual(
      expect.stringMatching(/^upstream 10\.9\.2\.3:8080 rests for 10 s: 3 clients in a row had /),
    );
  },
  240_000,
);

const configuration = `
[log]
format = "json"
level = "warning"
[routes]
install = "auto"
sysctl = true
[[pool]]
name = "web"
passive = { failures = 1, rest = "1s", rest-max = "1s" }
# One serves, one refuses, and of one there is nothing but errors of ICMP.
to = [
  "10.9.2.2:8080", "10.9.2.3:8080", "10.9.2.4:8080",
  "[fd00:2::2]:8080", "[fd00:2::3]:8080", "[fd00:2::4]:8080",
]
[[service]]
name = "web"
listen = "[::]:80"
pool = "web"
path = "kernel"
`;

testWith(["ip", "nft", "python3"], { "network namespaces": canUnshare })(
  "nobody is refused beside a dead upstream that is tried again and again, in both families",
  async () => {
    const { stdout, proxy } = await runAmongHosts(
      `
      for n in 11 12 13; do
        within client ip address add 10.9.1.$n/24 dev c0
        within client ip address add fd00:1::$n/64 dev c0 nodad
      done
      within backend ip address add 10.9.2.3/24 dev b0
      within backend ip address add fd00:2::3/64 dev b0 nodad
      in_background backend python3 flows.py serve 8080 10.9.2.2 fd00:2::2 > server.log
      until grep -q serving server.log; do kill -0 $!; done
      ${command} run --config tproxy.toml > proxy.log 2>&1 &
      proxy=$!; started="$started $proxy"
      until grep -q kernel-path proxy.log; do kill -0 $proxy; done
      within client python3 load.py 10 80 8.8.8.8 ${clients.join(" ")} > v4 &
      loading=$!
      within client python3 load.py 10 80 2001:db8::9 fd00:1::2 fd00:1::11 fd00:1::12 > v6
      wait $loading
      kill -TERM $proxy; wait $proxy
      for part in v4 v6; do echo "$part $(cat $part)"; done`,
      { files: { ...files, "tproxy.toml": configuration }, timeoutMs: 230_000 },
    );
    for (const part of ["v4", "v6"]) {
      const { asked = 0, answered } = countsOf(stdout, part);
      expect(asked).toBeGreaterThan(20);
      expect(answered).toBe(asked);
    }
    const rests = proxy.flatMap(({ text }) => {
      const [, upstream] = /^service web: upstream (.*):8080 rests for/.exec(`${text}`) ?? [];
      return upstream === undefined ? [] : [upstream];
    });
    expect([...new Set(rests)].toSorted()).toEqual([
      ...["10.9.2.3", "10.9.2.4", "[fd00:2::3]", "[fd00:2::4]"],
    ]);
  },
  240_000,
);

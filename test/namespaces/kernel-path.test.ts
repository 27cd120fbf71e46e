/**
 * `forward --path kernel`: connections of both families and protocols, carried by the kernel alone,
 * from the first rule to the last connection.
 */

import { describe, expect } from "bun:test";
import { canUnshare } from "../helpers/netns.ts";
import { command, runAmongHosts } from "../helpers/three-hosts.ts";
import { testWith } from "../helpers/tools.ts";

const testPath = testWith(["ip", "nft", "python3"], { "network namespaces": canUnshare });
const flows = await Bun.file(new URL("./flows.py", import.meta.url)).text();

/**
 * The backend has two addresses of each family. `path ARGUMENTS…` starts a proxy on the kernel
 * path, its log in `proxy.log` and its id in $proxy; `ask COUNT ADDRESS…` asks as the client does.
 */
const lab = `
within backend ip address add 10.9.2.3/24 dev b0
within backend ip address add fd00:2::3/64 dev b0 nodad
in_background backend python3 flows.py serve 8080 10.9.2.2 10.9.2.3 fd00:2::2 fd00:2::3 > server.log
until grep -q serving server.log; do :; done
forwarding() { sysctl -qw "net.ipv4.ip_forward=$1" "net.ipv6.conf.all.forwarding=$1"; }
upstreams='--to 10.9.2.2:8080 --to 10.9.2.3:8080 --to [fd00:2::2]:8080 --to [fd00:2::3]:8080'
forward() { ${command} forward --json --routes auto --path kernel "$@"; }
path() {
  : > proxy.log
  ${command} forward --json --routes auto --path kernel "$@" > proxy.log 2>&1 &
  proxy=$!; started="$started $!"
  until grep -q '"kernel-path"' proxy.log; do kill -0 "$proxy" || { cat proxy.log; return 1; }; done
}
stopped() { kill "-$1" "$proxy"; wait "$proxy" && echo "ended: 0" || echo "ended: $?"; }
ask() { within client python3 flows.py ask "$@"; }
dump() { { ip rule; ip -6 rule; ip route; ip -6 route; nft list ruleset; } > "$1"; }
same() { diff "$1" "$2" && echo "the same: $3"; }
`;

const runLab = (script: string) =>
  runAmongHosts(`${lab}${script}`, { files: { "flows.py": flows }, timeoutMs: 230_000 });

/** What clients were told, without what the logs had behind it. */
const told = (stdout: string) =>
  stdout.split("\n").filter((line) => !/^(proxy|backend) |^$/.test(line));

describe("forward --path kernel", () => {
  testPath(
    "established connections go on while it drains, and the next process takes the new ones",
    async () => {
      const { stdout } = await runLab(`
      forwarding 1
      path :80 --to 10.9.2.2:8080 --drain-timeout 60s
      mkfifo lines
      exec 3<> lines
      nsenter -t "$client" -n python3 flows.py hold 80 8.8.8.8 < lines > held.log &
      started="$started $!"
      until grep -q sees held.log; do :; done
      kill -TERM "$proxy"; first=$proxy
      until nft list tables | grep -q draining; do :; done
      nft list tables | grep draining
      path :80 --to 10.9.2.3:8080
      echo still >&3; until grep -q still held.log; do :; done
      ask 1 80 8.8.8.8
      echo end >&3
      wait "$first" && echo "ended: 0"
      nft list tables
      cat held.log
      stopped TERM
      nft list tables
    `);
      expect(told(stdout).filter((line) => !line.startsWith("udp"))).toEqual([
        expect.stringMatching(/^table inet tproxyd_draining_\d+$/),
        "tcp; 8.8.8.8; 10.9.2.3 sees 10.9.1.2",
        "ended: 0",
        "table inet tproxyd",
        "10.9.2.2 sees 10.9.1.2",
        "still",
        "ended: 0",
      ]);
    },
    240_000,
  );

  testPath(
    "tproxy run carries services in the kernel beside those of the relay",
    async () => {
      const { stdout } = await runLab(`
      forwarding 1
      cat > tproxy.toml <<'END'
[log]
format = "json"
[routes]
install = "auto"
[[service]]
name = "web"
listen = [":80", "udp://:80"]
to = "10.9.2.2:8080"
path = "kernel"
[[service]]
name = "six"
listen = "[::]:81"
to = ["10.9.2.3:8080", "[fd00:2::3]:8080"]
path = "auto"
source = "self"
[[service]]
name = "relayed"
listen = "[::]:82"
to = "10.9.2.2:8080"
path = "auto"
END
      : > proxy.log
      ${command} run --config tproxy.toml > proxy.log 2>&1 &
      proxy=$!; started="$started $!"
      until [ "$(grep -c '"kernel-path"' proxy.log)" = 3 ] && grep -q '"bound"' proxy.log; do
        kill -0 "$proxy"
      done
      ask 1 80 8.8.8.8
      ask 1 81 8.8.8.8 2001:db8::9
      ask 1 82 8.8.8.8
      grep -o 'the relay carries connections, not the kernel[^"]*' proxy.log
      nft list tables
      stopped TERM
      nft list tables
    `);
      expect(told(stdout).filter((line) => !/^udp; .*; \w+(Error|Timeout)/.test(line))).toEqual([
        "tcp; 8.8.8.8; 10.9.2.2 sees 10.9.1.2",
        "udp; 8.8.8.8; 10.9.2.2 sees 10.9.1.2",
        "tcp; 8.8.8.8; 10.9.2.3 sees 10.9.2.1",
        "tcp; 2001:db8::9; fd00:2::3 sees fd00:2::1",
        "tcp; 8.8.8.8; 10.9.2.2 sees 10.9.1.2",
        "the relay carries connections, not the kernel: " +
          "clients of IPv6 have no upstream of their family",
        "table inet tproxyd",
        "table inet tproxyd-2",
        "ended: 0",
      ]);
    },
    240_000,
  );

  testPath(
    "TCP and UDP of both families reach the upstreams in turn, from the client's address",
    async () => {
      const { stdout } = await runLab(`
        dump before
        forward :80 $upstreams 2>&1 || echo "status $?"
        forwarding 1
        dump before
        path '[::]:80' --tcp --udp $upstreams
        ask 4 80 10.9.1.1 8.8.8.8 fd00:1::1 2001:db8::9
        python3 flows.py ask 2 80 10.9.1.1 fd00:1::1
        stopped TERM
        dump after; same before after "stopped"
        path :80 $upstreams
        stopped KILL
        until ! nft list tables | grep -q .; do :; done
        dump after; same before after "killed"
      `);
      expect(told(stdout)).toEqual([
        "tproxy: --path kernel cannot carry this, this host does not forward IPv4 " +
          "(net.ipv4.ip_forward): set it, give --sysctl, or give --path relay",
        "status 2",
        ...["10.9.1.1", "8.8.8.8"].flatMap((address) => [
          `tcp; ${address}; 10.9.2.2 sees 10.9.1.2; 10.9.2.3 sees 10.9.1.2`,
          `udp; ${address}; 10.9.2.2 sees 10.9.1.2; 10.9.2.3 sees 10.9.1.2`,
        ]),
        ...["fd00:1::1", "2001:db8::9"].flatMap((address) => [
          `tcp; ${address}; fd00:2::2 sees fd00:1::2; fd00:2::3 sees fd00:1::2`,
          `udp; ${address}; fd00:2::2 sees fd00:1::2; fd00:2::3 sees fd00:1::2`,
        ]),
        ...["tcp", "udp"].map(
          (name) => `${name}; 10.9.1.1; 10.9.2.2 sees 10.9.1.1; 10.9.2.3 sees 10.9.1.1`,
        ),
        ...["tcp", "udp"].map(
          (name) => `${name}; fd00:1::1; fd00:2::2 sees fd00:1::1; fd00:2::3 sees fd00:1::1`,
        ),
        ...["ended: 0", "the same: stopped", "ended: 137", "the same: killed"],
      ]);
    },
    240_000,
  );
});

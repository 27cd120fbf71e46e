/** Services of the relay beside services of the kernel path, and such a service that goes away. */

import { describe, expect } from "bun:test";
import { canUnshare } from "../helpers/netns.ts";
import { command, runAmongHosts } from "../helpers/three-hosts.ts";
import { testWith } from "../helpers/tools.ts";

const read = (name: string) => Bun.file(new URL(`./${name}`, import.meta.url)).text();
const pythons = { "flows.py": await read("flows.py"), "ports.py": await read("ports.py") };
const testPath = testWith(["ip", "nft", "python3"], { "network namespaces": canUnshare });

const service = (port: number, path: string) => `
[[service]]
name = "port${port}"
listen = ["[::]:${port}", "udp://[::]:${port}"]
to = ["10.9.2.2:8080", "[fd00:2::2]:8080"]
path = "${path}"
source = "client:port"
`;
const configuration = (...services: string[]) => `
[log]
format = "json"
[routes]
install = "auto"
[admin]
socket = "FOLDER/admin.sock"
${services.join("")}`;

/** `serve FILE` starts a proxy; it waits for as many lines as services and protocols there are. */
const lab = `
in_background backend python3 flows.py serve 8080 10.9.2.2 fd00:2::2 > server.log
until grep -q serving server.log; do :; done
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
serve() {
  sed "s|FOLDER|$PWD|" "$1" > tproxy.toml
  ${command} run --config tproxy.toml > proxy.log 2>&1 &
  proxy=$!; started="$started $!"
  until [ "$(grep -c '"bound"\\|"kernel-path"' proxy.log)" = "$2" ]; do kill -0 "$proxy"; done
}
reload() {
  sed "s|FOLDER|$PWD|" "$1" > tproxy.toml; shift
  ${command} reload --admin "$PWD/admin.sock" "$@"
}
`;

const runLab = (script: string, services: Readonly<Record<string, string>>) =>
  runAmongHosts(`${lab}${script}`, { files: { ...pythons, ...services }, timeoutMs: 110_000 });

/** What the script printed, without logs. */
const told = (stdout: string) =>
  stdout.split("\n").filter((line) => !/^(proxy|backend) |^$/.test(line));

describe("tproxy run with services of both data paths", () => {
  testPath(
    "the relay gets answers at a port from which the kernel has carried a connection",
    async () => {
      const { stdout } = await runLab(
        `
        serve both.toml 4
        within client python3 ports.py tcp,udp 4 8.8.8.8 10.9.1.2 80 81
        within client python3 ports.py tcp,udp 4 2001:db8::9 fd00:1::2 80 81
        kill -TERM "$proxy"; wait "$proxy"
        `,
        { "both.toml": configuration(service(80, "kernel"), service(81, "relay")) },
      );
      const seen = ["10.9.2.2 sees 10.9.1.2", "fd00:2::2 sees fd00:1::2"];
      expect(told(stdout)).toEqual(
        seen.flatMap((each) => [
          ...[`tcp; 80; ${each}`, `tcp; 81; ${each}`],
          ...[`udp; 80; ${each}`, `udp; 81; ${each}`],
        ]),
      );
    },
    120_000,
  );

  testPath(
    "connections of a service that a reload removes go on, and end with --close-removed",
    async () => {
      const { stdout } = await runLab(
        `
        serve both.toml 4
        mkfifo lines; exec 4<> lines
        nsenter -t "$client" -n python3 flows.py hold 80 8.8.8.8 < lines > held.log &
        holding=$!; started="$started $!"
        until grep -q sees held.log; do kill -0 "$proxy"; done
        open() {
          ${command} connections --admin "$PWD/admin.sock" --json | grep -c "\\"$1\\"" || :
        }
        reload relay.toml
        echo "it goes on" >&4; until grep 'it goes on' held.log; do kill -0 "$proxy"; done
        echo "open: $(open port80)"
        nft list tables | sed 's/_[0-9]*$/_N/'
        # Its number is not given to another one, which would have its connections.
        reload other.toml
        within client python3 flows.py ask-as 82 8.8.8.8 10.9.1.2
        echo "still" >&4; until grep still held.log; do kill -0 "$proxy"; done
        echo "open: $(open port80)"
        echo end >&4; wait "$holding"
        until ! nft list tables | grep draining; do kill -0 "$proxy"; done > waited.log
        nft list tables
        nsenter -t "$client" -n python3 flows.py hold 82 8.8.8.8 < lines > closed.log &
        started="$started $!"
        until grep -q sees closed.log; do kill -0 "$proxy"; done
        echo "open: $(open port82)"
        reload relay.toml --close-removed
        echo "open: $(open port82)"
        kill -TERM "$proxy"; wait "$proxy"
        grep '"port82"' proxy.log | grep -c '"reason":"stopped"'
        nft list tables
        `,
        {
          "both.toml": configuration(service(80, "kernel"), service(81, "relay")),
          "relay.toml": configuration(service(81, "relay")),
          "other.toml": configuration(service(81, "relay"), service(82, "kernel")),
        },
      );
      expect(told(stdout)).toEqual([
        ...["- service port80", "applied: generation 2", "it goes on", "open: 1"],
        ...["table inet tproxyd", "table inet tproxyd-2_draining_N"],
        ...["+ service port82: listen [::]:82, udp://[::]:82", "applied: generation 3"],
        ...["10.9.2.2", "still", "open: 1", "table inet tproxyd", "table inet tproxyd-2"],
        ...["open: 1", "- service port82", "applied: generation 4", "open: 0", "1"],
      ]);
    },
    120_000,
  );
});

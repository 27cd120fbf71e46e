/**
 * Pools of services that the kernel carries: what an administrator asks for and what checks find
 * decides which upstreams get new connections, and what becomes of open ones.
 */

import { describe, expect } from "bun:test";
import { canUnshare } from "../helpers/netns.ts";
import { command, runAmongHosts } from "../helpers/three-hosts.ts";
import { testWith } from "../helpers/tools.ts";

const testPath = testWith(["ip", "nft", "python3"], { "network namespaces": canUnshare });
const flows = await Bun.file(new URL("./flows.py", import.meta.url)).text();

const configuration = `
[log]
format = "json"
[routes]
install = "auto"
[admin]
socket = "FOLDER/admin.sock"
[[pool]]
name = "web"
on-down = "close"
check = { type = "tcp", interval = "200ms" }
[[pool.upstream]]
name = "web1"
to = "10.9.2.2:8080"
[[pool.upstream]]
name = "web2"
to = "10.9.2.3:8080"
[[pool.upstream]]
name = "spare"
to = "10.9.2.4:8080"
backup = true
[[pool]]
name = "gone"
check = { type = "tcp", interval = "200ms" }
to = "10.9.2.2:8081"  # Nobody listens there, and a check that were captured would be answered.
[[pool]]
name = "six"
[[pool.upstream]]
name = "six1"
to = "[fd00:2::2]:8080"
[[pool.upstream]]
name = "six2"
to = "[fd00:2::3]:8080"
[[service]]
name = "web"
listen = [":80", "udp://:80"]
pool = "web"
path = "kernel"
capture = { dport = [80, 8081], local = true }
[[service]]
name = "gone"
listen = ":82"
pool = "gone"
path = "kernel"
[[service]]
name = "six"
listen = ["[2001:db8::9]:80", "udp://[2001:db8::9]:80"]
pool = "six"
path = "kernel"
`;

/**
 * `held NAME` begins a connection whose log is NAME.log, and `send NAME TEXT` sends a line through
 * it; `logged WORD…` waits for a line of the proxy's log that has all of these words.
 */
const lab = `
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
sed "s|FOLDER|$PWD|" template.toml > tproxy.toml
for n in 3 4; do within backend ip address add 10.9.2.$n/24 dev b0; done
within backend ip address add fd00:2::3/64 dev b0 nodad
serve() {
  in_background backend python3 flows.py serve 8080 "$@" > "server-$1.log"
  server_of_last=$!
  until grep -q serving "server-$1.log"; do kill -0 $server_of_last; done
}
ask() { within client python3 flows.py ask 4 80 "$@"; }
tell() { ${command} "$@" --admin "$PWD/admin.sock"; }
held() {
  mkfifo "$1.in"
  nsenter -t "$client" -n python3 flows.py hold 80 8.8.8.8 < "$1.in" > "$1.log" 2>&1 &
  eval "$1_pid=$!"; started="$started $!"
  eval "exec $2<>$1.in"
  until grep -q sees "$1.log"; do :; done
}
logged() {
  for _ in $(seq 600); do
    found=$(cat proxy.log)
    for word in "$@"; do found=$(printf '%s\\n' "$found" | grep -F -e "$word" || :); done
    [ -z "$found" ] || return 0
    sleep 0.05
  done
  echo "not logged: $*" >&2; return 1
}
# The status is 1 where an upstream is down, which a check may have found already.
ready() { grep -q '"kernel-path"' proxy.log && { tell status > status.log || [ $? = 1 ]; }; }
start() {
  : > proxy.log
  ${command} run --config tproxy.toml >> proxy.log 2>&1 &
  proxy=$!; started="$started $!"
  until ready; do kill -0 $proxy; done
}
`;

const runLab = (script: string) =>
  runAmongHosts(`${lab}${script}`, {
    files: { "flows.py": flows, "template.toml": configuration },
    timeoutMs: 230_000,
  });

/** What clients were told, by the last parts of the upstreams' addresses. */
const told = (stdout: string) =>
  stdout
    .split("\n")
    .filter((line) => !/^(proxy|backend) |^$/.test(line))
    .map((line) => line.replace(/; \S+; /, " ").replaceAll(/\S*[.:](\d) sees [^;]+/g, "$1"));

const both = (hosts: string) => [`tcp ${hosts}`, `udp ${hosts}`];

describe("pools of services in the kernel", () => {
  testPath(
    "drain, down, ready, weights and checks move new connections; down resets open ones",
    async () => {
      const { stdout, proxy } = await runLab(`
        serve 10.9.2.2 fd00:2::2; serve 10.9.2.4; serve 10.9.2.3 fd00:2::3
        start
        logged '"upstream"' '10.9.2.2:8081' '"to":"down"'
        echo start; ask 8.8.8.8 2001:db8::9
        held one 7; held two 8
        case $(cat one.log) in 10.9.2.2*) on_web1=7 on_web2=8 ;; *) on_web1=8 on_web2=7 ;; esac
        cat one.log two.log | sort
        tell drain web/web1 > answers.log; tell drain six/six2 >> answers.log
        echo drained; ask 8.8.8.8 2001:db8::9
        echo still >&$on_web1; until cat one.log two.log | grep -q still; do :; done
        tell drain web/web2 --force >> answers.log
        echo "the backup"; ask 8.8.8.8
        tell ready web/web1 >> answers.log; tell ready web/web2 >> answers.log
        tell ready six/six2 >> answers.log
        echo ready; ask 8.8.8.8 2001:db8::9
        tell ready web/web2 --weight 0 >> answers.log
        echo "no weight"; ask 8.8.8.8
        tell ready web/web2 --weight 100 >> answers.log
        tell down web/web1 >> answers.log
        echo down; ask 8.8.8.8
        logged '"forwarded"' '"down"' '10.9.2.2:8080'
        echo lost >&$on_web1
        until cat one.log two.log | grep -q ConnectionReset; do :; done
        echo kept >&$on_web2; until cat one.log two.log | grep -q kept; do :; done
        tell ready web/web1 >> answers.log
        kill $server_of_last; wait $server_of_last || :
        logged '"upstream"' '10.9.2.3:8080' '"to":"down"'
        echo "a check fails"; ask 8.8.8.8
        serve 10.9.2.3 fd00:2::3
        logged '"upstream"' '10.9.2.3:8080' '"to":"up"'
        echo "a check succeeds"; ask 8.8.8.8
        kill -TERM $proxy; wait $proxy
      `);
      expect(told(stdout)).toEqual([
        ...["start", ...both("2; 3"), ...both("2; 3"), "2", "3"],
        ...["drained", ...both("3"), ...both("2")],
        ...["the backup", ...both("4")],
        ...["ready", ...both("2; 3"), ...both("2; 3")],
        ...["no weight", ...both("2"), "down", ...both("3")],
        ...["a check fails", ...both("2"), "a check succeeds", ...both("2; 3")],
      ]);
      const closed = proxy.filter(({ event, reason, protocol }) => {
        return event === "forwarded" && reason === "down" && protocol === "tcp";
      });
      expect(closed.map(({ upstream }) => upstream)).toEqual(["10.9.2.2:8080", "10.9.2.3:8080"]);
    },
    240_000,
  );

  testPath(
    "an upgrade keeps connections, what is drained and settings, and loses no attempt",
    async () => {
      const { stdout } = await runLab(`
        sysctl -qw net.ipv4.ip_forward=0
        serve 10.9.2.2; serve 10.9.2.3
        : > proxy.log
        ${command} forward --json --log-level info --routes auto --path kernel --sysctl \\
          --table-name mine --admin "$PWD/admin.sock" --tcp --udp :80 \\
          --to 10.9.2.2:8080 --to 10.9.2.3:8080 >> proxy.log 2>&1 &
        proxy=$!; started="$started $!"
        until ready; do kill -0 $proxy; done
        held one 7; held two 8
        cat one.log two.log | sort
        tell drain forward/10.9.2.2:8080 > answers.log
        accepted() { tell status --json | sed 's/.*"accepted":\\([0-9]*\\).*/\\1/'; }
        until [ "$(accepted)" -ge 2 ]; do sleep 0.05; done
        before=$(accepted)
        (until [ -e enough ]; do ask 8.8.8.8; done > asked.log) &
        asking=$!; started="$started $!"
        until [ -s asked.log ]; do sleep 0.02; done
        tell upgrade > answers.log
        until nft list tables | grep -q mine_draining; do sleep 0.1; done
        nft list tables | grep -v draining
        new=$(sed -n 's/^process \\([0-9]*\\) .*/\\1/p' answers.log)
        until [ "$(accepted)" -ge "$before" ]; do sleep 0.1; done
        echo "counted on"
        for n in 7 8; do echo still >&$n; done
        until grep -q still one.log && grep -q still two.log; do sleep 0.02; done
        held three 9
        for n in 7 8; do echo end >&$n; done
        wait $proxy
        echo "not the old one's" >&9; until grep -q "old one" three.log; do sleep 0.02; done
        touch enough; wait $asking
        sort -u asked.log
        tell ready forward/10.9.2.2:8080 > answers.log
        ask 8.8.8.8
        echo end >&9
        kill -TERM $new; while kill -0 $new 2> kill.log; do sleep 0.02; done
        nft list tables
        sysctl net.ipv4.ip_forward
      `);
      expect(told(stdout)).toEqual([
        ...["2", "3", "table inet mine-2", "counted on", ...both("3"), ...both("2; 3")],
        "net.ipv4.ip_forward = 0",
      ]);
    },
    240_000,
  );
});

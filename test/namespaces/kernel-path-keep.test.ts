/**
 * What happens to services of the kernel path when their process ends: with `--on-exit keep` they
 * are carried on, and the next process adopts them; with `closed` new connections are refused.
 * Clients of both families ask without a pause meanwhile, and each attempt is counted.
 */

import { describe, expect } from "bun:test";
import { canUnshare } from "../helpers/netns.ts";
import { command, runAmongHosts } from "../helpers/three-hosts.ts";
import { testWith } from "../helpers/tools.ts";

const read = (name: string) => Bun.file(new URL(`./${name}`, import.meta.url)).text();
const files = {
  "flows.py": await read("flows.py"),
  "load.py": await read("load.py"),
  "ports.py": await read("ports.py"),
};
const testPath = testWith(["ip", "nft", "python3"], { "network namespaces": canUnshare });

/**
 * `path ARGUMENTS…` starts a proxy, its log in `proxy.log` and its id in $proxy; `load` starts the
 * clients, and `counted NAME` ends them and prints what they met. `held` proves that a connection
 * goes on that was there before all of it.
 */
const lab = `
within backend ip address add 10.9.2.3/24 dev b0
within backend ip address add fd00:2::3/64 dev b0 nodad
in_background backend python3 flows.py serve 8080 10.9.2.2 10.9.2.3 fd00:2::2 fd00:2::3 > server.log
until grep -q serving server.log; do :; done
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
both='--to 10.9.2.2:8080 --to 10.9.2.3:8080 --to [fd00:2::2]:8080 --to [fd00:2::3]:8080'
path() {
  : > proxy.log
  ${command} forward [::]:80 --json --log-level warning --routes auto "$@" > proxy.log 2>&1 &
  proxy=$!; started="$started $!"
  until grep -q '"\\(kernel-path\\|bound\\)"' proxy.log; do
    kill -0 "$proxy" || { cat proxy.log >&2; return 1; }
  done
}
stopped() { kill "-$1" "$proxy"; wait "$proxy" 2> wait.log && echo "ended: 0" || echo "ended: $?"; }
ask() {
  within client python3 flows.py ask-as 80 8.8.8.8 10.9.1.2 10.9.1.2 10.9.1.2 10.9.1.2
  within client python3 flows.py ask-as 80 2001:db8::9 fd00:1::2 fd00:1::2 fd00:1::2 fd00:1::2
}
load() {
  rm -f over
  for family in 4 6; do
    case $family in
      4) to="8.8.8.8 10.9.1.2 10.9.1.2" ;;
      6) to="2001:db8::9 fd00:1::2 fd00:1::2" ;;
    esac
    nsenter -t "$client" -n python3 load.py over 80 $to > "load$family" &
    started="$started $!"; eval "load$family=$!"
  done
}
counted() { touch over; wait $load4 $load6; cat load4 load6 | sed "s/^/$1 /"; }
mkfifo lines; exec 3<> lines
hold() {
  nsenter -t "$client" -n python3 flows.py hold 80 8.8.8.8 < lines > held.log &
  holding=$!; started="$started $!"
  until grep -q sees held.log; do :; done
}
held() { echo "$1" >&3; until grep -q "$1" held.log; do :; done; echo "held: $1"; }
# From the same ports each time: the kernel remembers the connections that it has carried.
used_ports() {
  within client python3 ports.py tcp 12 8.8.8.8 10.9.1.2 80
  within client python3 ports.py tcp 12 2001:db8::9 fd00:1::2 80
}
# Without the lines about its owner.
table() { nft list table inet tproxyd | tail -n +3 > "$1"; }
`;

const runLab = (script: string) => runAmongHosts(`${lab}${script}`, { files, timeoutMs: 230_000 });

/** What the script printed, without logs. */
const told = (stdout: string) =>
  stdout.split("\n").filter((line) => !/^(proxy|backend) |^$/.test(line));

/** What clients of a part met with: for each family. */
const counts = (stdout: string, part: string) =>
  [...stdout.matchAll(new RegExp(`^${part} ({.*})$`, "gm"))].map(
    ([, json = ""]) => JSON.parse(json) as Record<string, number>,
  );

describe("forward --path kernel --on-exit", () => {
  testPath(
    "keep: no connection is lost over SIGTERM, SIGKILL, adoption, other settings, and the relay",
    async () => {
      const { stdout } = await runLab(`
      kept="--path kernel --on-exit keep"
      other="--source self --to 10.9.2.3:8080 --to [fd00:2::3]:8080"
      { ip rule; ip -6 rule; nft list ruleset; } > before
      path $kept $both
      hold; load
      ask; stopped TERM; ask; held "after TERM"
      table left
      path $kept $both; grep -o 'adopted, as another process has left it' proxy.log
      table adopted; diff left adopted && echo "the same table"
      ask; stopped KILL; ask; held "after KILL"
      path $kept $both; ask; held "adopted again"
      used_ports
      stopped TERM
      path $kept $other; ask; held "other settings"
      table changed
      stopped TERM
      path --path relay --source client:port $both; ask; held "by the relay"
      used_ports
      nft list tables | sed 's/_[0-9]*$/_N/' | sort
      counted load
      stopped TERM
      { ip rule; ip -6 rule; nft list ruleset; } > after
      diff before after && echo "as before"
      path $kept $other
      table fresh; diff changed fresh && echo "as a fresh start"
      stopped TERM
      ${command} routes --check 2> check.log > /dev/null || :
      cat check.log
      ${command} doctor > doctor.log || :
      grep -A1 'left rules' doctor.log
      ${command} routes --remove
      { ip rule; ip -6 rule; nft list ruleset; } > after
      diff before after && echo "as before"
    `);
      const usedPorts = [
        "tcp; 80; 10.9.2.2 sees 10.9.1.2; 10.9.2.3 sees 10.9.1.2",
        "tcp; 80; fd00:2::2 sees fd00:1::2; fd00:2::3 sees fd00:1::2",
      ];
      expect(told(stdout).filter((line) => !/^(10\.9\.2|fd00:2:)/.test(line))).toEqual([
        ...["ended: 0", "held: after TERM", "adopted, as another process has left it"],
        ...["the same table", "ended: 137", "held: after KILL", "held: adopted again"],
        ...[...usedPorts, "ended: 0", "held: other settings", "ended: 0"],
        ...["held: by the relay", ...usedPorts],
        ...["table inet tproxyd-2", "table inet tproxyd_draining_N"],
        expect.stringMatching(/^load /),
        expect.stringMatching(/^load /),
        ...["ended: 0", "as before", "as a fresh start", "ended: 0"],
        'tproxy: a process has left the firewall table inet tproxyd (--on-exit): "tproxy routes ' +
          '--remove" removes it',
        expect.stringMatching(/^ *WARNING +left rules +The firewall table inet tproxyd is in f/),
        expect.stringMatching(/^ +repair: tproxy routes --remove$/),
        ...["- table inet tproxyd, which a process had left", "removed", "as before"],
      ]);
      expect(counts(stdout, "load")).toHaveLength(2);
      for (const { asked = 0, answered = 0, ...lost } of counts(stdout, "load")) {
        expect(lost).toEqual({});
        expect(answered).toBe(asked);
        expect(asked).toBeGreaterThan(20);
      }
    },
    240_000,
  );

  testPath(
    "closed: new connections are refused until the next start, and established ones go on",
    async () => {
      const { stdout } = await runLab(`
      { ip rule; ip -6 rule; nft list ruleset; } > before
      refused() {
        ask > asked.log
        sort asked.log | sed 's/.*[0-9]$/answered/' | uniq -c | sed "s/^ */$1: /"
      }
      path --path kernel --on-exit closed $both
      hold; ask > asked.log; grep -c Error asked.log || :
      stopped KILL; refused "after KILL"; held "after KILL"
      path --path kernel --on-exit closed $both
      refused "started again"; held "started again"
      kill -TERM $proxy; until grep -q 'may go on' proxy.log; do kill -0 $proxy; done
      refused "while it drains"; held "while it drains"
      kill -TERM $proxy; wait $proxy && echo "ended: 0" || echo "ended: $?"
      refused "after TERM"
      nft list tables
      path --path kernel $both
      nft list tables; refused "open again"
      echo end >&3; wait $holding || :
      stopped TERM
      { ip rule; ip -6 rule; nft list ruleset; } > after
      diff before after && echo "as before"
    `);
      expect(told(stdout)).toEqual([
        ...["0", "ended: 137", "after KILL: 8 ConnectionRefusedError", "held: after KILL"],
        ...["started again: 8 answered", "held: started again"],
        ...["while it drains: 8 ConnectionRefusedError", "held: while it drains", "ended: 143"],
        ...["after TERM: 8 ConnectionRefusedError", "table inet tproxyd_closed"],
        ...["table inet tproxyd", "open again: 8 answered", "ended: 0", "as before"],
      ]);
    },
    240_000,
  );
});

/**
 * `forward --path kernel` as seen from outside: each connection has its line, the table shows what
 * is open, and upstreams that refuse or are silent are left out until they answer again.
 */

import { describe, expect } from "bun:test";
import { canUnshare } from "../helpers/netns.ts";
import { command, runAmongHosts } from "../helpers/three-hosts.ts";
import { testWith } from "../helpers/tools.ts";

const testPath = testWith(["ip", "nft", "python3"], { "network namespaces": canUnshare });
const flows = await Bun.file(new URL("./flows.py", import.meta.url)).text();

/** Two upstreams of each family at the backend, and a proxy on the kernel path. */
const lab = `
within backend ip address add 10.9.2.3/24 dev b0
within backend ip address add fd00:2::3/64 dev b0 nodad
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
serve() {
  : > server.log
  in_background backend python3 flows.py serve 8080 "$@" > server.log
  backend_server=$!
  until grep -q serving server.log; do kill -0 $backend_server; done
}
path() {
  : > proxy.log
  ${command} forward --json --routes auto --path kernel --sysctl "$@" > proxy.log 2>&1 &
  proxy=$!; started="$started $!"
  until grep -q '"kernel-path"' proxy.log; do kill -0 "$proxy" || { cat proxy.log; return 1; }; done
}
stopped() { kill -TERM "$proxy"; wait "$proxy" && echo "ended: 0" || echo "ended: $?"; }
ask() { within client python3 flows.py ask "$@"; }
# Waits until the log has a line with all of these words.
logged() {
  for _ in $(seq 600); do
    found=$(cat proxy.log)
    for word in "$@"; do found=$(printf '%s\\n' "$found" | grep -F -e "$word" || :); done
    [ -z "$found" ] || return 0
    sleep 0.05
  done
  echo "not logged: $*" >&2; cat proxy.log >&2; return 1
}
`;

const runLab = (script: string) =>
  runAmongHosts(`${lab}${script}`, { files: { "flows.py": flows }, timeoutMs: 230_000 });

const of = (log: readonly Record<string, unknown>[], event: string) =>
  log.filter((each) => each.event === event);

describe("forward --path kernel", () => {
  testPath(
    "logs connections and sessions as they end, and shows those that are open",
    async () => {
      const { stdout, proxy } = await runLab(`
        serve 10.9.2.2 fd00:2::2
        mkfifo lines; exec 7<>lines
        path '[::]:80' --tcp --udp --log-level debug --to 10.9.2.2:8080 --to [fd00:2::2]:8080
        ask 1 80 8.8.8.8 2001:db8::9
        nsenter -t "$client" -n python3 flows.py hold 80 9.9.9.9 < lines > held.log &
        held=$!; started="$started $!"
        until grep -q sees held.log; do :; done
        echo 'some bytes' >&7
        until grep -q 'some bytes' held.log; do :; done
        kill -USR1 "$proxy"
        logged '"counters"'
        logged '"forwarded"' '8.8.8.8' '"done"'
        kill -TERM "$proxy"
        logged 'may go on'
        kill $held
        wait "$proxy" && echo "ended: 0" || echo "ended: $?"
      `);
      expect(stdout).toContain("ended: 0");
      const accepted = of(proxy, "accepted").map((each) => each.original_destination);
      expect(accepted.toSorted()).toEqual([
        ...["8.8.8.8:80", "8.8.8.8:80", "9.9.9.9:80", "[2001:db8::9]:80", "[2001:db8::9]:80"],
      ]);
      expect(of(proxy, "forwarded")).toContainEqual(
        expect.objectContaining({
          ...{ protocol: "tcp", original_destination: "8.8.8.8:80", upstream: "10.9.2.2:8080" },
          ...{ client: expect.stringMatching(/^10.9.1.2:/), reason: "done", source: "client" },
          ...{ worker: 0, bytes_with_headers: true },
        }),
      );
      const [open] = of(proxy, "open").filter((each) => each.protocol === "tcp");
      expect(open).toMatchObject({
        ...{ original_destination: "9.9.9.9:80", state: "relaying", upstream: "10.9.2.2:8080" },
      });
      expect(open?.client_bytes).toBeGreaterThan(60);
      expect(open?.upstream_bytes).toBeGreaterThan(60);
      expect(open?.ms).toBeWithin(0, 60_000);
      const [session] = of(proxy, "open").filter((each) => each.protocol === "udp");
      expect(session).toMatchObject({
        ...{ state: "answered", client_bytes: 1, client_datagrams: 1, upstream_datagrams: 1 },
      });
      expect(of(proxy, "counters").at(-1)).toMatchObject({ active: 1, active_sessions: 2 });
    },
    240_000,
  );

  testPath(
    "leaves out an upstream that refuses, and one that is silent, until it answers again",
    async () => {
      const { stdout, proxy } = await runLab(`
        for n in 11 12 13 14; do within client ip address add 10.9.1.$n/24 dev c0; done
        clients='10.9.1.2 10.9.1.11 10.9.1.12 10.9.1.13 10.9.1.14'
        # One question of each client, two rounds: which upstreams answer, and how many do not.
        round() {
          within client python3 flows.py ask-as 80 8.8.8.8 $clients $clients \\
            | sort | uniq -c | tr -s ' '
        }
        serve 10.9.2.2
        path :80 --to 10.9.2.2:8080 --to 10.9.2.3:8080 --log-level warning
        echo "refused by one, and tried again:"; round
        logged '10.9.2.3:8080 rests for' 'refused'
        echo "after it refused:"; round
        kill $backend_server; wait $backend_server || :
        within backend ip address del 10.9.2.3/24 dev b0
        serve 10.9.2.2
        stopped
        path :80 --to 10.9.2.2:8080 --to 10.9.2.3:8080 --log-level warning --udp --tcp
        # Some of these are not answered.
        (PATIENCE=5 within client python3 flows.py ask 4 80 7.7.7.7 > /dev/null)
        (export PATIENCE=5; round > /dev/null) &
        logged '10.9.2.3:8080 rests for' 'no answer'
        echo "while it is silent:"; round
        stopped
      `);
      expect(stdout.split("\n").slice(0, 8)).toEqual([
        ...["refused by one, and tried again:", " 10 10.9.2.2"],
        ...["after it refused:", " 10 10.9.2.2", "ended: 0"],
        ...["while it is silent:", " 10 10.9.2.2", "ended: 0"],
      ]);
      const refused = of(proxy, "forwarded").filter((each) => each.reason === "connect-failed");
      for (const each of refused) expect(each.upstream).toBe("10.9.2.3:8080");
    },
    240_000,
  );

  testPath(
    "source-hash: a client has the same upstream, whoever carries it",
    async () => {
      const { stdout } = await runLab(`
        serve 10.9.2.2 10.9.2.3 fd00:2::2 fd00:2::3
        v4=$(seq -f '10.9.1.%g' 20 43)
        v6=$(seq -f 'fd00:1::%g' 20 43)
        for c in $v4; do within client ip address add $c/24 dev c0; done
        for c in $v6; do within client ip address add $c/64 dev c0 nodad; done
        asked() {
          within client python3 flows.py ask-as 80 8.8.8.8 $v4
          within client python3 flows.py ask-as 80 2001:db8::9 $v6
        }
        to='--to 10.9.2.2:8080 --to 10.9.2.3:8080 --to [fd00:2::2]:8080 --to [fd00:2::3]:8080'
        path '[::]:80' --balance source-hash --log-level error $to
        asked > by-kernel; asked > again
        stopped
        : > proxy.log
        ${command} forward --json --routes auto '[::]:80' --balance source-hash $to > proxy.log &
        proxy=$!; started="$started $proxy"
        until grep -q '"bound"' proxy.log; do kill -0 $proxy; done
        asked > by-relay
        stopped
        cmp by-kernel again; cmp by-kernel by-relay
        sort by-kernel | uniq -c | tr -s ' '
      `);
      const counts = [...stdout.matchAll(/^ (\d+) (\S+)$/gm)].map(([, n, who]) => [who, Number(n)]);
      expect(counts.map(([who]) => who)).toEqual([
        ...["10.9.2.2", "10.9.2.3", "fd00:2::2", "fd00:2::3"],
      ]);
      expect(counts.reduce((sum, [, n]) => sum + Number(n), 0)).toBe(48);
    },
    240_000,
  );
});

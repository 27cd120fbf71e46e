/**
 * Connections of services that the kernel carries, as an administrator sees them beside those of
 * the relay: rows with filters and rates, and their ends by `tproxy kill`.
 */

import { expect } from "bun:test";
import { canUnshare } from "../helpers/netns.ts";
import { command, runAmongHosts } from "../helpers/three-hosts.ts";
import { testWith } from "../helpers/tools.ts";

const flows = await Bun.file(new URL("./flows.py", import.meta.url)).text();

const configuration = `
[log]
format = "json"
[routes]
install = "auto"
sysctl = true
[admin]
socket = "FOLDER/admin.sock"
[[pool]]
name = "web"
to = ["10.9.2.2:8080", "[fd00:2::2]:8080"]
[[service]]
name = "fast"
listen = ["[::]:80", "udp://[::]:80"]
pool = "web"
path = "kernel"
[[service]]
name = "slow"
listen = "10.9.1.1:81"
to = "10.9.2.2:8080"
`;

const lab = `
sed "s|FOLDER|$PWD|" template.toml > tproxy.toml
in_background backend python3 flows.py serve 8080 10.9.2.2 fd00:2::2 > server.log
until grep -q serving server.log; do kill -0 $!; done
${command} run --config tproxy.toml > proxy.log 2>&1 &
proxy=$!; started="$started $!"
tell() { ${command} "$@" --admin "$PWD/admin.sock"; }
until grep -q '"kernel-path"' proxy.log && tell status > status.log 2>&1; do kill -0 $proxy; done
# held NAME NUMBER PORT ADDRESS: a connection whose input is descriptor NUMBER.
held() {
  mkfifo "$1.in"
  nsenter -t "$client" -n python3 flows.py hold "$3" "$4" < "$1.in" > "$1.log" 2>&1 &
  started="$started $!"
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
# The rows that match, each with a name of what is shown in front.
rows() { shown=$1; shift; echo "rows $shown $(tell connections --json "$@")"; }
`;

interface Row {
  readonly id: string;
  readonly service: string;
  readonly protocol: string;
  readonly upstream: string;
  readonly [field: string]: unknown;
}

const script = `
held v4 5 80 8.8.8.8; held v6 6 80 2001:db8::9; held other 7 80 9.9.9.9
held slow 8 81 10.9.1.1
within client python3 flows.py ask 1 80 7.7.7.7 2001:db8::7 > asked.log
rows all --limit 3
rows tcp6 --state relaying --original '[2001:db8::9]:80'
rows udp --state answered
rows pool --upstream web/no
rows named --upstream '10.9.2.2:8080' --service fast --original :80
rows rates --sort rate
kill -USR1 $proxy; logged '"counters"'
echo "status $(tell status --json)"
id=$(tell connections --json --original 8.8.8.8 | sed 's/.*"id":"\\([0-9.]*\\)".*/\\1/')
echo "killed $(tell kill $id)"
tell kill $id > again.log || echo "again $?"
echo lost >&5; until grep -q ConnectionReset v4.log; do :; done
echo "killed $(tell kill --client fd00:1::2 --service fast --yes)"
echo lost >&6; until grep -q ConnectionReset v6.log; do :; done
echo "killed $(tell kill --state answered)"
for n in 7 8; do echo "still there" >&$n; done
until grep -q still other.log && grep -q still slow.log; do :; done
rows left
echo "killed $(tell kill --original 9.9.9.9 --upstream 10.9.2.2:8080)"
echo "killed $(tell kill --service slow)"
logged '"forwarded"' '8.8.8.8' '"killed"'; logged '"forwarded"' '2001:db8::9' '"killed"'
logged '"forwarded"' '7.7.7.7' '"udp"' '"killed"'
tell log level debug > level.log; within client python3 flows.py ask 1 80 6.6.6.1 > asked.log
logged '"accepted"' '6.6.6.1' '"tcp"'; logged '"accepted"' '6.6.6.1' '"udp"'
tell log level error > level.log; within client python3 flows.py ask 1 80 6.6.6.2 > asked.log
tell kill --original 6.6.6.2 > again.log
tell log level debug > level.log; within client python3 flows.py ask 1 80 6.6.6.3 > asked.log
logged '"accepted"' '6.6.6.3' '"tcp"'
# Counters are those of a moment of the last second: in the end 8, and one of the relay.
for _ in $(seq 200); do
  tell status --json > last.log
  ! grep -q '"accepted":9[,}]' last.log || break
  sleep 0.05
done
sed 's/^/last /' last.log
kill -TERM $proxy; wait $proxy
`;

/** What a printed status has of the service that the kernel carries. */
function statusOf(stdout: string, name: string) {
  const [, json = "{}"] = new RegExp(`^${name} (\\{.*)$`, "m").exec(stdout) ?? [];
  const { services, pools } = JSON.parse(json) as {
    services: { name: string; path: string; counters: Record<string, number> }[];
    pools: { name: string; upstreams: { name: string; addresses: Row[] }[] }[];
  };
  const { path, counters = {} } = services.find((each) => each.name === "fast") ?? {};
  const { accepted, active, sessions, active_sessions } = counters;
  const upstreams = pools.find((each) => each.name === "web")?.upstreams ?? [];
  const addresses = upstreams.flatMap((each) => each.addresses.map((one) => one.counters));
  return { path, counts: [accepted, active, sessions, active_sessions], addresses };
}

testWith(["ip", "nft", "python3"], { "network namespaces": canUnshare })(
  "connections, kill and SIGUSR1 have what the kernel carries beside what the relay does",
  async () => {
    const { stdout, proxy } = await runAmongHosts(`${lab}${script}`, {
      files: { "flows.py": flows, "template.toml": configuration },
      timeoutMs: 230_000,
    });
    const found = new Map(
      [...stdout.matchAll(/^rows (\S+) (\{.*)$/gm)].map(([, name = "", json = ""]) => {
        return [name, JSON.parse(json) as { total: number; matched: number; connections: Row[] }];
      }),
    );
    const seen = (name: string) => {
      const { total, matched, connections } = found.get(name) ?? { connections: [] };
      return [total, matched, ...connections.map((each) => each.original_destination)];
    };
    // Connections of TCP that have ended are only remembered, and count for nothing.
    expect(seen("all").slice(0, 2)).toEqual([6, 6]);
    expect(found.get("all")?.connections).toHaveLength(3);
    expect(seen("tcp6")).toEqual([6, 1, "[2001:db8::9]:80"]);
    expect(found.get("tcp6")?.connections[0]).toMatchObject({
      ...{ id: expect.stringMatching(/^0\.\d+\.1$/), service: "fast", pool: "web", worker: 0 },
      ...{ protocol: "tcp", state: "relaying", upstream: "[fd00:2::2]:8080" },
      ...{ client: expect.stringMatching(/^\[fd00:1::2\]:/), source: "client" },
      ...{ client_bytes: expect.any(Number), upstream_bytes: expect.any(Number) },
      ...{ ms: expect.any(Number), idle_ms: expect.any(Number) },
    });
    expect(seen("udp").toSorted()).toEqual([2, 6, "7.7.7.7:80", "[2001:db8::7]:80"].toSorted());
    expect(seen("pool")).toEqual([6, 0]);
    expect(seen("named").slice(2).toSorted()).toEqual(["7.7.7.7:80", "8.8.8.8:80", "9.9.9.9:80"]);
    for (const row of found.get("rates")?.connections ?? [undefined]) {
      expect(row?.client_rate).toBeGreaterThanOrEqual(0);
    }
    expect(seen("left").toSorted()).toEqual(["10.9.1.1:81", 2, 2, "9.9.9.9:80"].toSorted());
    expect(stdout.split("\n").filter((line) => /^(killed|again) /.test(line))).toEqual([
      ...["killed 1 ended", "again 1", "killed 2 ended", "killed 1 ended"],
      ...["killed 1 ended", "killed 1 ended"],
    ]);
    const { path, counts, addresses } = statusOf(stdout, "status");
    expect([path, ...counts]).toEqual(["kernel", 5, 3, 2, 2]);
    expect(addresses).toEqual([
      expect.objectContaining({ connects: 3, open: 2, sessions: 1, open_sessions: 1, refused: 0 }),
      expect.objectContaining({ connects: 2, open: 1, sessions: 1, open_sessions: 1 }),
    ]);
    // Counted at every level, since there is an admin socket; a line is there where it is wanted.
    expect(statusOf(stdout, "last").counts[0]).toBe(8);
    const lines = proxy.filter(({ event }) => event === "accepted" || event === "forwarded");
    expect(lines.map((each) => each.original_destination)).not.toContain("6.6.6.2:80");
    const shown = proxy.filter(({ event }) => event === "open").map(({ id }) => `${id}`);
    expect(shown.filter((id) => id.startsWith("0."))).toHaveLength(5);
    const killed = proxy.filter(
      ({ event, reason }) => event === "forwarded" && reason === "killed",
    );
    expect(killed.map((each) => each.ended_by)).toEqual(Array(killed.length).fill("proxy"));
  },
  240_000,
);

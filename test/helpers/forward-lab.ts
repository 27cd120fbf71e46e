/**
 * client – proxy – backend, each in a namespace of its own, over veth, with both families. The
 * script runs at the proxy. The backend's only way to the client is through the proxy, and what the
 * client sends to port 80 of anything is captured there for port 50080.
 */

import { canUnshare, inNamespace } from "./netns.ts";
import { testWith } from "./tools.ts";
import { tproxy } from "./tproxy.ts";

/** `test` for scripts of the lab that use these programs, too. */
export function testInLab(programs: readonly string[]) {
  return testWith(["ip", "nft", "ss", "nsenter", ...programs], {
    "network namespaces": canUnshare,
  });
}

/** tproxy as a word of the scripts. */
export const command = tproxy.map((word) => `'${word}'`).join(" ");

const connections = "ss -Htn state connected exclude time-wait";

/**
 * The lab and its functions: `at_backend …` starts tproxy there, `forward …` the proxy here, by
 * $launcher if that is set, ids in $server and $proxy, logs in backend.log and proxy.log;
 * `until_true COMMAND…` waits for it while the proxy lives; `ended [N]` waits for as many lines in
 * the access log; `settled` until the proxy has the sockets that it began with, and the three
 * hosts no connection.
 */
const lab = `
namespace client
namespace backend
veth client p0 c0
veth backend p1 b0
for host in client backend; do
  case $host in client) near=p0 far=c0 net=1 ;; *) near=p1 far=b0 net=2 ;; esac
  ip address add "10.9.$net.1/24" dev "$near"
  ip address add "fd00:$net::1/64" dev "$near" nodad
  within "$host" ip address add "10.9.$net.2/24" dev "$far"
  within "$host" ip address add "fd00:$net::2/64" dev "$far" nodad
  within "$host" ip route add default via "10.9.$net.1"
  within "$host" ip route add default via "fd00:$net::1"
done
# Every program itself, not a subshell around it: it is ended by its process id.
in_background() {
  host=$1; shift
  eval "nsenter -t \\"\\$$host\\" -n \\"\\$@\\" &"
  started="$started $!"
}
at_backend() {
  in_background backend ${command} "$@" > backend.log
  server=$!
  until grep -q bound backend.log; do kill -0 "$server"; done
}
launcher=
forward() {
  : > proxy.log
  $launcher ${command} forward --json "$@" >> proxy.log &
  proxy=$!
  started="$started $proxy"
  until_true grep -q '"bound"' proxy.log
  sockets=$(descriptors socket:)
}
until_true() { until "$@"; do kill -0 "$proxy"; sleep 0.02; done; }
ended() { until_true has_ended "\${1:-1}"; }
has_ended() { [ "$(grep -c '"forwarded"' proxy.log)" -ge "$1" ]; }
settled() { until_true is_settled; }
is_settled() {
  [ "$(descriptors socket:)" = "$sockets" ] &&
    [ -z "$(connections; within client ${connections}; within backend ${connections})" ]
}
connections() { ${connections}; }
# How many descriptors of the proxy are of this kind: socket:, pipe:
descriptors() { ls -l "/proc/$proxy/fd" 2> ls.log | grep -c -- "-> $1" || :; }
rss() { awk '/VmRSS/ { print $2 }' "/proc/$proxy/status"; }
${command} routes --print --in p0 --dport 80 --to-port 50080 --reply-path --dialect nft > rules.sh
sh -e rules.sh
`;

/** What a script printed, and the two logs. */
export interface Logs {
  readonly stdout: string;
  readonly proxy: Record<string, unknown>[];
  readonly backend: Record<string, unknown>[];
}

/** Runs a script in the lab, `files` beside it. @throws if it fails */
export async function inLab(
  script: string,
  files: Readonly<Record<string, string>> = {},
  timeoutMs = 25_000,
): Promise<Logs> {
  const tail = `
    echo
    for log in proxy backend; do [ ! -e $log.log ] || sed "s/^/$log /" $log.log; done`;
  const { status, stdout, stderr } = await inNamespace(`${lab}\n${script}${tail}`, {
    files,
    timeoutMs,
  });
  if (status !== 0) throw new Error(`status ${status}: ${stderr}\n${stdout.slice(0, 10_000)}`);
  const lines = stdout.split("\n");
  const log = (name: string) =>
    lines
      .filter((line) => line.startsWith(`${name} {`))
      .map((line) => JSON.parse(line.slice(name.length + 1)) as Record<string, unknown>);
  return { stdout, proxy: log("proxy"), backend: log("backend") };
}

/** The first entry of a log about `event`. */
export const find = (log: Record<string, unknown>[], event: string) =>
  log.find((entry) => entry.event === event);

/** The lab in each family. */
export const families = [
  { family: "4", asked: "8.8.8.8", client: "10.9.1.2", backend: "10.9.2.2" },
  { family: "6", asked: "[2001:db8::9]", client: "[fd00:1::2]", backend: "[fd00:2::2]" },
] as const;

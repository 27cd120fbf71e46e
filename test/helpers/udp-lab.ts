/**
 * client – proxy – backend for UDP, each in a namespace of its own, over veth; the backend's only
 * way to the client is through the proxy. UDP of the client to the ports 1 to 2000 of any address
 * goes to port 50053 here.
 */

import { canUnshare, inNamespace } from "./netns.ts";
import { testWith } from "./tools.ts";
import { tproxy } from "./tproxy.ts";

/** A test that needs the lab. */
export const testInLab = testWith(["ip", "nft", "nsenter", "socat", "python3"], {
  "network namespaces": canUnshare,
});

const command = tproxy.map((word) => `'${word}'`).join(" ");

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
tproxy() { ${command} "$@"; }
# Every program itself, not a subshell around it: it is ended by its process id.
at_backend() {
  nsenter -t "$backend" -n ${command} "$@" > backend.log &
  server=$!
  started="$started $server"
  until grep -q bound backend.log; do kill -0 "$server"; done
}
forward() {
  ${command} forward --json "$@" > proxy.log 2> proxy.err &
  proxy=$!
  started="$started $proxy"
  until grep -q bound proxy.log; do kill -0 "$proxy"; done
}
capture() {
  ${command} routes --print --in p0 --proto udp --dport "\${1:-1-2000}" --to-port 50053 \
    --family both --reply-path --dialect nft > rules.sh
  sh -e rules.sh
}
stop() { kill "$proxy"; wait "$proxy" || :; }
# Waits until the log has this many lines of the kind.
logged() { until [ "$(grep -c "\\"$1\\"" proxy.log)" -ge "$2" ]; do kill -0 "$proxy"; done; }
sockets() { ls -l "/proc/$proxy/fd" | grep -c socket: || :; }
: > backend.log
`;

/** What a script in the lab has printed, and what proxy and backend have logged. */
export interface LabRun {
  readonly stdout: string;
  readonly proxy: Record<string, unknown>[];
  readonly backend: Record<string, unknown>[];
}

/** Runs `script` in the lab with these files beside it. */
export async function inLab(
  script: string,
  files: Readonly<Record<string, string>> = {},
): Promise<LabRun> {
  const tail = '\necho; for log in proxy backend; do sed "s/^/$log /" $log.log; done';
  const run = await inNamespace(`${lab}\n${script}${tail}`, { files, timeoutMs: 50_000 });
  const { status, stdout, stderr } = run;
  if (status !== 0) throw new Error(`status ${status}: ${stderr}\n${stdout}`);
  const lines = stdout.split("\n");
  const log = (name: string) =>
    lines
      .filter((line) => line.startsWith(`${name} {`))
      .map((line) => JSON.parse(line.slice(name.length + 1)) as Record<string, unknown>);
  return { stdout, proxy: log("proxy"), backend: log("backend") };
}

/** The events of one kind. */
export function eventsOf(log: readonly Record<string, unknown>[], kind: string) {
  return log.filter(({ event }) => event === kind);
}

/**
 * client – proxy – backend, each in a namespace of its own, over veth, with both families. The
 * script runs at the proxy; the backend's only way to the client is through it.
 */

import { inNamespace } from "./netns.ts";
import { tproxy } from "./tproxy.ts";

/** tproxy as a word of the scripts. */
export const command = tproxy.map((word) => `'${word}'`).join(" ");

/**
 * The hosts, and `at_backend …`, which starts tproxy there: its id in $server, its log too. Of a
 * script that fails, standard error has the ends of the logs.
 */
const threeHosts = `
at_exit() {
  [ "$1" != 0 ] || return 0
  for log in proxy backend; do [ ! -e $log.log ] || tail -n 40 $log.log >&2; done
}
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
`;

/** What a script printed, and the two logs. */
export interface Logs {
  readonly stdout: string;
  readonly proxy: Record<string, unknown>[];
  readonly backend: Record<string, unknown>[];
}

/** Runs a script among the hosts, `files` beside it. @throws if it fails */
export async function runAmongHosts(
  script: string,
  options: { files: Readonly<Record<string, string>>; timeoutMs: number },
): Promise<Logs> {
  // What a program has seen is in its log when it has ended: it writes in batches.
  const tail = `
    if [ -n "\${server-}" ]; then kill "$server" 2> kill.log || :; wait "$server" || :; fi
    echo
    for log in proxy backend; do [ ! -e $log.log ] || sed "s/^/$log /" $log.log; done`;
  const { status, stdout, stderr } = await inNamespace(`${threeHosts}${script}${tail}`, options);
  if (status !== 0) throw new Error(`status ${status}: ${stderr}\n${stdout.slice(0, 10_000)}`);
  const lines = stdout.split("\n");
  const log = (name: string) =>
    lines
      .filter((line) => line.startsWith(`${name} {`))
      .map((line) => JSON.parse(line.slice(name.length + 1)) as Record<string, unknown>);
  return { stdout, proxy: log("proxy"), backend: log("backend") };
}

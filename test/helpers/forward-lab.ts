/**
 * The three hosts for TCP: what the client sends to port 80 of anything is captured at the proxy
 * for port 50080.
 */

import { canUnshare } from "./netns.ts";
import { command, type Logs, runAmongHosts } from "./three-hosts.ts";
import { testWith } from "./tools.ts";

export { command } from "./three-hosts.ts";

/** `test` for scripts of the lab that use these programs, too. */
export function testInLab(programs: readonly string[]) {
  return testWith(["ip", "nft", "ss", "nsenter", ...programs], {
    "network namespaces": canUnshare,
  });
}

const connections = "ss -Htn state connected exclude time-wait";

/**
 * The lab's functions: `forward …` starts the proxy, by $launcher if that is set, its id in $proxy,
 * its log in proxy.log;
 * `until_true COMMAND…` waits for it while the proxy lives; `ended [N]` waits for as many lines in
 * the access log; `settled` until the proxy has the sockets that it began with, and the three
 * hosts no connection.
 */
const lab = `
launcher=
forward() {
  : > proxy.log
  $launcher ${command} forward --json "$@" >> proxy.log &
  proxy=$!
  started="$started $proxy"
  until_true grep -q '"bound"' proxy.log
  # What the main thread opens for a moment at the start is closed before there is a Worker.
  until_true has_worker
  sockets=$(descriptors socket:)
}
# The main thread has one, and each Worker two, its loop last.
has_worker() { [ "$(descriptors 'anon_inode:.eventpoll')" -ge 3 ]; }
until_true() { until "$@"; do kill -0 "$proxy"; sleep 0.02; done; }
ended() { until_true has_ended "\${1:-1}"; }
has_ended() { [ "$(grep -cE '"(forwarded|refused)"' proxy.log)" -ge "$1" ]; }
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

/** Runs a script in the lab, `files` beside it. @throws if it fails */
export async function inLab(
  script: string,
  files: Readonly<Record<string, string>> = {},
  timeoutMs = 170_000,
): Promise<Logs> {
  return runAmongHosts(`${lab}\n${script}`, { files, timeoutMs });
}

/** nginx in the foreground of one folder, with these lines of its `http` block. */
export const nginxConfiguration = (http: string) => `
daemon off;
user root;
master_process off;
pid nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
  client_body_temp_path temp;
  proxy_temp_path temp;
  fastcgi_temp_path temp;
  uwsgi_temp_path temp;
  scgi_temp_path temp;
  keepalive_requests 1000000;
${http}
}
`;

/** The first entry of a log about `event`. */
export const find = (log: Record<string, unknown>[], event: string) =>
  log.find((entry) => entry.event === event);

/** The lab in each family. */
export const families = [
  { family: "4", asked: "8.8.8.8", client: "10.9.1.2", backend: "10.9.2.2" },
  { family: "6", asked: "[2001:db8::9]", client: "[fd00:1::2]", backend: "[fd00:2::2]" },
] as const;

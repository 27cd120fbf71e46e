/**
 * The three hosts for UDP: what the client sends to the ports 1 to 2000 of any address goes, once
 * there is a `capture`, to port 50053 at the proxy.
 */

import { canUnshare } from "./netns.ts";
import { command, type Logs, runAmongHosts } from "./three-hosts.ts";
import { testWith } from "./tools.ts";

/** A test that needs the lab. */
export const testInLab = testWith(["ip", "nft", "nsenter", "socat", "python3"], {
  "network namespaces": canUnshare,
});

const lab = `
tproxy() { ${command} "$@"; }
forward() {
  # Before it starts, or "bound" could be that of the one before.
  : > proxy.log
  ${command} forward --json "$@" >> proxy.log 2> proxy.err &
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

/** Runs `script` in the lab with these files beside it. */
export async function inLab(
  script: string,
  files: Readonly<Record<string, string>> = {},
): Promise<Logs> {
  return runAmongHosts(`${lab}\n${script}`, { files, timeoutMs: 170_000 });
}

/** The events of one kind. */
export function eventsOf(log: readonly Record<string, unknown>[], kind: string) {
  return log.filter(({ event }) => event === kind);
}

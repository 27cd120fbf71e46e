/** Shell scripts in a network namespace of their own, which the kernel removes with the script. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** What a script left behind. */
export interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The command that starts another in a fresh network namespace, with or without being root. */
export const unshareCommand = ["unshare", process.getuid?.() === 0 ? "-n" : "-Urn"] as const;

/** Whether network namespaces can be made here. */
export const canUnshare = Bun.which("unshare") !== null && tryUnshare();

function tryUnshare(): boolean {
  return Bun.spawnSync([...unshareCommand, "true"]).success;
}

/**
 * Shell functions for the scripts: `lo` is up; `namespace NAME` starts another namespace whose
 * process id is then in $NAME; `within NAME COMMAND…` runs a command there; `veth NAME A B` makes
 * a pair of interfaces, A here and B there, up and without waiting for duplicate addresses;
 * `neighbour NAME A B` does both and gives A 10.9.0.1 and fd00:9::1, B 10.9.0.2 and fd00:9::2;
 * `background COMMAND…` starts a program (not a function: its process is the one to end). All that
 * was started is ended when the script ends; `at_exit STATUS` is called before, for a script to
 * define anew.
 */
const prelude = `
set -eu
started=
at_exit() { :; }
trap 'at_exit $?; for pid in $started; do kill "$pid" 2>/dev/null || :; done' EXIT
trap 'exit 143' TERM INT
PATH="/usr/bin:/bin:/usr/sbin:/sbin:$PATH"
background() { "$@" & started="$started $!"; }
namespace() {
  background unshare -n sleep 7200
  eval "$1=$!"
  until [ "$(readlink "/proc/$!/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do :; done
  within "$1" ip link set lo up
}
within() { eval "set -- \\"\\$$1\\" \\"\\$@\\""; pid=$1; shift 2; nsenter -t "$pid" -n "$@"; }
veth() {
  ip link add "$2" type veth peer name "$3"
  eval "ip link set \\"$3\\" netns \\"\\$$1\\""
  echo 0 > "/proc/sys/net/ipv6/conf/$2/accept_dad"
  within "$1" sh -c 'echo 0 > "/proc/sys/net/ipv6/conf/$0/accept_dad"' "$3"
  ip link set "$2" up
  within "$1" ip link set "$3" up
}
neighbour() {
  namespace "$1"
  veth "$1" "$2" "$3"
  ip address add 10.9.0.1/24 dev "$2"
  ip address add fd00:9::1/64 dev "$2" nodad
  within "$1" ip address add 10.9.0.2/24 dev "$3"
  within "$1" ip address add fd00:9::2/64 dev "$3" nodad
}
ip link set lo up
`;

/**
 * Runs a shell script in a fresh network namespace and a fresh folder, as `sh -eu`, with the
 * functions above. `files` are put in the folder first. After `timeoutMs` the script is ended and
 * its status is 143.
 */
export async function inNamespace(
  script: string,
  options: { files?: Readonly<Record<string, string>>; timeoutMs?: number } = {},
): Promise<Outcome> {
  const folder = await mkdtemp(join(tmpdir(), "tproxy-test-"));
  try {
    const files = { ...options.files, "main.sh": prelude + script };
    for (const [name, text] of Object.entries(files)) await Bun.write(join(folder, name), text);
    const child = Bun.spawn([...unshareCommand, "sh", "main.sh"], {
      cwd: folder,
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      timeout: options.timeoutMs ?? 170_000,
      killSignal: "SIGTERM",
    });
    const [stdout, stderr, status] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    return { status, stdout, stderr };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

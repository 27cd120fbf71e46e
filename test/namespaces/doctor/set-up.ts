/** A proxy host between a client and an upstream, and set-ups of it that are broken in one way. */

import { expect } from "bun:test";
import { canUnshare, inNamespace } from "../../helpers/netns.ts";
import { testWith } from "../../helpers/tools.ts";
import { tproxy } from "../../helpers/tproxy.ts";

/** The command line of tproxy, for a shell. */
export const program = tproxy.map((word) => `'${word}'`).join(" ");

/** A proxy host between a client (p0, 10.9.0.2) and an upstream (u0, 10.8.0.2). */
export const topology = `
tproxy() { ${program} "$@"; }
namespace client
namespace upstream
veth client p0 c0
veth upstream u0 s0
ip address add 10.9.0.1/24 dev p0
ip address add 10.8.0.1/24 dev u0
ip address add fd00:9::1/64 dev p0 nodad
within client ip address add 10.9.0.2/24 dev c0
within client ip address add fd00:9::2/64 dev c0 nodad
within client ip route add default via 10.9.0.1
within upstream ip address add 10.8.0.2/24 dev s0
capture() { tproxy routes --print --dialect nft "$@" > rules.sh; sh -e rules.sh; }
release() { tproxy routes --print --dialect nft --undo "$@" > rules.sh; sh -e rules.sh; }
serve() {
  : > events
  ${program} listen --json "$@" > events &
  server=$!
  started="$started $server"
  until grep -q bound events; do kill -0 "$server"; done
}
stop() { kill "$server"; wait "$server" || :; }
# A program that knows nothing of transparent proxies, once it holds its port.
foreign() { background socat -u "$1" -; until grep -qi ":$2 " "/proc/net/$3"; do kill -0 $!; done; }
status() { "$@" && echo "status 0" || echo "status $?"; }
`;

/** One fault. */
export interface Case {
  readonly name: string;
  /** Makes the capture and breaks it. */
  readonly broken: string;
  /** The arguments of tproxy. */
  readonly ask: string;
  /** What the answer has to name. */
  readonly cause: RegExp;
  readonly repair: string;
  /** Put in front of the command while it is broken. */
  readonly prefix?: string;
  /** It works all the same: the cause is a warning, or what this ends with. */
  readonly works?: true | string;
  readonly needs?: Readonly<Record<string, boolean>>;
}

const finished = /Nothing is wrong|It will work/;

/** The test of a set-up: the cause is named, and nothing once it is repaired. */
export function testFault(fault: Case): void {
  const { name, broken, ask, cause, repair, prefix = "", works, needs = {} } = fault;
  const testCase = testWith(["ip", "nft", "nsenter", "socat"], {
    "network namespaces": canUnshare,
    ...needs,
  });
  testCase(name, async () => {
    const [before, after] = await ofScript(`
      ${broken}
      echo "== broken"
      status ${prefix === "" ? "tproxy" : `${prefix} ${program}`} ${ask}
      ${repair}
      echo "== repaired"
      status tproxy ${ask}
    `);
    expect(before).toMatch(cause);
    const warned = works === true ? "Nothing is broken; 1 warning" : works;
    expect(before).toContain(warned ?? "It will not work");
    expect(before).toEndWith(works ? "status 0\n" : "status 1\n");
    expect(after).not.toMatch(/FAILURE|WARNING|unknown/);
    expect(after).toMatch(finished);
    expect(after).toEndWith("status 0\n");
  });
}

async function ofScript(script: string): Promise<[before: string, after: string]> {
  const { stdout, stderr, status } = await inNamespace(`${topology}\n${script}`);
  if (status !== 0) throw new Error(`status ${status}: ${stderr}\n${stdout}`);
  const [before = "", after = ""] = stdout.split("== broken\n")[1]?.split("== repaired\n") ?? [];
  return [before, after];
}

/** What serves keeps the capabilities alone that it needs, in every thread, and works with them. */

import { describe, expect } from "bun:test";
import { families } from "../helpers/forward-lab.ts";
import { canUnshare } from "../helpers/netns.ts";
import { command, runAmongHosts } from "../helpers/three-hosts.ts";
import { testWith } from "../helpers/tools.ts";

const isRoot = process.getuid?.() === 0;
const testPrivileges = testWith(["ip", "nft", "nsenter"], {
  "network namespaces": canUnshare,
  root: isRoot,
});

const CAP_NET_BIND_SERVICE = 1n << 10n;
const CAP_NET_ADMIN = 1n << 12n;
const CAP_NET_RAW = 1n << 13n;
/** For the pipes of splice, where fs.pipe-user-pages-soft is low. */
const CAP_SYS_RESOURCE = 1n << 24n;

/** `launch WORDS…` starts tproxy; `threads` prints a line a thread: who, uid, what it has. */
const lab = `
launch() {
  : > proxy.log
  ${command} "$@" >> proxy.log &
  proxy=$!
  started="$started $proxy"
  until grep -q '"bound"' proxy.log; do kill -0 "$proxy"; sleep 0.02; done
  until grep -q '^NoNewPrivs:.1' "/proc/$proxy/status"; do kill -0 "$proxy"; sleep 0.02; done
}
threads() {
  for task in "/proc/$proxy/task"/*; do
    who=other
    case $(cat "$task/comm") in tproxy) who=main ;; Worker) who=worker ;; esac
    awk -v who="$who" '
      /^Uid/ { uid = $2 } /^CapPrm/ { p = $2 } /^CapEff/ { e = $2 } /^CapBnd/ { b = $2 }
      /^CapAmb/ { a = $2 } /^NoNewPrivs/ { n = $2 }
      END { print "thread", who, uid, p, e, b, a, n }' "$task/status"
  done
}
stop() { kill "$proxy"; wait "$proxy" || :; }
`;

interface Thread {
  readonly who: string;
  readonly uid: number;
  readonly permitted: bigint;
  readonly effective: bigint;
  readonly bounding: bigint;
  readonly ambient: bigint;
  readonly noNewPrivileges: string | undefined;
}

function threadsIn(text: string): Thread[] {
  return [...text.matchAll(/^thread (\w+) (\d+) (\w+) (\w+) (\w+) (\w+) (\d)$/gm)].map((found) => {
    const [, who = "", uid, ...sets] = found;
    const [permitted, effective, bounding, ambient] = sets.map((set) => BigInt(`0x${set}`)) as [
      ...[bigint, bigint, bigint, bigint],
    ];
    return {
      who,
      uid: Number(uid),
      permitted,
      effective,
      bounding,
      ambient,
      noNewPrivileges: sets[4],
    };
  });
}

/** Whoever runs tproxy's own code has just `kept`, and other threads nothing beyond. */
function check(threads: readonly Thread[], kept: bigint, uid: number): void {
  const own = threads.filter(({ who }) => who !== "other");
  expect(own.map(({ who }) => who)).toContain("main");
  expect(own.map(({ who }) => who)).toContain("worker");
  for (const thread of threads) {
    const { who, permitted, effective, bounding, ambient, noNewPrivileges } = thread;
    const beyond = permitted & ~(kept | CAP_SYS_RESOURCE);
    expect([who, beyond, effective & ~permitted, ambient]).toEqual([who, 0n, 0n, 0n]);
    // A thread of root's could win capabilities back by execve(2).
    expect([who, thread.uid !== 0 || noNewPrivileges === "1"]).toEqual([who, true]);
    if (who === "other") continue;
    expect([permitted & kept, effective, thread.uid]).toEqual([kept, permitted, uid]);
    expect([bounding, noNewPrivileges]).toEqual([permitted, "1"]);
  }
}

describe.each(families)("IPv$family", ({ family, asked, client, backend }) => {
  testPrivileges(
    "TCP, the client's address by CAP_NET_RAW alone",
    async () => {
      const { stdout, backend: log } = await runAmongHosts(
        `${lab}
      at_backend listen --json --reply served "[::]:7000"
      ${command} routes --apply --in p0 --dport 80 --to-port 50080 --reply-path --family ${family}
      launch forward --json "[::]:50080" --to ${backend}:7000
      echo hi | within client ${command} bind --tcp ${client}:0 --to ${asked}:80
      threads; stop`,
        { files: {}, timeoutMs: 230_000 },
      );
      expect(stdout).toMatch(/^served$/m);
      const seen = log.find(({ event }) => event === "accepted")?.client;
      expect(String(seen)).toStartWith(client.replace(/\]$/, ""));
      check(threadsIn(stdout), CAP_NET_RAW, 0);
    },
    240_000,
  );

  testPrivileges(
    "UDP from a port below 1024, as another user",
    async () => {
      const { stdout } = await runAmongHosts(
        `${lab}
      at_backend listen --json --udp --echo "[::]:7000"
      ${command} routes --apply --in p0 --proto udp --dport 53 --to-port 5300 --reply-path \
        --family ${family}
      launch forward --json --udp "[::]:5300" --to ${backend}:7000 --user nobody
      within client ${command} bind ${client}:0 --to ${asked}:53 --send hello
      threads; stop`,
        { files: {}, timeoutMs: 230_000 },
      );
      expect(stdout).toMatch(/^hello$/m);
      const threads = threadsIn(stdout);
      // The queues of busy sessions may be longer than is allowed without it.
      const isLow = Number(await Bun.file("/proc/sys/net/core/rmem_max").text()) < 1024 * 1024;
      check(threads, CAP_NET_RAW | CAP_NET_BIND_SERVICE | (isLow ? CAP_NET_ADMIN : 0n), 65_534);
      expect(threads.filter(({ uid }) => uid !== 65_534)).toEqual([]);
    },
    240_000,
  );
});

testPrivileges(
  "with its rules it takes these out again, as another user too",
  async () => {
    const { stdout } = await runAmongHosts(
      `${lab}
    launch forward --json :80 --to 10.9.2.2:7000 --routes auto --in p0 --local --user nobody
    threads
    ip rule | grep -c fwmark; stop; ip rule | grep -c fwmark || :; nft list tables
    cat proxy.log`,
      { files: {}, timeoutMs: 230_000 },
    );
    check(threadsIn(stdout), CAP_NET_ADMIN, 65_534);
    expect(stdout).toMatch(/^1\n0\n\{/m);
  },
  240_000,
);

testPrivileges(
  "what needs nothing has nothing: listen, and bind",
  async () => {
    const { stdout } = await runAmongHosts(
      `${lab}
    launch listen --json :80; threads; stop
    launch bind --json --tcp 8.8.8.8:80; threads; stop`,
      { files: {}, timeoutMs: 230_000 },
    );
    check(threadsIn(stdout), 0n, 0);
  },
  240_000,
);

testPrivileges(
  "rules that are held need CAP_NET_ADMIN alone",
  async () => {
    const { stdout } = await runAmongHosts(
      `${command} routes --apply --hold --dport 80 --to-port 50080 > held.log &
    proxy=$!; started="$started $proxy"
    until grep -q '^held' held.log; do kill -0 "$proxy"; sleep 0.02; done
    grep -E '^(CapPrm|CapBnd|NoNewPrivs)' "/proc/$proxy/status" | awk '{ print $2 }'
    kill "$proxy"; wait "$proxy"; nft list tables; ip rule | grep -c fwmark || :`,
      { files: {}, timeoutMs: 230_000 },
    );
    const caps = CAP_NET_ADMIN.toString(16).padStart(16, "0");
    expect(stdout.trimEnd().split("\n")).toEqual([caps, caps, "1", "0"]);
  },
  240_000,
);

testPrivileges(
  "--user is refused before anything is done",
  async () => {
    const { stdout } = await runAmongHosts(
      `${command} listen :80 --user no-such-user 2>&1 || echo "status $?"
    ${command} forward :80 --to original --routes auto --sysctl --in p0 --user nobody 2>&1 ||
      echo "status $?"
    setpriv --reuid 65534 --clear-groups --bounding-set=-all \
      ${command} listen --no-transparent :8080 --user daemon 2>&1 || echo "status $?"
    ip rule | grep -c fwmark || :`,
      { files: {}, timeoutMs: 230_000 },
    );
    expect(stdout.trimEnd().split("\n")).toEqual([
      'tproxy: --user "no-such-user": /etc/passwd has no such user: give one that it has',
      "status 2",
      expect.stringMatching(
        /^tproxy: --sysctl excludes --user, because only root can restore the settings/,
      ),
      "status 2",
      expect.stringMatching(/^tproxy: Cannot become user daemon: .*CAP_SETUID/),
      "status 1",
      "0",
    ]);
  },
  240_000,
);

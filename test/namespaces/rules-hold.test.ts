/**
 * Processes that hold a set-up, and processes that are killed: whatever the moment, nothing is left
 * that captures traffic, and what is left is cleared by `--remove`.
 */

import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { captures, program, ruleFunctions } from "../helpers/rules.ts";
import { testWith } from "../helpers/tools.ts";

const means = { "network namespaces": canUnshare };
const testHold = testWith(["ip", "nft", "iptables", "ip6tables"], means);
const testTraffic = testWith(["ip", "nft", "python3", "nsenter"], means);

const files = {
  "transparent.py": readFileSync(new URL("transparent.py", import.meta.url), "utf8"),
};

async function lines(script: string, timeoutMs = 170_000): Promise<string[]> {
  const { stdout, stderr } = await inNamespace(ruleFunctions + script, { files, timeoutMs });
  return `${stdout}${stderr}`.trim().split("\n");
}

const capture = "--dport 80 --to-port 50080";
const applied = [
  "+ ip route: local default table 100 protocol 116",
  "+ ip -6 route: local default table 100 protocol 116",
  "+ ip rule 100: fwmark 0x1/0x1 lookup 100 protocol 116",
  "+ ip -6 rule 100: fwmark 0x1/0x1 lookup 100 protocol 116",
  "+ table inet tproxyd: 4 rules",
];
const holds = "held: the kernel takes the firewall table away with this process";
const waits = (time: string) => `in force for ${time}: "tproxy routes --confirm" keeps it`;

describe("a held set-up", () => {
  testHold("is in force, and taken back when the process is told to end", async () => {
    for (const signal of ["TERM", "INT", "HUP"]) {
      const found = await lines(`
        dump before
        hold --hold ${capture}
        routes --check ${capture} | sed "s/process $holder /process P /"
        kill -${signal} "$holder"; wait "$holder" && echo "status $?"
        dump after; same before after "released"; cat held`);
      expect(found).toEqual([
        "as it should be, held by process P (tproxy)",
        "status 0",
        "released: same",
        ...applied,
        holds,
        "released",
      ]);
    }
  });

  testHold("neither a full pipe nor a full disk keeps it from its end", async () => {
    const found = await lines(`
      mkfifo full; exec 3<> full
      dd if=/dev/zero of=full bs=4096 count=64 oflag=nonblock 2> /dev/null || :
      for output in full /dev/full; do
        dump before
        ${program} routes --apply --hold ${capture} > "$output" 2>&1 &
        holder=$!; started="$started $holder"
        eventually routes --check ${capture}
        kill -TERM "$holder"; wait "$holder" && echo "status $?"
        dump after; same before after "released"
      done`);
    expect(found).toEqual(["status 0", "released: same", "status 0", "released: same"]);
  });

  testHold("loses its firewall in the instant that it is killed; the rest is cleared", async () => {
    const found = await lines(`
      dump before
      hold --hold ${capture}
      nft flush ruleset; capturing
      nft delete table inet tproxyd 2> /dev/null || echo "not to be deleted"
      kill -KILL "$holder"; wait "$holder" || :
      capturing
      routes --remove | tail -n 1; dump after; same before after "removed"
      hold --hold ${capture}; kill -KILL "$holder"; wait "$holder" || :
      routes --apply ${capture}; routes --check ${capture}`);
    expect(found.filter((line) => !line.includes("Killed"))).toEqual([
      "table inet tproxyd",
      "not to be deleted",
      "nothing of ours",
      "removed",
      "removed: same",
      "+ table inet tproxyd: 4 rules",
      "applied",
      "as it should be",
    ]);
  });

  testHold("puts back the rules and routes that others flush", async () => {
    const found = await lines(`
      hold --hold ${capture}; dump complete
      ip rule flush; ip rule add priority 32766 table main; ip rule add priority 32767 table default
      ip -6 rule del priority 100; ip route flush table 100; ip -6 route flush table 100
      eventually routes --check ${capture}
      dump again; same complete again "put back"
      kill "$holder"; wait "$holder"; grep -c '^put back' held || cat held`);
    expect(found[0]).toBe("put back: same");
    expect(Number(found[1])).toBeGreaterThanOrEqual(4);
  });

  testHold("tells of rules of others that come into its way", async () => {
    const found = await lines(`
      hold --hold ${capture}
      ip rule add priority 50 fwmark 0x1/0xff table 99
      eventually grep '^drift' held
      kill "$holder"; wait "$holder"; grep '^drift' held`);
    expect(found).toEqual([
      'drift: the mark 0x1/0x1 shares bits with "ip rule 50: fwmark 0x1/0xff lookup 99": ' +
        "choose others with --mark",
    ]);
  });

  testHold("keeps a second tproxy out, and refuses to be removed by it", async () => {
    const found = await lines(`
      hold --hold ${capture}; dump complete
      for how in --apply '--apply --force' '--apply --hold' --remove; do
        routes $how ${capture} || echo "status $?"
      done 2>&1 | sed "s/process $holder /process P /"
      dump again; same complete again "unharmed"`);
    const holder = "process P (tproxy) holds";
    expect(found.filter((line) => line.includes(holder))).toHaveLength(4);
    expect(found.filter((line) => line === "status 1")).toHaveLength(4);
    expect(found.at(-1)).toBe("unharmed: same");
  });

  testHold("stands beside one that is applied, and each is taken back by itself", async () => {
    const found = await lines(`
      beside="--dport 81 --table-name tproxyd-b"
      dump before
      routes --apply $beside > /dev/null; dump persistent
      hold --hold ${capture}
      routes --check ${capture} > /dev/null && routes --check $beside
      routes --remove 2> refused || :; sed "s/process $holder /process P /" refused
      routes --check ${capture} > check
      routes --apply $beside > /dev/null
      kill "$holder"; wait "$holder"
      routes --check $beside
      hold --hold ${capture}; kill -KILL "$holder"; wait "$holder" || :
      routes --apply $beside; routes --check $beside
      routes --remove > all; grep inet all; grep ip all | LC_ALL=C sort; tail -n 1 all
      dump after; same before after "removed"`);
    const routing = [
      "- ip rule 100: fwmark 0x1/0x1 lookup 100 protocol 116",
      "- ip -6 rule 100: fwmark 0x1/0x1 lookup 100 protocol 116",
      "- ip route: local default table 100 protocol 116",
      "- ip -6 route: local default table 100 protocol 116",
    ];
    const others = routing.map((line) =>
      line.replaceAll("100", "101").replace("0x1/0x1", "0x4/0x4"),
    );
    expect(found.filter((line) => !line.includes("Killed"))).toEqual([
      "as it should be",
      "- table inet tproxyd-b",
      ...routing,
      "removed",
      "tproxy: Cannot remove the firewall table inet tproxyd: process P (tproxy) holds it: end " +
        "that process, which takes everything back",
      "as it should be",
      "nothing to change: everything is as it should be",
      "as it should be",
      "- table inet tproxyd-b",
      ...[...routing, ...others].sort(),
      "removed",
      "removed: same",
    ]);
  });

  testHold("takes over what was applied before", async () => {
    const found = await lines(`
      dump before
      routes --apply ${capture} > /dev/null
      hold --hold ${capture}; kill -KILL "$holder"; wait "$holder" || :
      capturing; routes --remove > /dev/null; dump after; same before after "removed"`);
    expect(found.slice(0, 2)).toEqual(["nothing of ours", "removed: same"]);
  });
});

testHold("without table owners, the firewall is put back when others flush it", async () => {
  const program = new URL("../helpers/hold-unowned.ts", import.meta.url).pathname;
  const found = await lines(`
    dump before
    background "${process.execPath}" "${program}" > held; holder=$!
    eventually grep '^held' held
    dump complete
    nft flush ruleset; eventually routes --check ${capture}; dump again
    same complete again "put back"
    nft add rule inet tproxyd prerouting drop; eventually routes --check ${capture}
    kill "$holder"; wait "$holder"
    dump after; same before after "released"; cat held`);
  const putBack = "put back what another program changed: table inet tproxyd";
  expect(found).toEqual(["put back: same", "released: same", "held", putBack, putBack]);
});

describe("with --rollback-after", () => {
  testHold("everything is taken back, also when the session hangs up", async () => {
    const found = await lines(`
      dump before
      hold --rollback-after 1s ${capture}; kill -HUP "$holder"; nft flush ruleset; capturing
      wait "$holder" || echo "status $?"
      dump after; same before after "taken back"; cat held
      routes --confirm || echo "status $?"`);
    expect(found).toEqual([
      "table inet tproxyd",
      "table inet tproxyd_pending",
      "status 1",
      "taken back: same",
      ...applied,
      waits("1s"),
      "taken back: nobody confirmed",
      "status 1",
      "tproxy: No set-up waits for confirmation here: it was confirmed, or has been removed",
    ]);
  });

  testHold("it stays when it is confirmed, as if it had just been applied", async () => {
    const found = await lines(`
      routes --apply ${capture} > /dev/null; dump plain; routes --remove > /dev/null
      hold --rollback-after 1h ${capture}
      routes --confirm; wait "$holder"; echo "status $?"
      dump confirmed; same plain confirmed "as if applied"; tail -n 1 held
      routes --apply --rollback-after 1h ${capture}
      routes --apply --rollback-after 1h --dport 81 || echo "status $?"`);
    expect(found).toEqual([
      "confirmed",
      "status 0",
      "as if applied: same",
      "confirmed",
      "nothing to change: everything is as it should be",
      "status 1",
      "tproxy: Cannot apply with --rollback-after: another set-up of tproxy is in place, and " +
        'could not be restored afterwards: remove it first with "tproxy routes --remove"',
    ]);
  });

  testHold("it stays held when it is confirmed with --hold", async () => {
    const found = await lines(`
      dump before
      hold --hold --rollback-after 1h ${capture}
      routes --confirm; eventually grep confirmed held
      routes --check ${capture} | sed "s/process $holder /process P /"
      kill "$holder"; wait "$holder"; dump after; same before after "released"`);
    expect(found).toEqual([
      "confirmed",
      "as it should be, held by process P (tproxy)",
      "released: same",
    ]);
  });

  testHold("it is taken back at once when the process is killed or told to end", async () => {
    const found = await lines(`
      dump before
      hold --rollback-after 1h ${capture}; kill "$holder"; wait "$holder" || echo "status $?"
      dump after; same before after "told to end"
      hold --rollback-after 1h ${capture}; kill -KILL "$holder"; wait "$holder" || :
      capturing
      routes --confirm || echo "status $?"
      routes --remove > /dev/null; dump after; same before after "removed"`);
    expect(found.filter((line) => !line.includes("Killed"))).toEqual([
      "status 1",
      "told to end: same",
      "nothing of ours",
      "status 1",
      "removed: same",
      "tproxy: No set-up waits for confirmation here: it was confirmed, or has been removed",
    ]);
  });
});

/** Where a SIGKILL may fall: milliseconds from the start, from a seed that a failure shows. */
function delays(seed: number, count: number, maxMs: number): number[] {
  let state = seed;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * maxMs);
  });
}

const seed = Number(process.env.TPROXY_SEED ?? Math.floor(Math.random() * 2 ** 31));
const asArguments = (times: number[]) =>
  times.map((ms) => `0.${String(ms).padStart(3, "0")}`).join(" ");

describe(`killed at random moments (TPROXY_SEED=${seed})`, () => {
  const killed = `
    killed() {
      delay="$1"; shift
      "$@" > /dev/null 2>&1 & victim=$!
      sleep "$delay"; kill -KILL "$victim" 2> /dev/null || :; wait "$victim" 2> /dev/null || :
    }
    # With a firewall there is all that belongs to it; without one nothing captures.
    judge() {
      if nft list table inet tproxyd > /dev/null 2>&1; then
        routes --check ${capture} > check || { echo "$1: half in force"; cat check; }
      fi
    }
    clear() {
      routes --remove > removed 2>&1 || { echo "$1: not removed"; cat removed; }
      dump after; cmp -s before after || { echo "$1: left behind"; diff before after || :; }
    }
    dump before`;
  const tproxyCommand = ruleFunctions.match(/^routes\(\) \{ (.*) routes "\$@"; \}$/m)?.[1];

  testHold(
    "while applying",
    async () => {
      const found = await lines(`${killed}
      for delay in ${asArguments(delays(seed, 25, 90))}; do
        killed "$delay" ${tproxyCommand} routes --apply ${capture}
        judge "applying $delay"; clear "applying $delay"
      done; echo done`);
      expect(found).toEqual(["done"]);
    },
    240_000,
  );

  testHold(
    "while removing",
    async () => {
      const found = await lines(`${killed}
      for delay in ${asArguments(delays(seed + 1, 25, 90))}; do
        routes --apply ${capture} > /dev/null
        killed "$delay" ${tproxyCommand} routes --remove
        judge "removing $delay"; clear "removing $delay"
      done; echo done`);
      expect(found).toEqual(["done"]);
    },
    240_000,
  );

  for (const how of ["open", "closed"]) {
    testHold(`while holding, ${how}`, async () => {
      const found = await lines(`${killed}
        for delay in ${asArguments(delays(seed + 2, 25, 150))}; do
          killed "$delay" ${tproxyCommand} routes --apply --hold --on-exit ${how} ${capture}
          nft list table inet tproxyd > /dev/null 2>&1 && echo "holding $delay: captures"
          clear "holding $delay"
        done; echo done`);
      expect(found).toEqual(["done"]);
    });
  }

  testHold("while it waits for confirmation, and is confirmed", async () => {
    const found = await lines(`${killed}
      for delay in ${asArguments(delays(seed + 3, 10, 150))}; do
        hold --rollback-after 1h ${capture}
        routes --confirm > confirmed 2>&1 & confirming=$!
        sleep "$delay"; kill -KILL "$holder" 2> /dev/null || :; wait "$holder" 2> /dev/null || :
        wait "$confirming" && status=0 || status=$?
        if nft list table inet tproxyd > /dev/null 2>&1; then in_force=0; else in_force=1; fi
        [ "$status" = "$in_force" ] || { echo "$delay: status $status"; cat confirmed; capturing; }
        judge "confirming $delay"; clear "confirming $delay"
      done; echo done`);
    expect(found).toEqual(["done"]);
  });
});

/** A client, this host as its router, and behind it a server that has every address. */
const topology = `
namespace client; namespace server
veth client p0 c0; veth server p1 s0
ip address add 10.9.0.1/24 dev p0; ip address add 10.8.0.1/24 dev p1
within client ip address add 10.9.0.2/24 dev c0; within client ip route add default via 10.9.0.1
within server ip address add 10.8.0.2/24 dev s0; within server ip route add default via 10.8.0.1
within server ip address add 203.0.113.9/32 dev lo
ip route add 203.0.113.0/24 via 10.8.0.2
echo 1 > /proc/sys/net/ipv4/ip_forward
background python3 transparent.py listen 50080 ready "proxy: "
background nsenter -t "$server" -n python3 transparent.py listen 80 there "server: "
eventually test -e ready -a -e there
ask() { within client python3 transparent.py ask "$1" "\${2-tcp}" 203.0.113.9 80; }
`;

describe("what captured traffic meets when the process is gone", () => {
  const ways = { killed: 'kill -KILL "$holder"', ended: 'kill "$holder"' };
  for (const [way, command] of Object.entries(ways)) {
    testTraffic(`${way}, open: it goes its own way`, async () => {
      const found = await lines(`${topology}
        ask 10; hold --hold ${capture}; ask 10
        ${command}; wait "$holder" 2> /dev/null || :
        ask 10`);
      expect(found).toEqual([
        "server: tcp for 203.0.113.9:80",
        "proxy: tcp for 203.0.113.9:80",
        "server: tcp for 203.0.113.9:80",
      ]);
    });

    testTraffic(
      `${way}, closed: it is dropped until it is removed, and nothing else is`,
      async () => {
        const found = await lines(`${topology}
        hold --hold --on-exit closed ${capture}; ask 10
        nft flush ruleset; eventually nft list table inet tproxyd_closed; ask 10
        ${command}; wait "$holder" 2> /dev/null || :
        ask 0.7
        ask 10 udp
        hold --hold --on-exit closed ${capture}; ask 10
        ${command}; wait "$holder" 2> /dev/null || :
        routes --remove > /dev/null; ask 10`);
        expect(found).toEqual([
          "proxy: tcp for 203.0.113.9:80",
          "proxy: tcp for 203.0.113.9:80",
          "no answer",
          "server: udp for 203.0.113.9:80",
          "proxy: tcp for 203.0.113.9:80",
          "server: tcp for 203.0.113.9:80",
        ]);
      },
    );
  }

  testTraffic("killed, closed: so it is with what this host sends", async () => {
    const found = await lines(`${topology}
      ask_here() { python3 transparent.py ask "$1" "$2" 203.0.113.9 80; }
      ask_here 10 tcp
      hold --hold --on-exit closed --local --guard-uid 65534 ${capture}; ask_here 10 tcp
      kill -KILL "$holder"; wait "$holder" 2> /dev/null || :
      ask_here 0.7 tcp; ask_here 10 udp
      routes --remove > /dev/null; ask_here 10 tcp`);
    expect(found).toEqual([
      "server: tcp for 203.0.113.9:80",
      "proxy: tcp for 203.0.113.9:80",
      "no answer",
      "server: udp for 203.0.113.9:80",
      "server: tcp for 203.0.113.9:80",
    ]);
  });
});

describe("a set-up of both families whose process was killed", () => {
  testHold(
    "is removed by whatever names it; of one family, where that is named",
    async () => {
      const names = [
        "--table-name tproxyd-lan",
        "--mark 0x40/0x40",
        "--table 300",
        "--priority 50",
      ];
      const found = await lines(`
      dump before
      removed() { routes --remove $1 > removed 2>&1; dump after; same before after "$2"; }
      while read -r names; do
        hold --hold ${capture} $names; kill -KILL "$holder"; wait "$holder" || :
        removed "$names" "$names"
      done << 'END'
${names.join("\n")}
END
      hold --hold ${capture}; kill -KILL "$holder"; wait "$holder" || :
      removed "--table-name tproxyd" "the default name"
      hold --hold --local --guard-uid 65534 ${capture}; kill -KILL "$holder"; wait "$holder" || :
      routes --remove --family 4 --table-name tproxyd > removed 2>&1
      grep '^- .*-6' removed || echo "of IPv4"
      removed "--local --guard-uid 65534" "local programs"`);
      expect(found.filter((line) => !line.includes("Killed"))).toEqual([
        ...names.map((words) => `${words}: same`),
        "the default name: same",
        "of IPv4",
        "local programs: same",
      ]);
    },
    240_000,
  );

  testHold("is spoken of where its mark is not known any more", async () => {
    const found = await lines(`
      dump before
      hold --hold --table-name tproxyd-lan --mark 0x40/0x40 --table 300 ${capture}
      kill -KILL "$holder"; wait "$holder" || :
      routes --remove --table-name tproxyd-lan 2>&1 | sort -r
      routes --remove --mark 0x40/0x40 --table 300 > removed; dump after; same before after given`);
    const said = found.filter((line) => !line.includes("Killed"));
    expect(said[0]).toContain(
      "no set-up that is in place needs ip rule 100: fwmark 0x40/0x40 lookup 300",
    );
    expect(said.slice(1)).toEqual(["nothing to remove", "given: same"]);
  });
});

describe("held, closed and killed, it drops what it captured, and is removed entirely:", () => {
  const marked = Object.entries(captures).filter(([, words]) => !words.includes("--redirect"));
  for (const [what, words] of marked) {
    testHold(what, async () => {
      const name = /--table-name (\S+)/.exec(words)?.[1] ?? "tproxyd";
      const found = await lines(`
        dump before
        hold --hold --on-exit closed ${words}
        nft list table inet ${name} > owned; nft list table inet ${name}_closed > closed
        count() { grep -c "$1" "$2" || :; }
        [ "$(count 'mark set' owned)" = "$(count ' drop ' closed)" ] || cat owned closed
        kill -KILL "$holder"; wait "$holder" || :
        capturing
        routes --remove ${words} > /dev/null; dump after; same before after "removed"`);
      expect(found.filter((line) => !line.includes("Killed"))).toEqual([
        `table inet ${name}_closed`,
        "removed: same",
      ]);
    });
  }
});

testHold("what cannot be meant is refused before anything is changed", async () => {
  const found = await lines(`
    for words in "--apply --check" "--check --hold" "--remove --rollback-after 5s" \\
      "--apply --json" "--apply --undo" "--remove --undo" "--check --dialect nft" \\
      "--print --hold" "--print --rollback-after 5s" "--print --json" \\
      "--apply --on-exit closed" "--apply --rollback-after 0s" \\
      "--apply --hold --on-exit closed --redirect --to-port 5 --dport 80"; do
      routes $words 2>&1 || echo "status $?"
    done; capturing`);
  expect(found).toEqual([
    "tproxy: --apply and --check exclude each other: give one of them",
    "status 2",
    "tproxy: --hold needs --apply, not --check: leave it out",
    "status 2",
    "tproxy: --rollback-after needs --apply, not --remove: leave it out",
    "status 2",
    "tproxy: --json needs --check, not --apply: leave it out",
    "status 2",
    'tproxy: --undo needs --print, not --apply: leave it out, or give "--remove"',
    "status 2",
    "tproxy: --undo needs --print, not --remove: leave it out",
    "status 2",
    "tproxy: --dialect needs --print, not --check: leave it out",
    "status 2",
    "tproxy: --hold needs --apply, not --print: leave it out",
    "status 2",
    "tproxy: --rollback-after needs --apply, not --print: leave it out",
    "status 2",
    'tproxy: --json needs --check, not --print: leave it out, or give "--dialect json"',
    "status 2",
    "tproxy: --on-exit needs --hold",
    "status 2",
    'tproxy: --rollback-after "0s" leaves no time to confirm: give "30s"',
    "status 2",
    "tproxy: Cannot apply with --on-exit closed: redirected packets have no mark to match; " +
      "leave out --redirect or --on-exit closed",
    "status 1",
    "nothing of ours",
  ]);
});

/**
 * Rules in the running system, by the built executable: applied they are what the printed nft
 * script makes, checked they pass, and removed the system is as it was, byte for byte.
 */

import { describe, expect } from "bun:test";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { captures, program, ruleFunctions } from "../helpers/rules.ts";
import { testWith } from "../helpers/tools.ts";

const testRules = testWith(["ip", "nft", "iptables", "ip6tables"], {
  "network namespaces": canUnshare,
});

/** Runs a script; what it printed, a line each, with what went to standard error behind it. */
async function lines(script: string, timeoutMs = 170_000): Promise<string[]> {
  const { stdout, stderr } = await inNamespace(ruleFunctions + script, { timeoutMs });
  return `${stdout}${stderr}`.trim().split("\n");
}

const everything = "--dport 80 --to-port 50080 --reply-path";

describe("applied as printed, checked, and removed without a trace:", () => {
  for (const [what, words] of Object.entries(captures)) {
    testRules(what, async () => {
      // Nothing is said of interfaces that are there.
      const script = `
        ip link add eth0 type veth peer name wlan0.100
        O="${words}"
        dump before
        routes --print --dialect nft $O | sh
        dump printed
        routes --check $O
        routes --apply $O
        routes --remove $O > removed || cat removed
        dump after; same before after "the script's removed"
        routes --apply $O > /dev/null
        dump applied; same printed applied "as printed"
        cmp -s before applied && echo "nothing was applied"
        routes --check $O; routes --check --json $O
        routes --apply $O
        dump again; same applied again "applied again"
        routes --remove $O > removed || cat removed
        tail -n 1 removed
        dump after; same before after "removed"
        routes --remove $O
        routes --check $O > missing && echo "check passed" || tail -n 1 missing`;
      const found = await lines(script);
      expect(found.pop()).toMatch(/^\d+ not as it should be/);
      expect(found).toEqual([
        "as it should be",
        "nothing to change: everything is as it should be",
        "the script's removed: same",
        "as printed: same",
        "as it should be",
        '{"ok":true,"heldBy":null,"differences":[]}',
        "nothing to change: everything is as it should be",
        "applied again: same",
        "removed",
        "removed: same",
        "nothing to remove",
      ]);
    });
  }
});

testRules("what only reads changes nothing: --print, --check, explain, doctor", async () => {
  const found = await lines(`
    dump empty
    routes --apply ${everything} > /dev/null; dump before
    for words in "routes --print" "routes --print --undo --dialect nft" "routes --check" \\
      "routes --print ${everything}" "routes --check ${everything}" \\
      "explain accept 8.8.8.8:80" "explain connect 8.8.8.8:80 --from 192.0.2.9" \\
      "explain bind 8.8.8.8:80" "doctor" "doctor ${everything}" \\
      "forward :80 --to 192.0.2.1:80 --routes print"; do
      ${program} $words > said 2>&1 || :
      [ -s said ] || echo "$words: says nothing"
      dump after; cmp -s before after || { echo "$words: changed"; diff before after || :; }
    done
    cmp -s empty before && echo "nothing was applied"; echo done`);
  expect(found).toEqual(["done"]);
});

const capture = "--dport 80 --to-port 50080";

describe("parts that are gone", () => {
  const losses = {
    "the firewall table": "nft delete table inet tproxyd",
    "all firewall rules": "nft flush ruleset",
    "an ip rule": "ip rule del priority 100",
    "a route": "ip -6 route flush table 100",
    everything: "nft flush ruleset; ip rule del priority 100; ip -6 rule del priority 100",
  };
  for (const [what, command] of Object.entries(losses)) {
    testRules(`are told of, put back and no hindrance: ${what}`, async () => {
      const script = `
        dump before
        routes --apply ${capture} > /dev/null; dump applied
        ${command}
        routes --check ${capture} > /dev/null && echo "check passed"
        routes --apply ${capture} > /dev/null; dump again; same applied again "put back"
        routes --check ${capture}
        ${command}
        routes --remove ${capture} > /dev/null; echo "status $?"
        dump after; same before after "removed"`;
      expect(await lines(script)).toEqual([
        "put back: same",
        "as it should be",
        "status 0",
        "removed: same",
      ]);
    });
  }

  testRules("and what was put in", async () => {
    const script = `
      routes --apply ${capture} > /dev/null
      nft add rule inet tproxyd prerouting counter accept
      ip route add local 192.0.2.0/24 dev lo table 100 protocol 116
      routes --check ${capture} || echo "status $?"
      routes --apply ${capture}
      routes --check ${capture}`;
    expect(await lines(script)).toEqual([
      "+ ip route: local 192.0.2.0/24 table 100 protocol 116",
      "+ table inet tproxyd chain prerouting: accept",
      "2 not as it should be (- missing, + too much)",
      "status 1",
      "~ table inet tproxyd: 4 rules",
      "- ip route: local 192.0.2.0/24 table 100 protocol 116",
      "applied",
      "as it should be",
    ]);
  });
});

describe("other people's", () => {
  testRules(
    "rules, routes and tables are left alone, with the same mark and priority too",
    async () => {
      const script = `
      nft -f - <<'EOF'
table inet other {
  set tproxyd { type ipv4_addr; elements = { 192.0.2.1 } }
  chain prerouting {
    type filter hook prerouting priority mangle; policy accept;
    tcp dport 80 meta mark set meta mark or 1 comment "tproxyd, not"
  }
}
EOF
      nft add table ip tproxyd
      iptables -t mangle -A PREROUTING -p tcp --dport 81 -j MARK --set-xmark 0x1/0x1
      ip rule add priority 100 fwmark 0x1/0x1 table 77
      ip route add local default dev lo table 100 metric 5
      dump before
      routes --apply ${capture} 2>&1 || echo "status $?"
      dump refused; same before refused "refused"
      routes --apply --force ${capture} > /dev/null 2>&1; echo "status $?"
      routes --check ${capture}
      routes --remove > /dev/null; dump after; same before after "removed"`;
      const [refusal = "", ...rest] = await lines(script);
      for (const reason of [
        'the priority 100 is taken by "ip rule 100: fwmark 0x1/0x1 lookup 77"',
        'the mark 0x1/0x1 shares bits with "ip rule 100: fwmark 0x1/0x1 lookup 77"',
        'the table 100 has a route of others, "ip route: local default table 100"',
      ]) {
        expect(refusal).toContain(reason);
      }
      expect(rest).toEqual([
        "status 1",
        "refused: same",
        "status 0",
        "as it should be",
        "removed: same",
      ]);
    },
  );

  testRules("table of our name is neither replaced nor removed", async () => {
    const script = `
      nft -f - <<'EOF'
table inet tproxyd {
  chain x {
    drop
  }
}
EOF
      dump before
      routes --apply ${capture} 2>&1 || echo "status $?"
      routes --remove 2>&1; echo "status $?"
      dump after; same before after "left alone"`;
    const [refusal, ...rest] = await lines(script);
    expect(refusal).toContain("there is a firewall table inet tproxyd that tproxy did not make");
    expect(rest).toEqual([
      "status 1",
      "nothing to remove",
      "tproxy: the firewall table inet tproxyd is not tproxy's, and was left alone",
      "status 0",
      "left alone: same",
    ]);
  });
});

describe("set-ups side by side", () => {
  testRules("are told from each other, whatever they have in common", async () => {
    const seconds = {
      "a name, and the rest is chosen": "--table-name tproxyd_two --dport 81",
      "a mark, with table and priority shared":
        "--table-name tproxyd-b --dport 81 --mark 0x20/0x20 --table 100 --priority 100",
      "the other family, with everything shared":
        "--table-name tproxyd-6 --dport 80 --family 6 --mark 1/1 --table 100 --priority 100",
      "no routes": "--table-name tproxyd-nat --dport 81 --redirect --to-port 50081",
    };
    for (const [what, two] of Object.entries(seconds)) {
      const one = what.includes("family") ? `${capture} --family 4` : capture;
      const found = await lines(`
        one="${one}"; two="${two}"
        dump before
        routes --apply $one > /dev/null; dump first
        routes --apply $two > /dev/null; dump both
        routes --check $one; routes --check $two
        routes --remove $two > /dev/null; dump left; same first left "the first"
        routes --apply $two > /dev/null; dump again; same both again "both again"
        routes --remove $one > /dev/null; routes --check $two
        routes --apply $two
        routes --remove $two > /dev/null; dump after; same before after "removed"
        routes --apply $one > /dev/null; routes --apply $two > /dev/null
        routes --remove > /dev/null; dump after; same before after "all removed"`);
      expect([what, ...found]).toEqual([
        what,
        "as it should be",
        "as it should be",
        "the first: same",
        "both again: same",
        "as it should be",
        "nothing to change: everything is as it should be",
        "removed: same",
        "all removed: same",
      ]);
    }
  });

  testRules("in each other's way are refused, and with --force share what both need", async () => {
    const two = "--dport 81 --table-name tproxyd-b --mark 1/1 --table 100 --priority 100";
    const [refusal, ...rest] = await lines(`
      dump before
      routes --apply ${capture} > /dev/null; dump one
      routes --apply ${two} 2>&1 || echo "status $?"
      dump refused; same one refused "refused"
      routes --apply --force ${two} > /dev/null 2>&1
      routes --remove ${capture} > /dev/null; routes --check ${two}
      routes --remove ${two} > /dev/null; dump after; same before after "removed"`);
    expect(refusal).toContain("another set-up of tproxy, the firewall table inet tproxyd");
    expect(rest).toEqual(["status 1", "refused: same", "as it should be", "removed: same"]);
  });

  testRules("one takes another's place without the routes of a third", async () => {
    expect(
      await lines(`
        routes --apply --table-name tproxyd-c --dport 443 > /dev/null; dump third
        routes --apply ${capture} > /dev/null
        routes --apply --dport 82 --mark 0x40/0x40 --table 300 --priority 50 > /dev/null
        routes --check --table-name tproxyd-c --dport 443
        routes --remove --dport 82 > /dev/null; dump left; same third left "the third"`),
    ).toEqual(["as it should be", "the third: same"]);
  });

  testRules("of the script for iptables keep what they need", async () => {
    const found = await lines(`
      routes --print ${capture} --family 4 | sh; dump script
      routes --apply --dport 81 --family 4 --table-name tproxyd-b | grep -c 'fwmark 0x4/0x4'
      routes --remove --table-name tproxyd-b > /dev/null
      dump left; same script left "the script's"
      routes --remove --table-name tproxyd 2>&1
      routes --remove 2>&1; dump left; same script left "the script's"`);
    expect(found).toEqual([
      "1",
      "the script's: same",
      ...["by name", "all"].flatMap(() => [
        "nothing to remove",
        "tproxy: the iptables chain tproxyd was left alone, with its ip rules and routes: the " +
          "script that made it takes it back, printed with --undo",
      ]),
      "the script's: same",
    ]);
  });

  testRules("started in the same instant get names and marks of their own", async () => {
    const names = ["a", "b", "c", "d"].map((name) => `tproxyd-${name}`);
    const found = await lines(`
      dump before; jobs=
      for name in ${names.join(" ")}; do
        routes --apply --dport 80 --table-name "$name" > "$name" 2>&1 & jobs="$jobs $!"
      done
      for job in $jobs; do wait "$job" || echo "status $?"; done
      ip rule | grep -c fwmark; ip rule | grep fwmark | sort -u | wc -l
      for name in ${names.join(" ")}; do routes --check --dport 80 --table-name "$name"; done
      jobs=
      for name in ${names.join(" ")}; do
        routes --remove --table-name "$name" > /dev/null & jobs="$jobs $!"
      done
      for job in $jobs; do wait "$job"; done
      dump after; same before after "removed"`);
    expect(found).toEqual(["4", "4", ...names.map(() => "as it should be"), "removed: same"]);
  });
});

testRules("another capture takes the place of the first, with all that belongs to it", async () => {
  const script = `
    dump before
    routes --apply ${capture} > /dev/null
    routes --apply --dport 443 --mark 0x20/0x20 --table 300 --priority 50 > /dev/null; dump second
    routes --remove > /dev/null
    routes --apply --dport 443 --mark 0x20/0x20 --table 300 --priority 50 > /dev/null; dump alone
    same alone second "second"
    routes --remove > /dev/null; dump after; same before after "removed"`;
  expect(await lines(script)).toEqual(["second: same", "removed: same"]);
});

testRules("20,000 networks are applied in well under a second, once", async () => {
  const script = `
    seq 0 2 39998 | awk '{ printf "20.%d.%d.0/24\\n", ($1 / 256) % 256, $1 % 256 }' > list
    dump before
    routes --apply --dst @list | tail -n 1
    routes --apply --dst @list
    nft list table inet tproxyd | grep -o '/24' | wc -l
    routes --remove --dst @list | tail -n 1
    dump after; same before after "removed"`;
  expect(await lines(script)).toEqual([
    "applied",
    "nothing to change: everything is as it should be",
    "20000",
    "removed",
    "removed: same",
  ]);
});

const testPrivileges = testWith(["ip", "setpriv"], { root: process.getuid?.() === 0 });

describe("without privileges", () => {
  for (const action of ["apply", "check", "remove", "confirm"]) {
    testPrivileges(`--${action} is refused in one line`, async () => {
      const script =
        `
        ${"routes() { setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all "}` +
        `${ruleFunctions.match(/^routes\(\) \{ (.*) "\$@"; \}$/m)?.[1]} "$@"; }
        routes --${action} ${action === "confirm" ? "" : capture} || echo "status $?"`;
      const [status, ...rest] = await lines(script);
      expect(status).toBe("status 1");
      expect(rest.join("\n")).toMatch(
        new RegExp(`^tproxy: Cannot ${action} routes: ip rules and nf_tables need CAP_NET_ADMIN`),
      );
    });
  }
});

const testSysctls = testWith(["ip", "nft", "unshare", "mount"], { root: process.getuid?.() === 0 });

testSysctls("kernel settings are set when asked, remembered and given back", async () => {
  const script = `
    cat > inner.sh <<'EOF'
mount -t tmpfs none /run
ip link add eth7 type veth peer name eth8
value() { cat /proc/sys/net/ipv4/conf/eth7/accept_local; }
O="--in eth7 --dport 80"
routes --apply $O | grep sysctl
value
routes --apply --sysctl $O | grep sysctl
value
stat -c '%a %F' /run/tproxy /run/tproxy/*
routes --apply --sysctl $O
echo 0 > /proc/sys/net/ipv4/conf/eth7/accept_local
routes --check --sysctl $O || echo "status $?"
routes --apply --sysctl $O | grep sysctl
routes --remove $O | grep sysctl
value
ls /run/tproxy
ln -s /etc /run/link; rm -r /run/tproxy; ln -s /run/link /run/tproxy
routes --apply --sysctl $O 2>&1 || echo "status $?"
EOF
    { echo '${ruleFunctions.replaceAll("'", "'\\''")}'; cat inner.sh; } > all.sh
    unshare -m sh all.sh`;
  const name = "net/ipv4/conf/eth7/accept_local";
  const found = await lines(script);
  expect(found[0]).toContain(`not set without --sysctl: ${name}=1`);
  expect(found.at(-2)).toContain(
    'tproxy: Cannot apply: /run/tproxy cannot be written: "/run/tproxy"',
  );
  expect(found.slice(1, -2)).toEqual([
    "0",
    `~ sysctl ${name}: 0 -> 1`,
    "1",
    "700 directory",
    "600 regular file",
    "nothing to change: everything is as it should be",
    `- sysctl ${name}=1`,
    "1 not as it should be (- missing, + too much)",
    "status 1",
    `~ sysctl ${name}: 0 -> 1`,
    `~ sysctl ${name}: 1 -> 0`,
    "0",
  ]);
});

testSysctls("kernel settings are given back by the set-up that needs them last", async () => {
  const script = `
    cat > inner.sh <<'EOF'
mount -t tmpfs none /run
ip link add eth7 type veth peer name eth8
values() { cat /proc/sys/net/ipv4/conf/eth[78]/accept_local; }
ONE="--sysctl --in eth7,eth8 --dport 80"
TWO="--sysctl --in eth8 --dport 81 --mark 2/2 --table 102 --priority 102 --table-name tproxyd-b"
routes --apply $ONE | grep sysctl
routes --apply $TWO | grep sysctl
routes --remove $TWO | grep sysctl
values
routes --apply $TWO | grep sysctl
routes --remove $ONE | grep sysctl
values
routes --remove | grep sysctl
values
EOF
    { echo '${ruleFunctions.replaceAll("'", "'\\''")}'; cat inner.sh; } > all.sh
    unshare -m sh all.sh`;
  const name = (iface: string) => `net/ipv4/conf/${iface}/accept_local`;
  expect(await lines(script)).toEqual([
    `~ sysctl ${name("eth7")}: 0 -> 1`,
    `~ sysctl ${name("eth8")}: 0 -> 1`,
    "1",
    "1",
    `~ sysctl ${name("eth7")}: 1 -> 0`,
    "0",
    "1",
    `~ sysctl ${name("eth8")}: 1 -> 0`,
    "0",
    "0",
  ]);
});

/** A script with a /run of its own and the interfaces eth7 and eth8, ends of one cable. */
async function withSettings(script: string): Promise<string[]> {
  const functions = ruleFunctions.replaceAll("'", "'\\''");
  return lines(`
    cat > inner.sh <<'INNER'
mount -t tmpfs none /run
started=
ip link set lo up
ip link add eth7 type veth peer name eth8
value() { cat "/proc/sys/net/ipv4/conf/\${1-eth7}/accept_local"; }
give() { echo "$1" > "/proc/sys/net/ipv4/conf/\${2-eth7}/accept_local"; }
O="--in eth7 --dport 80 --family 4"
${script}
INNER
    echo '${functions}' > functions
    cat functions inner.sh > all.sh
    unshare -m sh all.sh`);
}

testSysctls("one that cannot be set is not remembered, and others are as before", async () => {
  const found = await withSettings(`
    path=/proc/sys/net/ipv4/conf/eth8/accept_local
    mount --bind $path $path; mount -o remount,ro,bind $path
    routes --apply --sysctl --in eth7,eth8 --dport 80 --family 4 2>&1 || echo "status $?"
    value; ls /run/tproxy; capturing
    give 1
    routes --apply $O > /dev/null; routes --remove > /dev/null
    value`);
  expect(found.shift()).toContain("net/ipv4/conf/eth8/accept_local cannot be set to 1: EROFS");
  expect(found).toEqual(["status 1", "0", "nothing of ours", "1"]);
});

testSysctls("what was a namespace's that is gone is not taken for the next one's", async () => {
  const found = await withSettings(`
    cat > first.sh <<'PART'
ip link add eth7 type veth peer name eth8
routes --apply --sysctl $O | grep sysctl
PART
    cat > next.sh <<'PART'
ip link add eth7 type veth peer name eth8
give 1
routes --apply $O > /dev/null; routes --remove | grep sysctl
value
PART
    for part in first next; do
      { cat functions; grep -E '^(value|give|O)[(=]' inner.sh; cat $part.sh; } > whole.sh
      unshare -n sh whole.sh
    done`);
  expect(found[0]).toContain("0 -> 1");
  expect(found.slice(1)).toEqual(["1"]);
});

testSysctls("an interface that is made anew gets its setting again, and its own back", async () => {
  const found = await withSettings(`
    anew() { ip link del eth7; ip link add eth7 type veth peer name eth8; }
    is() { [ "$(value)" = "$1" ]; }
    hold --hold --sysctl $O; value
    anew; eventually is 1; value
    kill "$holder"; wait "$holder"; value
    grep '^set again' held; grep '^~' held
    hold --hold --sysctl $O
    kill -KILL "$holder"; wait "$holder" || :
    anew; give 1
    routes --remove | grep sysctl; value`);
  const change = "~ sysctl net/ipv4/conf/eth7/accept_local:";
  expect(found.filter((line) => !line.includes("Killed"))).toEqual([
    ...["1", "1", "0"],
    `set again: ${change} 0 -> 1`,
    `${change} 0 -> 1`,
    `${change} 1 -> 0`,
    "1",
  ]);
});

testSysctls("settings are made where packets and replies come in", async () => {
  const found = await withSettings(`
    ip address add 10.9.8.1/24 dev eth8; ip link set eth7 up; ip link set eth8 up
    settings() { routes --apply --sysctl --family 4 --table-name tproxyd-s "$@" | grep sysctl; }
    settings --in eth7 --dport 80 --backend 10.9.8.2; routes --remove > /dev/null
    settings --in eth7 --dport 80 --reply-path; routes --remove > /dev/null
    settings --dport 80; routes --check --sysctl --dport 80 --family 4 --table-name tproxyd-s
    routes --remove > /dev/null; settings --in 'eth*' --dport 80; routes --remove > /dev/null
    value eth7; value eth8; value all
    settings --in lo --dport 80 2>&1 || echo "status $?"`);
  const name = (owner: string) => `~ sysctl net/ipv4/conf/${owner}/accept_local: 0 -> 1`;
  expect(found.slice(0, 9)).toEqual([
    ...[name("eth7"), name("eth8")],
    ...[name("all"), name("all"), "as it should be", name("all")],
    ...["0", "0", "0"],
  ]);
});

testSysctls("what root remembers does not stop an ordinary user's --remove", async () => {
  const script = `
    cat > inner.sh <<'EOF'
mount -t tmpfs none /run
mkdir -m 700 /run/tproxy
chmod 755 .
setpriv --reuid 65534 --regid 65534 --clear-groups unshare -Urn sh rootless.sh
EOF
    cat > rootless.sh <<'EOF'
ip link set lo up
routes --apply --family 4 --dport 80 | tail -n 1
routes --remove | tail -n 1
EOF
    { echo '${ruleFunctions.replaceAll("'", "'\\''")}'; cat rootless.sh; } > all.sh
    mv all.sh rootless.sh
    unshare -m sh inner.sh`;
  expect(await lines(script)).toEqual(["applied", "removed"]);
});

testRules("IPv6 switched off is named, and nothing is left behind", async () => {
  const script = `
    sysctl -qw net.ipv6.conf.all.disable_ipv6=1
    dump before
    routes --apply --dport 80 || echo "status $?"
    dump after; same before after refused
    routes --apply --dport 80 --family 4 | tail -n 1`;
  const found = await lines(script);
  expect(found.pop()).toMatch(/^tproxy: Cannot apply routes: .*IPv6 is off on lo: give --family 4/);
  expect(found).toEqual(["status 1", "refused: same", "applied"]);
});

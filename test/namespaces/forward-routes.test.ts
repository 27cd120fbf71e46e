/** `forward --routes`: the rules that the command itself puts in, holds and takes out. */

import { describe, expect } from "bun:test";
import { command, families, find, inLab, testInLab } from "../helpers/forward-lab.ts";
import { ruleFunctions } from "../helpers/rules.ts";

const testRoutes = testInLab(["curl", "socat", "iptables-save"]);

/** The lab without the rules that it begins with, and what it looks like then. */
const bare = `
${ruleFunctions}
routes --remove > removed.log
dump before
curling() { within client curl -sS --max-time 10 --http0.9 "$@"; }
scrape() { curl -sS --unix-socket admin.sock http://localhost/metrics; }
measured() { scrape | grep "^tproxy_routes_$1"; }
`;

describe.each(families)("IPv$family", ({ family, asked, client, backend }) => {
  testRoutes("auto: what is sent to the listener's port, and nothing is left", async () => {
    const log = await inLab(`${bare}
      at_backend listen --json '[::]:8080'
      forward '[::]:80' --to '${backend}:8080' --routes auto --in p0
      routes --check --dport 80 --in p0 --reply-path
      curling 'http://${asked}/'
      ended
      kill "$proxy"; wait "$proxy" && echo "ended with 0"
      dump after; same before after rules
    `);
    expect(log.stdout).toMatch(/as it should be, held by process \d+ \(tproxy\)/);
    expect(log.stdout).toContain("hello world");
    expect(log.stdout).toContain("ended with 0\nrules: same\n");
    expect(find(log.backend, "accepted")?.client).toStartWith(`${client}:`);
    expect(find(log.proxy, "forwarded")).toMatchObject({ original_destination: `${asked}:80` });
  });

  testRoutes("auto: another port by TPROXY, to a listener at one address", async () => {
    const own = family === "4" ? "10.9.1.1" : "[fd00:1::1]";
    const log = await inLab(`${bare}
      at_backend listen --json '[::]:8080'
      forward '${own}:50080' --to '${backend}:8080' --routes auto --dport 80,8000-8100
      for port in 80 8042; do curling "http://${asked}:$port/"; done
      ended 2
      kill "$proxy"; wait "$proxy"
      dump after; same before after rules
    `);
    expect(log.stdout).toContain("hello world\nhello world\nrules: same\n");
    const clients = log.backend.filter(({ event }) => event === "accepted");
    for (const each of clients) expect(each.client).toStartWith(`${client}:`);
  });
});

describe.each(families)("UDP over IPv$family", ({ asked, client, backend }) => {
  testRoutes("auto: datagrams as well, by another port and by the listener's own", async () => {
    const log = await inLab(`${bare}
      at_backend listen --json --udp '[::]:5353' --reply answer
      asks() {
        echo question | within client socat -t0.3 - "udp:${asked}:53,sourceport=$1" > "$1"
        grep answer "$1"
      }
      for options in '[::]:53' '[::]:50053 --dport 53'; do
        forward --tcp --udp $options --to '${backend}:5353' --routes auto --in p0
        eventually asks 4000
        eventually asks 4001
        kill "$proxy"; wait "$proxy"
        dump after; same before after "$options"
      done
    `);
    expect(log.stdout).toContain("[::]:53: same\n");
    expect(log.stdout).toContain("[::]:50053 --dport 53: same\n");
    const clients = log.backend.filter(({ event }) => event === "datagram");
    expect(clients.length).toBeGreaterThanOrEqual(4);
    for (const each of clients) expect(each.client).toStartWith(`${client}:`);
  });
});

testRoutes("SIGKILL under traffic: capture ends with it, and the next run clears up", async () => {
  const { stdout } = await inLab(`${bare}
    at_backend listen --echo --quiet --json '[::]:8080'
    forward :80 --to 10.9.2.2:8080 --routes auto --quiet
    for i in 1 2 3; do
      background nsenter -t "$client" -n socat -u /dev/zero tcp:8.8.8.8:80 2> /dev/null
    done
    flowing() { [ "$(ss -Htn state established sport = :80 | wc -l)" = 3 ]; }
    until_true flowing
    kill -KILL "$proxy"; wait "$proxy" 2> /dev/null || :
    echo "firewall: $(nft list ruleset | wc -l)"
    dump killed; diff before killed | grep '^[<>]' || :
    forward :80 --to 10.9.2.2:8080 --routes auto
    kill "$proxy"; wait "$proxy"
    dump after; same before after rules
  `);
  expect(stdout).toContain("firewall: 0\n");
  const left = stdout.match(/^[<>].*/gm) ?? [];
  expect(left.map((line) => line.replace(/\s+/g, " ").trim()).sort()).toEqual([
    "> 100: from all fwmark 0x1/0x1 lookup 100 proto 116",
    "> local default dev lo table 100 proto 116 scope host",
  ]);
  expect(stdout).toContain("rules: same\n");
});

testRoutes("whichever way it ends by itself, with connections open, nothing is left", async () => {
  const { stdout } = await inLab(`${bare}
    at_backend listen --echo --quiet --json '[::]:8080'
    count=0
    open() {
      count=$((count + 1))
      mkfifo "in$count"
      forward :80 --to 10.9.2.2:8080 --routes auto
      within client socat -t1 - tcp:8.8.8.8:80 < "in$count" > "out$count" &
      exec 3> "in$count"
      echo before >&3
      until_true grep -q before "out$count"
    }
    over() {
      wait "$proxy" || echo "$1: status $?"
      exec 3>&-
      dump after; same before after "$1"
    }
    open; kill "$proxy"
    past() { ! nft list ruleset | grep -q 'tproxyd: capture'; }
    until_true past
    kill "$proxy"; over "second SIGTERM"
    open; kill -HUP "$proxy"; over SIGHUP
    trap '' HUP
    open; kill -HUP "$proxy"; echo again >&3; until_true grep -q again "out$count"
    kill "$proxy"; exec 3>&-; over nohup
  `);
  expect(stdout).toContain("second SIGTERM: status 143\nsecond SIGTERM: same\n");
  expect(stdout).toContain("SIGHUP: status 129\nSIGHUP: same\nnohup: same\n");
});

testRoutes(
  "a kernel setting that would drop what is captured is named, others are not",
  async () => {
    const { stdout } = await inLab(`${bare}
    at_backend listen --json '[::]:8080'
    forward :80 --to 10.9.2.2:8080 --routes auto --in p0
    grep -c accept_local proxy.log || :
    kill "$proxy"; wait "$proxy"
    echo 1 > /proc/sys/net/ipv4/conf/p0/src_valid_mark
    forward :80 --to 10.9.2.2:8080 --routes auto --in p0
    until_true grep -q 'not set without --sysctl: net/ipv4/conf/p0/accept_local=1' proxy.log
  `);
    expect(stdout).toStartWith("0\n");
  },
);

testRoutes("under src_valid_mark packets and replies come in with --sysctl alone", async () => {
  const { stdout } = await inLab(`${bare}
    at_backend listen --json '[::]:8080'
    echo 1 > /proc/sys/net/ipv4/conf/all/src_valid_mark
    forward :80 --to 10.9.2.2:8080 --routes auto --in p0
    grep -o 'not set without --sysctl: [a-z0-9_/]*' proxy.log
    kill "$proxy"; wait "$proxy"
    forward :80 --to 10.9.2.2:8080 --routes auto --in p0 --sysctl
    curling http://8.8.8.8/
    kill "$proxy"; wait "$proxy"
    cat /proc/sys/net/ipv4/conf/p[01]/accept_local
    dump after; same before after rules
  `);
  expect(stdout).toStartWith(
    "not set without --sysctl: net/ipv4/conf/p0/accept_local\n" +
      "not set without --sysctl: net/ipv4/conf/p1/accept_local\n" +
      "hello world\n0\n0\nrules: same\n",
  );
});

testRoutes("kernel settings are given back, also those of a run that was killed", async () => {
  const { stdout } = await inLab(`${bare}
    setting() { cat /proc/sys/net/ipv4/conf/p0/accept_local; }
    at_backend listen --json '[::]:8080'
    forward :80 --to 10.9.2.2:8080 --routes auto --in p0 --sysctl
    setting
    kill -KILL "$proxy"; wait "$proxy" 2> /dev/null || :
    forward :80 --to 10.9.2.2:8080 --routes auto --in p0 --sysctl
    setting
    kill "$proxy"; wait "$proxy"
    setting
    dump after; same before after rules
  `);
  expect(stdout).toContain("1\n1\n0\nrules: same\n");
});

describe.each(["client", "self"])("--source %s", (source) => {
  testRoutes("while it drains new connections go past it, and open ones go on", async () => {
    const { stdout, backend } = await inLab(`${bare}
    echo 1 > /proc/sys/net/ipv4/ip_forward
    within backend ip address add 8.8.8.8/32 dev lo
    ip route add 8.8.8.8/32 via 10.9.2.2
    dump before
    at_backend listen --echo --json '[::]:8080' '[::]:80'
    socket="$PWD/admin.sock"
    forward :80 --to 10.9.2.2:8080 --routes auto --in p0 --source ${source} --admin "$socket"
    measured installed
    mkfifo in
    within client socat -t20 - tcp:8.8.8.8:80 < in > out &
    exec 3> in
    echo before >&3
    until_true grep -q before out
    kill "$proxy"
    drained() { ! nft list ruleset | grep -q 'tproxyd: capture'; }
    until_true drained
    measured installed
    past() { echo new | within client socat -t5 -T5 - tcp:8.8.8.8:80,connect-timeout=1; }
    until_true past 2> /dev/null
    echo after >&3
    until_true grep -q after out
    exec 3>&-
    wait "$proxy" && echo "ended with 0"
    cat out
    dump after; same before after rules
  `);
    expect(stdout).toContain("new\nended with 0\nbefore\nafter\nrules: same\n");
    const installed = (value: number) =>
      ["firewall", "route", "rule"].map((part) => `installed{part="${part}"} ${value}`);
    expect([...(stdout.match(/installed\{.*/g) ?? [])]).toEqual([...installed(1), ...installed(0)]);
    const asked = backend.filter(({ event }) => event === "accepted").map((each) => each);
    expect(asked.at(0)?.original_destination).toBe("10.9.2.2:8080");
    expect(asked.at(-1)).toMatchObject({ original_destination: "8.8.8.8:80" });
  });
});

testRoutes("what others remove is put back, and what they flush stays", async () => {
  const { stdout, proxy } = await inLab(`${bare}
    at_backend listen --json '[::]:8080'
    forward :80 --to 10.9.2.2:8080 --routes auto --in p0 --admin "$PWD/admin.sock"
    ip rule del priority 100
    nft flush ruleset
    until_true grep -q 'put back' proxy.log
    measured '[a-z_]*{part="rule"}'
    curling http://8.8.8.8/
    kill "$proxy"; wait "$proxy"
    dump after; same before after rules
  `);
  expect(stdout).toContain("hello world\nrules: same\n");
  expect(stdout).toContain('tproxy_routes_installed{part="rule"} 1\n');
  expect(stdout).toContain('tproxy_routes_repaired_total{part="rule"} 1\n');
  expect(find(proxy, "warning")?.text).toContain("put back what another program removed: ip rule");
});

testRoutes("--local: what this host sends, and never what the proxy itself sends", async () => {
  const { stdout, proxy, backend } = await inLab(`${bare}
    within backend ip address add 8.8.8.8/32 dev lo
    ip route add 8.8.8.8/32 via 10.9.2.2
    dump before
    at_backend listen --json '[::]:80'
    forward :50080 --to original --routes auto --dport 80 --local --family 4 --source-fallback self
    curl -sS --max-time 10 --http0.9 http://8.8.8.8/
    curling http://8.8.8.8/
    ended 2
    kill "$proxy"; wait "$proxy"
    dump after; same before after rules
  `);
  expect(stdout).toContain("hello world\nhello world\nrules: same\n");
  const sources = proxy.filter(({ event }) => event === "forwarded").map(({ source }) => source);
  expect(sources).toEqual(["self", "client"]);
  const clients = backend.filter(({ event }) => event === "accepted");
  expect(clients).toHaveLength(2);
});

testRoutes("--local: datagrams of this host, and never those of the proxy itself", async () => {
  const { stdout, backend } = await inLab(`${bare}
    within backend ip address add 8.8.8.8/32 dev lo
    ip route add 8.8.8.8/32 via 10.9.2.2
    dump before
    at_backend listen --json --udp '[::]:53' --reply answer
    forward :50053 --udp --to original --routes auto --dport 53 --local --family 4
    asks() { echo question | "$@" socat -t0.3 - udp:8.8.8.8:53 > page; grep answer page; }
    eventually asks
    eventually asks nsenter -t "$client" -n
    kill "$proxy"; wait "$proxy"
    dump after; same before after rules
  `);
  expect(stdout).toContain("rules: same\n");
  const clients = backend.filter(({ event }) => event === "datagram").map((each) => each.client);
  expect(clients.length).toBeGreaterThanOrEqual(2);
  expect(clients.at(0)).toStartWith("10.9.2.1:");
  expect(clients.at(-1)).toStartWith("10.9.1.2:");
});

testRoutes("print: the same rules as a script, and nothing is changed", async () => {
  const { stdout, backend } = await inLab(`${bare}
    at_backend listen --json '[::]:8080'
    ${command} forward :50080 --to 10.9.2.2:8080 --routes print --dport 80 --in p0 > rules.sh
    dump after; same before after printed
    sh -e rules.sh
    forward :50080 --to 10.9.2.2:8080
    curling http://8.8.8.8/
    ended
    grep -A 1 '^# Printed by' rules.sh
    routes --remove > removed.log
    dump after; same before after removed
  `);
  expect(stdout).toContain("printed: same\n");
  expect(stdout).toContain("`tproxy routes --remove` removes it.\nremoved: same\n");
  expect(stdout).toContain("hello world");
  expect(find(backend, "accepted")?.client).toStartWith("10.9.1.2:");
});

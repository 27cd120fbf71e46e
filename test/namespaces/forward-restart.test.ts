/**
 * Several `forward --routes auto` on one host: services side by side, and the next process of one
 * while the last one lets its connections end.
 */

import { describe, expect } from "bun:test";
import { command, families, inLab, testInLab } from "../helpers/forward-lab.ts";
import { ruleFunctions } from "../helpers/rules.ts";

const testRestart = testInLab(["socat", "curl", "iptables-save"]);

/**
 * The lab without its rules. `serve NAME ARGUMENTS…` starts a proxy, its id in the file NAME.pid
 * and its log in NAME.log; `stop NAME` tells it to end, `over NAME` waits for that; `open NAME
 * ADDRESS` begins a connection of a client; `says NAME TEXT` sends a line by it and waits until it
 * is echoed. No process inherits the descriptors of others' input ($alone).
 */
const lab = `
${ruleFunctions}
routes --remove > removed.log
dump before
serve() {
  name=$1; shift
  : > "$name.log"
  eval "exec ${command} forward --json --drain-timeout 20s "$@" $alone" >> "$name.log" 2>&1 &
  echo $! > "$name.pid"; started="$started $!"
  eventually grep '"bound"' "$name.log" || cat "$name.log"
}
stop() { kill "$(cat "$1.pid")"; }
over() { wait "$(cat "$1.pid")" && echo "$1: ended with 0" || echo "$1: status $?"; }
open() {
  mkfifo "$1.in"
  eval 'exec nsenter -t "$client" -n socat -t10 - tcp:$2'" $alone" < "$1.in" > "$1.out" &
  files=$((files + 1))
  eval "exec $files> $1.in"
  echo "$files" > "$1.fd"
  says "$1" first
}
says() {
  eval "echo '$2' >&$(cat "$1.fd")"
  eventually grep -x "$2" "$1.out" && echo "$1: $2"
}
closes() { eval "exec $(cat "$1.fd")>&-"; }
files=3
alone='4>&- 5>&- 6>&-'
draining() { nft list tables | grep -q draining; }
curling() { within client curl -sS --max-time 20 --http0.9 "$@"; }
count() { grep -c '"forwarded"' "$1.log" || :; }
`;

describe("side by side, with no further option", () => {
  testRestart("each has its own, and takes back its own alone", async () => {
    const { stdout } = await inLab(`${lab}
      at_backend listen --json '[::]:8080'
      serve one :80 --to 10.9.2.2:8080 --routes auto
      dump first
      serve two '[::]:81' --to 10.9.2.2:8080 --source self --routes auto
      serve three :82 --to 10.9.2.2:8080 --redirect --routes auto
      grep -h chosen two.log three.log
      routes --check --dport 80 --reply-path --family 4 |
        sed "s/process $(cat one.pid) /process P /"
      for port in 80 81; do
        ${command} doctor --dport "$port" --in p0 --family 4 > doctor.log &&
          grep -o 'mark 0x[0-9a-f/x]* on it' doctor.log
      done
      for port in 80 81 82; do curling "http://8.8.8.8:$port/"; done
      curling 'http://[2001:db8::9]:81/'
      stop three; over three
      stop two; over two
      dump left; same first left "the first's"
      curling http://8.8.8.8/
      serve two :81 --to 10.9.2.2:8080 --routes auto
      kill -KILL "$(cat one.pid)"; over one
      curling http://8.8.8.8:81/
      serve one :80 --to 10.9.2.2:8080 --routes auto
      for port in 80 81; do curling "http://8.8.8.8:$port/"; done
      stop one; over one; stop two; over two
      dump after; same before after "in the end"
    `);
    const lines = stdout.split("\n").filter((line) => !line.startsWith("backend"));
    expect(
      lines.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line)),
    ).toMatchObject([
      {
        event: "routes",
        change:
          "chosen, because others use the default ones: firewall table inet tproxyd-2, " +
          "mark 0x4/0x4, table 101, priority 101",
      },
      { change: "chosen, because others use the default ones: firewall table inet tproxyd-3" },
    ]);
    expect(lines.filter((line) => line !== "" && !line.startsWith("{"))).toEqual([
      "as it should be, held by process P (tproxy)",
      ...["mark 0x1/0x1 on it", "mark 0x4/0x4 on it"],
      ...Array(4).fill("hello world"),
      "three: ended with 0",
      "two: ended with 0",
      "the first's: same",
      "hello world",
      "one: status 137",
      ...Array(3).fill("hello world"),
      "one: ended with 0",
      "two: ended with 0",
      "in the end: same",
    ]);
  });

  testRestart("beside other programs, and what is given stays as given", async () => {
    const { stdout } = await inLab(`${lab}
      ip rule add fwmark 0x1/0xff lookup 99 priority 100
      ip route add 192.0.2.0/24 dev p1 table 100
      dump before
      at_backend listen --json '[::]:8080'
      serve one :80 --to 10.9.2.2:8080 --routes auto --family 4
      grep -h chosen one.log
      curling http://8.8.8.8/
      stop one; over one
      ${command} forward :80 --to 10.9.2.2:8080 --routes auto --mark 1/1 2>&1 || echo "status $?"
      routes --apply --dport 443 --table-name tproxyd-a --mark 0x100/0x100 --table 102 \\
        --priority 102 > /dev/null
      ${command} forward :80 --to 10.9.2.2:8080 --routes auto --table-name tproxyd-a 2>&1 ||
        echo "status $?"
      serve one :80 --to 10.9.2.2:8080 --routes auto
      ${command} forward :81 --to 10.9.2.2:8080 --routes auto --table-name tproxyd 2>&1 ||
        echo "status $?"
      curling http://8.8.8.8/
      stop one; over one
      routes --remove > /dev/null
      dump after; same before after "in the end"
    `);
    expect(stdout).toContain(
      "firewall table inet tproxyd, mark 0x100/0x100, table 101, priority 101",
    );
    expect(stdout).toMatch(
      /nothing has been changed: the mark 0x1\/0x1 shares bits with .*\nstatus 1\n/,
    );
    expect(stdout).toMatch(
      /another set-up of tproxy uses the firewall table inet tproxyd-a.*\nstatus 1\n/,
    );
    expect(stdout).toMatch(
      /process \d+ \(tproxy\) holds the firewall table inet tproxyd: end that/,
    );
    expect(stdout.match(/hello world/g)).toHaveLength(2);
    expect(stdout).toContain("in the end: same");
  });

  testRestart("--local: neither captures what the other's proxy sends", async () => {
    const { stdout, backend } = await inLab(`${lab}
      within backend ip address add 8.8.8.8/32 dev lo
      ip route add 8.8.8.8/32 via 10.9.2.2
      dump before
      at_backend listen --json '[::]:8080'
      for port in 80 81; do
        serve "at$port" ":50$port" --to 8.8.8.8:8080 --routes auto --dport "$port,8080" --local \\
          --family 4 --source self
      done
      for port in 80 81; do curl -sS --max-time 20 --http0.9 "http://8.8.8.8:$port/"; done
      for port in 80 81; do stop "at$port"; over "at$port"; done
      cat at80.log at81.log > proxy.log
      dump after; same before after "in the end"
    `);
    expect(stdout).toContain("hello world\nhello world\n");
    expect(stdout).toContain("in the end: same");
    expect(backend.filter(({ event }) => event === "accepted")).toHaveLength(2);
  });
});

describe.each(families)("the next process, IPv$family", ({ asked, backend }) => {
  const named = "--table-name tproxyd-web --mark 0x10/0x10 --table 300 --priority 50";
  const ways = {
    "by TPROXY": "'[::]:50080' --dport 80",
    "by the mark, with two Workers": "'[::]:80' --workers 2",
    "with names of its own": `'[::]:80' --source self ${named}`,
    "TCP and UDP": "--tcp --udp '[::]:80'",
    "by NAT": "'[::]:50080' --dport 80 --redirect",
    "by NAT, this host's own too": "'[::]:50080' --dport 80 --redirect --local",
    "by TPROXY, this host's own too": "'[::]:50080' --dport 80 --local",
  };
  for (const [way, options] of Object.entries(ways))
    testRestart(way, async () => {
      const arguments_ = `${options} --to '${backend}:8080' --routes auto`;
      const { stdout } = await inLab(`${lab}
      at_backend listen --echo --quiet --json '[::]:8080'
      serve old ${arguments_}
      nft list tables > tables
      open a '${asked}:80'
      stop old; eventually draining
      says a "while it drains"
      serve new ${arguments_}
      nft list tables | grep -v draining | cmp - tables && echo "the same table"
      says a "beside the next"
      open b '${asked}:80'
      closes a; over old
      says b "after it"
      open c '${asked}:80'
      closes b; closes c
      stop new; over new
      dump after; same before after "in the end"
      count old; count new
    `);
      expect(
        stdout.split("\n").filter((line) => line !== "" && !line.startsWith("backend")),
      ).toEqual([
        "a: first",
        "a: while it drains",
        "the same table",
        "a: beside the next",
        "b: first",
        "old: ended with 0",
        "b: after it",
        "c: first",
        "new: ended with 0",
        "in the end: same",
        "1",
        "2",
      ]);
    });
});

testRestart("the next one's kernel settings stay when the last one has ended", async () => {
  const { stdout } = await inLab(`${lab}
    settings() { cat /proc/sys/net/ipv4/conf/p[01]/accept_local; }
    at_backend listen --echo --quiet --json '[::]:8080'
    serve old :80 --to 10.9.2.2:8080 --routes auto --in p0 --sysctl
    open a 8.8.8.8:80
    stop old; eventually draining
    serve new :80 --to 10.9.2.2:8080 --routes auto --in p0 --sysctl
    closes a; over old; settings
    stop new; over new; settings
  `);
  expect(stdout).toContain("old: ended with 0\n1\n1\nnew: ended with 0\n0\n0\n");
});

testRestart("killed while it drains: its rules are gone, and the next one's stay", async () => {
  const { stdout } = await inLab(`${lab}
    at_backend listen --echo --quiet --json '[::]:8080'
    serve old :80 --to 10.9.2.2:8080 --routes auto
    open a 8.8.8.8:80
    stop old; eventually draining
    serve new :80 --to 10.9.2.2:8080 --routes auto
    open b 8.8.8.8:80
    kill -KILL "$(cat old.pid)"; over old
    draining || echo "no rules of it"
    says b "afterwards"
    closes a; closes b
    stop new; over new
    dump after; same before after "in the end"
  `);
  expect(stdout).toContain("old: status 137\nno rules of it\nb: afterwards\nnew: ended with 0\n");
  expect(stdout).toContain("in the end: same");
});

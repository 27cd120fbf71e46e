/**
 * `forward` where something goes wrong: backends that are dead, deaf or rude, clients that leave in
 * any state, a link that goes away, a limit that is hit, the proxy's own end. Each time nothing may
 * be left behind, and a bystander's connection goes on unharmed.
 */

import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { inLab, testInLab } from "../helpers/forward-lab.ts";

const python = (name: string) => readFileSync(new URL(name, import.meta.url), "utf8");
const files = { "exchange.py": python("exchange.py"), "faults.py": python("faults.py") };

const testFaults = testInLab(["python3"]);

/**
 * `backends` puts the servers of faults.py at ${at}1 to ${at}6 of the backend; nobody serves the
 * other addresses of ${at}, nothing gets in to ${at}8, and ICMP says that ${at}9 is not there.
 * `bystander` starts a connection that goes on until `no_harm`, which fails if it was harmed.
 */
const functions = (at: string, gateway: string) => `
  for n in 1 2 3 4 5 6 7 8 9; do
    within backend ip address add "${at}$n" dev lo
    ip route add "${at}$n" via ${gateway}
  done
  backends() {
    within backend nft "table inet faults { chain input { type filter hook input priority 0;
      ${at.includes(":") ? "ip6" : "ip"} daddr ${at}8 drop
      ${at.includes(":") ? "ip6" : "ip"} daddr ${at}9 reject with ${
        at.includes(":") ? "icmpv6 addr-unreachable" : "icmp host-unreachable"
      }; }; }"
    in_background backend python3 faults.py server \\
      ${at}1 ${at}2 ${at}3 ${at}4 ${at}5 ${at}6 > served
    server=$!
    until grep -q ready served; do kill -0 "$server"; done
  }
  bystander() {
    mkfifo bystanding
    within client python3 faults.py bystander ${at}1 < bystanding &
    bystander=$!
    exec 9> bystanding
  }
  no_harm() { exec 9>&-; wait "$bystander"; }
  ask() { echo "$1 $(within client python3 faults.py ask "$1")"; }
`;

const networks = [
  { family: 4, at: "198.51.100.", away: "203.0.113.", gateway: "10.9.2.2" },
  { family: 6, at: "2001:db8:5::", away: "2001:db8:a::", gateway: "fd00:2::2" },
] as const;

/** How a connection ended, as the access log has it. */
function endOf({ reason, ended_by: by, call, error }: Record<string, unknown> = {}): string {
  if (call !== undefined) return `${reason} by ${by}: ${call}: ${error}`;
  return reason === "done" ? "done" : `${reason} by ${by}`;
}

/** What is asked, what the client sees, and how the access log says that it ended. */
const faults: readonly [host: string, seen: string, end: string | RegExp][] = [
  ["at 1", "echo", "done"],
  ["at 2", "reset", /^(connect-failed by upstream: connect: ECONNRESET|reset by upstream)$/],
  ["at 3", "reset", "reset by upstream"],
  ["at 4", "end, reset", "idle-timeout by proxy"],
  ["at 5", "end, reset", "reset by upstream"],
  ["at 6", "reset", "connect-timeout by upstream"],
  ["at 7", "reset", "connect-failed by upstream: connect: ECONNREFUSED"],
  ["at 8", "reset", "connect-timeout by upstream"],
  // Received during connect(2), the error counts with the second SYN only, a second later.
  ["at 9", "reset", "connect-failed by upstream: connect: EHOSTUNREACH"],
  ["away 1", "reset", "connect-failed by upstream: connect: ENETUNREACH"],
  ["away 2", "reset", "connect-failed by upstream: connect: EHOSTUNREACH"],
  ["away 3", "reset", "connect-failed by upstream: connect: EACCES"],
  ["away 4", "reset", "connect-failed by upstream: connect: EINVAL"],
];

describe.each(networks)("backends over IPv$family", ({ at, away, gateway }) => {
  testFaults("each fault is passed on and named, and nothing stays of it", async () => {
    const hosts = faults.map(([host]) => host.replace("at ", at).replace("away ", away));
    const { stdout, proxy } = await inLab(
      `${functions(at, gateway)}
      ip route add unreachable ${away}2
      ip route add prohibit ${away}3
      ip route add blackhole ${away}4
      backends
      forward '[::]:50080' --to original --connect-timeout 2500ms --idle-timeout 3s
      bystander
      asking=
      for host in ${hosts.join(" ")}; do ask "$host" & asking="$asking $!"; done
      wait $asking
      no_harm
      ended ${faults.length + 1}
      kill "$server"
      settled`,
      files,
    );
    const found = hosts.map((host, index) => {
      const to = host.includes(":") ? `[${host}]:80` : `${host}:80`;
      const entries = proxy.filter(
        ({ event, original_destination: asked }) => event === "forwarded" && asked === to,
      );
      const seen = stdout.split("\n").find((line) => line.startsWith(`${host} `));
      return [faults[index]?.[0], seen?.slice(host.length + 1), endOf(entries[0])];
    });
    expect(found as unknown[]).toEqual(
      faults.map(([host, seen, end]) => [
        host,
        seen,
        typeof end === "string" ? end : expect.stringMatching(end),
      ]),
    );
    expect(stdout).toContain("bystander: all was well");
  });
});

const [{ at, gateway }] = networks;
const lab4 = functions(at, gateway);

/** Of the access log: how many connections ended in which way. */
function tally(proxy: readonly Record<string, unknown>[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const line of proxy) {
    if (line.event === "forwarded") counts[endOf(line)] = (counts[endOf(line)] ?? 0) + 1;
  }
  return counts;
}

describe("clients", () => {
  testFaults("that reset before there is anything to relay leave nothing", async () => {
    const header = `PROXY TCP4 10.9.1.2 ${at}8 1234 80`;
    const { proxy } = await inLab(
      `${lab4}
      backends
      forward :50080 --to ${at}8:80 --accept-proxy
      mkfifo leaving
      leave() { within client python3 faults.py leave 8.8.8.8 "$1" 5 < leaving > "$2" & }
      leave '' silent
      leave 'PROXY TCP4' part
      leave "$(printf '${header}\\r\\nx')" whole
      exec 8> leaving
      are_there() {
        grep -q ready silent && grep -q ready part && grep -q ready whole &&
          [ "$(ss -Htn state syn-sent | wc -l)" = 5 ]
      }
      until_true are_there
      has_all() { [ "$(descriptors socket:)" = $((sockets + 20)) ]; }
      until_true has_all
      exec 8>&-
      ended 15
      kill "$server"
      settled`,
      files,
    );
    expect(tally(proxy)).toEqual({ "reset by client": 15 });
  });

  testInLab(["python3", "prlimit"])("that reset while they wait leave nothing", async () => {
    const { stdout, proxy } = await inLab(
      `${lab4}
      backends
      forward :50080 --to ${at}1:80
      # From the first one on it has all descriptors that it keeps.
      ask 8.8.8.8
      ended
      open=$(ls "/proc/$proxy/fd" | wc -l)
      # Room for some of them and their upstreams: one waits, and the rest in the backlog.
      prlimit --pid "$proxy" --nofile=$((open + 5)):
      mkfifo leaving
      within client python3 faults.py leave 8.8.8.8 x 5 < leaving > there &
      exec 8> leaving
      until_true grep -q ready there
      until_true grep -q 'socket: Too many open files (EMFILE)' proxy.log
      exec 8>&-
      ended 6
      ask 8.8.8.8
      ended 7
      kill "$server"
      settled`,
      files,
    );
    expect(tally(proxy)).toEqual({ "reset by client": 5, done: 2 });
    expect(stdout).toStartWith("8.8.8.8 echo\n8.8.8.8 echo\n");
  });

  testFaults("that say all and end before the upstream is reached get their answer", async () => {
    const { stdout, proxy } = await inLab(
      `${lab4}
      within backend nft "table inet faults { chain input { type filter hook input priority 0;
        tcp dport 80 drop; }; }"
      in_background backend python3 faults.py server ${at}8 > served
      until grep -q ready served; do :; done
      forward :50080 --to ${at}8:80
      head -c 50000 /dev/urandom > data
      within client socat -t20 - tcp:8.8.8.8:80 < data > back &
      client_side=$!
      has_said_all() { ss -Htn state close-wait | grep -q . && ss -Htn state syn-sent | grep -q .; }
      until_true has_said_all
      within backend nft delete table inet faults
      wait "$client_side"
      cmp data back && echo same
      ended
      settled`,
      files,
    );
    expect(stdout).toContain("same\n");
    expect(tally(proxy)).toEqual({ done: 1 });
  });
});

const server = `
  in_background backend python3 exchange.py server 8080 server.txt
  server_side=$!
  until within backend ss -Hltn | grep -q :8080; do :; done
`;

describe("the machine", () => {
  testFaults("a link that goes down and comes up costs time and nothing else", async () => {
    const { stdout, proxy } = await inLab(
      `echo 1 > /proc/sys/net/ipv6/conf/p1/keep_addr_on_down
      ${server}
      forward :50080 --to 10.9.2.2:8080 --log-level debug
      kinds="both late"
      KINDS=$kinds within client python3 exchange.py client 8.8.8.8 80 60 60 \\
        400000000 1 client.txt > begun &
      exchange=$!
      # A client of which the upstream has not been reached would be refused: no route.
      has_reached_all() { [ "$(grep -c '"reached"' proxy.log)" -ge 60 ]; }
      until_true has_reached_all
      ip link set p1 down
      [ "$(wc -l < client.txt)" -lt 60 ]
      sleep 0.3
      ip link set p1 up
      wait "$exchange"
      ended 60
      settled
      KINDS=$kinds python3 exchange.py judge client.txt server.txt 60`,
      files,
    );
    expect(stdout).toContain("all as it has to be");
    expect(tally(proxy)).toEqual({ done: 60 });
  });

  testInLab(["python3", "prlimit"])("without a descriptor clients wait for one", async () => {
    const { stdout, proxy } = await inLab(
      `${server}
      forward :50080 --to 10.9.2.2:8080
      # From the first one on the Worker has all descriptors that it keeps.
      KINDS=both within client python3 exchange.py client 8.8.8.8 80 1 1 2000 1 client.txt
      KINDS=both python3 exchange.py judge client.txt server.txt 1
      settled
      # Lowered behind its back, once so that accept4 fails, once so that socket does.
      for room in 44 45; do
        open=$(ls "/proc/$proxy/fd" | wc -l)
        prlimit --pid "$proxy" --nofile=$((open + room)):
        : > client.txt; : > server.txt
        within client python3 exchange.py client 8.8.8.8 80 210 70 20000000 1 client.txt
        settled
        python3 exchange.py judge client.txt server.txt 210
      done`,
      files,
    );
    expect(stdout.match(/all as it has to be/g)).toHaveLength(3);
    const warnings = proxy.filter(({ event }) => event === "warning").map(({ text }) => text);
    expect(`${warnings}`).toContain("accept4: Too many open files (EMFILE)");
    expect(`${warnings}`).toContain("socket: Too many open files (EMFILE)");
  });
});

/** A call that fails twice for want of what is the whole machine's, and what is said of it. */
const shortages: readonly [call: string, error: string, said: string][] = [
  ["accept4", "ENFILE", "accept4: Too many open files in system (ENFILE): accepting pauses"],
  ["accept4", "ENOBUFS", "accept4: No buffer space available (ENOBUFS): accepting pauses"],
  ["accept4", "ENOMEM", "accept4: Cannot allocate memory (ENOMEM): accepting pauses"],
  ["accept4", "ENETDOWN", "accept4: Network is down (ENETDOWN): skipped"],
  ["accept4", "ECONNABORTED", ""],
  [
    "connect",
    "ENOBUFS",
    "connect: No buffer space available (ENOBUFS): connecting and accepting rest",
  ],
  ["pipe2", "ENFILE", "no more pipes can be had"],
];

describe("calls that fail", () => {
  testInLab(["strace", "socat"])("for a while cost time, and no connection", async () => {
    const { stdout, proxy } = await inLab(`
      at_backend listen --echo --quiet --json '[::]:8080'
      head -c 3000000 /dev/urandom > data
      back_and_forth() {
        within client socat -t20 - tcp:8.8.8.8:80 < data > back
        cmp data back
      }
      while read -r call error; do
        forward :50080 --to 10.9.2.2:8080
        # The Worker is there, and has asked what a sandbox refuses; a byte needs no pipe.
        echo | within client socat -t20 - tcp:8.8.8.8:80 > back
        background strace -f -qqq -o /dev/null -p "$proxy" -e signal=none \
          -e "trace=$call" -e "inject=$call:error=$error:when=1..2"
        is_traced() { ! grep -q '^TracerPid:.0$' "/proc/$proxy/task/"*/status; }
        until_true is_traced
        for i in 1 2 3; do back_and_forth; done
        # A pipe that was not to be had is asked for again.
        until [ "$(descriptors pipe:)" -gt 0 ]; do back_and_forth; done
        settled
        kill "$proxy"
        wait "$proxy" || :
        # At its end the log is whole.
        grep '"warning"' proxy.log | sed "s/^/$call $error /" || :
      done << 'END'
${shortages.map(([call, error]) => `${call} ${error}`).join("\n")}
END
    `);
    for (const [call, error, said] of shortages) {
      const lines = stdout.split("\n").filter((line) => line.startsWith(`${call} ${error} `));
      expect(lines.length > 0).toBe(said !== "");
      for (const line of lines) expect(line).toContain(said);
    }
    expect(Object.keys(tally(proxy))).toEqual(["done"]);
  });
});

describe("the proxy's end under load", () => {
  const load = `
    ${server}
    forward :50080 --to 10.9.2.2:8080
    rm -f begun
    KINDS="$kinds" within client python3 exchange.py client 8.8.8.8 80 80 80 \
      300000000 1 client.txt > begun &
    exchange=$!
    until_true grep -qs begun begun
  `;

  testFaults("SIGTERM: everything that is open comes to its end", async () => {
    const { stdout, proxy } = await inLab(
      `kinds="both asks late first"
      ${load}
      kill "$proxy"
      wait "$proxy" && echo "ended with 0"
      wait "$exchange"
      until ! within backend ss -Htn state connected exclude time-wait | grep -q .; do :; done
      [ -z "$(connections)" ]
      KINDS=$kinds python3 exchange.py judge client.txt server.txt 80`,
      files,
    );
    expect(stdout).toContain("ended with 0");
    expect(stdout).toContain("all as it has to be");
    expect(tally(proxy)).toEqual({ done: 80 });
  });

  testFaults(
    "cut off, by a second signal or SIGKILL: nothing is left, the next one starts",
    async () => {
      const { stdout } = await inLab(
        `kinds="both late"
      for signal in INT KILL; do
        ${load}
        kill -s $signal "$proxy"
        [ $signal = KILL ] || kill -s TERM "$proxy"
        wait "$proxy" || echo "status $?"
        wait "$exchange" || :
        # Whom SIGKILL cuts off the kernel may tell of an end; we never do.
        if [ $signal = INT ] && grep "cut off" client.txt server.txt; then exit 1; fi
        # What had not been acknowledged is still sent, and then given up by the kernel.
        until [ -z "$(connections)" ]; do sleep 0.05; done
        kill "$server_side"
        until ! within backend ss -Htln | grep -q :8080; do :; done
        rm client.txt server.txt
      done
      kinds="both asks"
      ${load}
      wait "$exchange"
      settled
      KINDS=$kinds python3 exchange.py judge client.txt server.txt 80`,
        files,
      );
      // Which of the two signals is seen first is the kernel's choice.
      expect(stdout).toMatch(/status 1(30|43)\nstatus 137\n/);
      expect(stdout).toContain("all as it has to be");
    },
  );
});

/**
 * What `forward` sends itself, captured by rules of others that do not let it pass: it comes back
 * to the listener, and would go round for ever.
 */

import { describe, expect } from "bun:test";
import { join } from "node:path";
import { families, inLab, testInLab } from "../helpers/forward-lab.ts";
import { ruleFunctions } from "../helpers/rules.ts";

const testLoops = testInLab(["curl", "socat"]);

/**
 * The lab with rules of an administrator's own in the place of ours: all that is for the ports 80
 * and 53 is captured, of the client and of programs of the proxy's host, unless it has the mark 2.
 * `asks COMMAND…` fetches a page and says what came of it; `counters` waits for the proxy's.
 */
const unguarded = `
${ruleFunctions}
routes --remove > removed.log
nft -f - << 'END'
table inet own {
  chain output {
    type route hook output priority mangle
    meta mark and 2 == 2 accept
    meta l4proto { tcp, udp } th dport { 53, 80 } meta mark set meta mark or 1
  }
  chain prerouting {
    type filter hook prerouting priority mangle
    iifname p0 meta l4proto { tcp, udp } th dport { 53, 80 } meta mark set 1
    iifname p1 socket transparent 1 socket wildcard 0 meta mark set 1
  }
}
END
for family in -4 -6; do
  ip $family rule add fwmark 1/1 lookup 100
  ip $family route add local default dev lo table 100
done
ip route add default via 10.9.2.2
ip -6 route add default via fd00:2::2
within backend ip address add 8.8.8.8/32 dev lo
within backend ip address add 2001:db8::9/128 dev lo
at_backend listen --json '[::]:80' '[::]:8080'
asks() {
  status=0
  "$@" -sS --max-time 10 --http0.9 2> /dev/null || status=$?
  # 7: could not connect, 55 and 56: reset while it sends or waits.
  case $status in 7 | 55 | 56) echo refused ;; *) echo "ended with $status" ;; esac
}
counters() { kill -USR1 "$proxy"; until_true has_totals; }
has_totals() { grep -q '"counters","time":"[^"]*","level":"info","accepted"' proxy.log; }
`;

/** The counters of all Workers together. */
const totals = (log: Record<string, unknown>[]) =>
  log.find((entry) => entry.event === "counters" && entry.worker === undefined) ?? {};

/** What is said of loops, but for how often there were more of them in 10 s. */
const warnings = (log: Record<string, unknown>[]) =>
  log.filter(({ text }) => /^a loop: (?!.* more\)$)/.test(String(text)));

const cases = families.flatMap((each) =>
  ["1", "2"].flatMap((workers) => [
    { ...each, workers, to: "original" },
    { ...each, workers, to: `${each.backend}:80` },
  ]),
);

describe.each(cases)("--to $to over IPv$family, $workers Workers", ({ to, asked, workers }) => {
  testLoops("what comes back is refused: a reset at once, and nothing is left", async () => {
    const { stdout, proxy } = await inLab(`${unguarded}
      forward '[::]:80' --to '${to}' --workers ${workers} --source self
      for i in 1 2 3; do asks curl 'http://${asked}/'; done
      asks within client curl 'http://${asked}/'
      settled
      counters
    `);
    expect(stdout).toStartWith("refused\nrefused\nrefused\nrefused\n");
    const loops = proxy.filter(({ event, reason }) => event === "refused" && reason === "loop");
    expect(loops.length).toBeGreaterThanOrEqual(4);
    expect(totals(proxy)).toMatchObject({ active: 0, loops: loops.length });
    // Each Worker says it once.
    expect(warnings(proxy).length).toBeLessThanOrEqual(Number(workers));
    expect(warnings(proxy)[0]?.text).toContain('set "socket-mark"');
  });
});

testLoops(
  "with the mark that the rules let pass, and where nothing comes back, all works",
  async () => {
    const { stdout, proxy } = await inLab(`${unguarded}
    for options in '--to original --socket-mark 2' '--to 10.9.2.2:8080' \
      '--to original --socket-mark 2 --workers 2'; do
      forward '[::]:80' $options
      asks curl http://8.8.8.8/
      asks within client curl http://8.8.8.8/
      settled
      kill "$proxy"; wait "$proxy"
    done
    forward '[::]:80' --to '[fd00:2::2]:8080' --source-fallback self
    asks curl 'http://[2001:db8::9]/'
    counters
  `);
    expect(stdout).toStartWith("hello world\nended with 0\n".repeat(7));
    expect(totals(proxy)).toMatchObject({ loops: 0 });
  },
);

testLoops(
  "an address that only a route makes ours: it goes round some times, and ends",
  async () => {
    const { stdout, proxy } = await inLab(`${unguarded}
    ip route add local 198.51.100.0/24 dev lo
    forward :80 --to original
    asks curl --interface 198.51.100.5 http://8.8.8.8/
    settled
    counters
  `);
    expect(stdout).toStartWith("refused\n");
    expect(totals(proxy)).toMatchObject({ active: 0, loops: 1, accepted: 32 });
  },
);

describe.each([
  { told: "does not tell", options: "--to 10.9.2.2:80 --no-transparent --source self" },
  { told: "tells", options: "--to original --redirect" },
])("NAT, which $told where they went", ({ options }) => {
  testLoops("connections of ours that it brings are known all the same", async () => {
    const { stdout, proxy } = await inLab(`${unguarded}
      nft flush ruleset
      nft -f - << 'END'
table ip own {
  chain output {
    type nat hook output priority -100
    meta mark and 2 == 2 accept
    tcp dport 80 redirect to :50080
  }
}
END
      forward :50080 ${options}
      asks curl http://8.8.8.8/
      settled
      counters
      kill "$proxy"; wait "$proxy"
      sed 's/^/first /' proxy.log
      forward :50080 ${options} --socket-mark 2
      asks curl http://8.8.8.8/
    `);
    expect(stdout).toContain("refused\n");
    expect(stdout).toContain("hello world\nended with 0\n");
    expect(stdout).toMatch(/first .*"counters".*"loops":1/);
    expect(stdout).toMatch(/a loop: what we send to tcp:\/\/(8.8.8.8|10.9.2.2):80 is captured/);
    expect(proxy).not.toContainEqual(expect.objectContaining({ ended_by: "proxy" }));
  });
});

/** Waits for the one flow towards an upstream from this address; its port there is in $own. */
const ownPort = (address: string, filter: string) => `
  has_own() {
    own=$(ss -Hn ${filter} | sed -n 's/.* ${address}:\\([0-9]*\\) .*/\\1/p')
    [ -n "$own" ]
  }
  until_true has_own
`;

testLoops("a client that has by chance the ends of a flow in its name is no loop", async () => {
  const { stdout, proxy } = await inLab(`${unguarded}
    forward :80 --to original --socket-mark 2
    mkfifo in
    within client socat -t20 - tcp:8.8.8.8:80 < in > out &
    exec 3> in
    ${ownPort("10.9.1.2", "-t state established dport = :80")}
    asks within client curl --local-port "$own" http://8.8.8.8/
    exec 3>&-
    kill "$proxy"; wait "$proxy"
    forward :53 --udp --to original --socket-mark 2
    at_backend listen --json --udp --discard '[::]:53'
    echo one | within client socat -u - udp:8.8.8.8:53,sourceport=4000
    ${ownPort("10.9.1.2", "-u dport = :53")}
    echo two | within client socat -u - "udp:8.8.8.8:53,sourceport=$own"
    until_true grep -q two backend.log
  `);
  expect(stdout).toStartWith("hello world\nended with 0\n");
  expect(warnings(proxy)).toEqual([]);
});

testLoops("a program that has the ends of a flow of ours that has ended is no loop", async () => {
  const { stdout, proxy } = await inLab(`${unguarded}
    forward :80 --to original --source self --socket-mark 2
    in_background client socat -u tcp:8.8.8.8:80,so-linger=0 open:/dev/null
    ${ownPort("10.9.2.1", "-t state established dport = :80")}
    kill -KILL "$!"
    settled
    asks curl --local-port "$own" http://8.8.8.8/
    kill "$proxy"; wait "$proxy"
    forward :53 --udp --to original --source self --socket-mark 2 --udp-timeout 1s
    at_backend listen --json --udp --discard '[::]:53'
    echo one | within client socat -u - udp:8.8.8.8:53
    ${ownPort("10.9.2.1", "-u dport = :53")}
    settled
    echo two | socat -u - "udp:8.8.8.8:53,sourceport=$own"
    until_true grep -q two backend.log
  `);
  expect(stdout).toStartWith("hello world\nended with 0\n");
  expect(warnings(proxy)).toEqual([]);
});

testLoops("nor is one that has the ends of a flow of a Worker that died", async () => {
  const mortal = join(import.meta.dir, "..", "helpers", "mortal-tproxy.ts");
  const { stdout, proxy } = await inLab(`${unguarded}
    '${process.execPath}' '${mortal}' forward --json :80 --to original --source self \\
      --socket-mark 2 > proxy.log &
    proxy=$!
    started="$started $proxy"
    until_true grep -q bound proxy.log
    in_background client socat -u tcp:8.8.8.8:80 open:/dev/null
    ${ownPort("10.9.2.1", "-t state established dport = :80")}
    asks curl --interface 127.0.0.66 http://127.0.0.1/
    until_true grep -q '"died"' proxy.log
    asks curl --local-port "$own" http://8.8.8.8/
  `);
  expect(stdout).toStartWith("refused\nhello world\nended with 0\n");
  expect(warnings(proxy)).toEqual([]);
});

describe.each(families)("UDP over IPv$family", ({ asked, family }) => {
  testLoops("a session of our own is refused, the one that it comes from ends", async () => {
    const { stdout, proxy } = await inLab(`${unguarded}
      forward '[::]:53' --udp --to original --workers 2
      echo question | socat -t20 - 'udp${family}:${asked}:53' 2>&1 || echo "socat $?"
      gone() { grep -q '"forwarded"' proxy.log && [ -z "$(ss -Hnu 'dport = :53')" ]; }
      until_true gone
      counters
    `);
    expect(stdout).toContain("Connection refused");
    expect(proxy).toContainEqual(
      expect.objectContaining({ event: "forwarded", reason: "unreachable", ended_by: "upstream" }),
    );
    expect(totals(proxy)).toMatchObject({ active_sessions: 0 });
    expect(warnings(proxy)[0]?.text).toContain("a loop: what we send to udp://");
  });

  testLoops("one in a client's name goes round some times, and all of it ends", async () => {
    const { proxy } = await inLab(`${unguarded}
      forward '[::]:53' --udp --to original --udp-timeout 1s
      echo question | within client socat -u - 'udp${family}:${asked}:53'
      until_true grep -q 'a loop:' proxy.log
      settled
      counters
    `);
    expect(totals(proxy)).toMatchObject({ sessions: 31, active_sessions: 0, loops: 1 });
  });
});

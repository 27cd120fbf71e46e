/** `forward --udp` where something is missing, full, held by others, or at its end. */

import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { eventsOf, inLab, testInLab } from "../helpers/udp-lab.ts";

/**
 * One datagram from each of many sockets; with `wait`, each waits for its answer, with `hold` all
 * stay open until they are told to go: an answer to a closed one would end its session.
 */
const many = `
import os, socket, sys
count, wait, asked = int(sys.argv[1]), sys.argv[2] == "wait", sys.argv[3]
held = []
for i in range(count):
  s = socket.socket(socket.AF_INET6 if ":" in asked else socket.AF_INET, socket.SOCK_DGRAM)
  s.settimeout(10)
  s.connect((asked, 1 + i % 1000))
  s.send(b"x")
  if wait: s.recv(100)
  held.append(s)
  if len(held) > 500: held.pop(0).close()
open("sent", "w").close()
while sys.argv[2] == "hold" and not os.path.exists("enough"): pass
print("sent", count)
`;

/** Datagrams from sources that nobody has, as fast as they go. */
const flood = `
import socket, struct, sys
count, asked = int(sys.argv[1]), sys.argv[2]
v6 = ":" in asked
family = socket.AF_INET6 if v6 else socket.AF_INET
to = socket.inet_pton(family, asked)
network = socket.inet_pton(family, "fd00:1::" if v6 else "10.9.1.0")[:-1]
s = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
for i in range(count):
  ends = network + bytes([100 + i % 100]) + to
  port = 1024 + i // 100 % 60000
  if v6:
    header = struct.pack(">IHBB", 6 << 28, 10, 17, 64)
    total = sum(struct.unpack(">16H", ends)) + 17 + 10 + port + 53 + 10 + 0x7878
    total = (total & 0xffff) + (total >> 16)
    check = ~((total & 0xffff) + (total >> 16)) & 0xffff
  else:
    header, check = struct.pack(">BBHHHBBH", 0x45, 0, 30, i & 0xffff, 0, 64, 17, 0), 0
  s.sendto(header + ends + struct.pack(">HHHH", port, 53, 10, check) + b"xx", (asked, 0))
`;

/** Sends one at a time until it is back, again and again until it is told to stop. */
const steady = `
import os, socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
# The queues of a kernel that is flooded may lose a datagram.
s.settimeout(0.5)
s.connect((sys.argv[1], 53))
count = 0
while not os.path.exists("enough"):
  s.send(b"%d" % count)
  try:
    while s.recv(100) != b"%d" % count: pass
  except TimeoutError:
    continue
  count += 1
  if count == 3: open("steady", "w").close()
print("steady")
`;

const python = (name: string) => readFileSync(new URL(name, import.meta.url), "utf8");
const files = {
  "many.py": many,
  "flood.py": flood,
  "steady.py": steady,
  "datagrams.py": python("datagrams.py"),
};

const upstreams = "--to 10.9.2.2:9000 --to '[fd00:2::2]:9000'";

describe.each([
  { family: "4", asked: "8.8.8.8", other: "8.8.4.4", second: "10.9.1.3", prefix: "24" },
  { family: "6", asked: "2001:db8::9", other: "2001:db8::5", second: "fd00:8::3", prefix: "64" },
])("bounds of IPv$family", ({ asked, other, second, prefix }) => {
  const inUrl = (address: string) => (address.includes(":") ? `[${address}]` : address);

  testInLab("a full table: the least recently used one ends, counted and said", async () => {
    const { stdout, proxy } = await inLab(
      `
      at_backend listen --udp --quiet --json '[::]:9000'
      capture
      forward '[::]:50053' --udp ${upstreams} --max-sessions 10
      before=$(sockets)
      within client python3 many.py 100 wait '${asked}'
      echo "held: $(($(sockets) - before))"
      stop
    `,
      files,
    );
    expect(stdout).toContain("held: 20\n");
    const reasons = eventsOf(proxy, "forwarded").map(({ reason }) => reason);
    expect(reasons).toEqual([...Array(90).fill("evicted"), ...Array(10).fill("stopped")]);
    const warnings = eventsOf(proxy, "warning").map(({ text }) => text);
    expect(warnings).toEqual([
      "a session was ended to make room for another one",
      "a session was ended to make room for another one (89 more)",
    ]);
  });

  testInLab("--max-sessions-per-client: more are refused, other clients are served", async () => {
    const { stdout, proxy } = await inLab(
      `
      at_backend listen --udp --quiet --json '[::]:9000'
      # Another address that is never chosen unasked, and of IPv6 of another /64.
      ip route add fd00:8::/64 via fd00:1::2
      within client ip address add '${second}/${prefix}' dev c0 preferred_lft 0
      capture
      forward '[::]:50053' --udp ${upstreams} --max-sessions-per-client 5
      background nsenter -t "$client" -n python3 many.py 20 hold '${asked}'
      many=$!
      until [ -e sent ] && [ "$(sockets)" -gt 10 ]; do kill -0 "$many"; done
      echo x | within client socat -t9 - 'udp:${inUrl(asked)}:53,bind=${inUrl(second)},readbytes=12'
      : > enough
      wait "$many"
      stop
    `,
      files,
    );
    expect(stdout).toContain("hello world");
    expect(eventsOf(proxy, "forwarded")).toHaveLength(6);
    const warnings = eventsOf(proxy, "warning").map(({ text }) => text);
    expect(warnings).toContain(
      "a session was refused: the client has as many as it may have (14 more)",
    );
  });

  testInLab("a client with as many as it may have ends nobody's, whatever is scarce", async () => {
    const { proxy } = await inLab(
      `
      at_backend listen --udp --quiet --json '[::]:9000'
      capture
      # Of 17 descriptors the listener takes one, and 8 answered sessions two each.
      ulimit -n 81
      forward '[::]:50053' --udp ${upstreams} --max-sessions-per-client 8
      within client python3 many.py 8 wait '${asked}'
      within client python3 many.py 12 send '${asked}'
      logged warning 1
      stop
    `,
      files,
    );
    const reasons = eventsOf(proxy, "forwarded").map(({ reason }) => reason);
    expect(reasons).toEqual(Array(8).fill("stopped"));
    expect(eventsOf(proxy, "warning")[0]?.text).toContain("the client has as many as it may have");
  });

  testInLab("a flood from spoofed sources: sessions go on, descriptors are bounded", async () => {
    const { stdout, proxy } = await inLab(
      `
      at_backend listen --udp --echo --quiet --json --answer-rate 0 '[::]:9000'
      within client ip route add local 10.9.1.128/25 dev lo
      within client ip route add local fd00:1::80/121 dev lo
      capture
      ulimit -n 300
      forward '[::]:50053' --udp ${upstreams}
      background nsenter -t "$client" -n python3 steady.py '${other}'
      steady=$!
      until [ -e steady ]; do kill -0 "$steady"; done
      within client python3 flood.py 20000 '${asked}'
      echo "held: $(($(sockets) <= 300))"
      : > enough
      wait "$steady"
      stop
    `,
      files,
    );
    expect(stdout).toContain("held: 1\n");
    expect(stdout).toContain("steady\n");
    const sessions = eventsOf(proxy, "forwarded");
    const steadyOnes = sessions.filter(
      (each) => each.original_destination === `${inUrl(other)}:53`,
    );
    expect(steadyOnes.map(({ reason }) => reason)).toEqual(["stopped"]);
    const warnings = eventsOf(proxy, "warning").map(({ text }) => text);
    // By how fast it comes, it displaces others of itself, or is not let in.
    const paid = /was ended to make room for another one|more datagrams come than can be carried/;
    expect(warnings.filter((text) => paid.test(String(text)))).not.toEqual([]);
  });
});

testInLab(
  "20,000 sessions from generated sources: all answered, and all gone afterwards",
  async () => {
    const { stdout } = await inLab(
      `
    at_backend listen --udp --echo --quiet --json --answer-rate 0 '[::]:9000'
    within client ip route add local 10.77.0.0/16 dev lo
    within client ip route add local fd00:77::/64 dev lo
    ip route add 10.77.0.0/16 via 10.9.1.2
    ip route add fd00:77::/64 via fd00:1::2
    capture 443
    # Two for each session. Who may not raise the limit has fewer sessions.
    ulimit -n 50000 2> /dev/null || ulimit -n "$(ulimit -Hn)"
    each=$((($(ulimit -n) - 400) / 4))
    [ "$each" -le 10000 ] || each=10000
    forward '[::]:50053' --udp --log-level warning ${upstreams} --udp-timeout 2s
    rss() { awk '/VmRSS/ { print $2 }' "/proc/$proxy/status"; }
    before=$(sockets)
    small=$(rss)
    within client python3 datagrams.py sources 8.8.8.8 443 "$each" 10.77.
    within client python3 datagrams.py sources 2001:db8::9 443 "$each" fd00:77::
    echo "each $each"
    echo "peak $(($(sockets) - before))"
    echo "memory $(($(rss) - small))"
    until [ "$(sockets)" = "$before" ]; do kill -0 "$proxy"; done
    # Nothing was refused, dropped or evicted.
    grep -v '"bound"' proxy.log || echo "nothing was said"
  `,
      files,
    );
    const number = (name: string) => Number(stdout.match(new RegExp(`^${name} (\\d+)$`, "m"))?.[1]);
    const each = number("each");
    expect(each).toBeGreaterThan(0);
    expect(stdout.match(new RegExp(`^answered ${each}$`, "gm"))).toHaveLength(2);
    expect(number("peak")).toBeLessThanOrEqual(4 * each);
    // 10 KB for each session: more than there is, much less than a leak of buffers would be.
    expect(number("memory")).toBeLessThan(20 * each);
    expect(stdout).toContain("nothing was said\n");
  },
);

describe("others on the proxy's host", () => {
  testInLab("a foreign wildcard socket on the port: raw packets, said once", async () => {
    const { stdout, proxy } = await inLab(
      `
      background socat -u udp6-recv:53 open:/dev/null
      until ss -uln 2>/dev/null | grep -q ':53 '; do :; done
      at_backend listen --udp --echo --quiet --json --answer-rate 0 '[::]:9000'
      capture 53
      forward '[::]:50053' --udp ${upstreams}
      # More than the MTU, and the most there can be.
      within client python3 datagrams.py exchange 8.8.8.8 53 60 0,1,1200,65507,1472,3000
      within client python3 datagrams.py exchange 2001:db8::9 53 60 0,1,1200,65527,1472,3000
      within client python3 datagrams.py exchange 8.8.4.4 53 1000 1200,1200,1200,1200,40,0 16
      kill -USR1 "$proxy"
      until grep -q counters proxy.log; do kill -0 "$proxy"; done
      nft add table inet stop
      nft add chain inet stop output '{ type filter hook output priority 0; }'
      nft add rule inet stop output udp sport 53 drop
      within client python3 datagrams.py ask 8.8.4.4 53 2 2 0.2
      stop
    `,
      files,
    );
    expect(stdout.match(/exchanged/g)).toHaveLength(3);
    expect(stdout).toContain("outcomes silence silence\n");
    const warnings = eventsOf(proxy, "warning").map(({ text }) => text);
    expect(warnings).toEqual([
      "port 53 is held by another program here: answers leave as raw packets",
      "an answer was dropped: no socket gets its port, and a raw packet needs CAP_NET_RAW",
      "port 53 is held by another program here: answers leave as raw packets (3 more)",
      "an answer was dropped: no socket gets its port, and a raw packet needs CAP_NET_RAW (1 more)",
    ]);
    const sizes = [1200, 1200, 1200, 1200, 40, 0];
    const many = Array.from({ length: 1000 }, (_, i) => sizes[i % 6] as number);
    const few = 10 * (2 * (1 + 1200 + 1472 + 3000) + 65_507 + 65_527);
    const bytes = many.reduce((sum, size) => sum + size, few);
    expect(eventsOf(proxy, "counters").at(-1)).toMatchObject({
      datagrams: 2 * 1120,
      client_bytes: bytes,
      upstream_bytes: bytes,
    });
  });

  testInLab("two workers share the traffic, a session stays with one", async () => {
    const { stdout, proxy } = await inLab(
      `
      at_backend listen --udp --echo --quiet --json --answer-rate 0 '[::]:9000'
      capture
      forward :50053 --udp --to 10.9.2.2:9000 --workers 2
      within client python3 many.py 200 wait 8.8.8.8
      stop
    `,
      files,
    );
    expect(stdout).toContain("sent 200");
    expect(eventsOf(proxy, "forwarded")).toHaveLength(200);
  });
});

describe("its end", () => {
  testInLab("SIGKILL leaves nothing, and what arrives then is not answered", async () => {
    const { stdout } = await inLab(
      `
      at_backend listen --udp --quiet --json '[::]:9000'
      capture
      forward '[::]:50053' --udp ${upstreams}
      within client python3 many.py 50 wait 8.8.8.8
      within client python3 many.py 50 wait 2001:db8::9
      kill -KILL "$proxy"
      wait "$proxy" || :
      echo "sockets: $(ss -Huan | wc -l)"
    `,
      files,
    );
    expect(stdout).toContain("sockets: 0\n");
  });

  testInLab("a link that goes down and comes up again", async () => {
    const { stdout } = await inLab(
      `
      at_backend listen --udp --echo --quiet --json --answer-rate 0 '[::]:9000'
      capture
      forward '[::]:50053' --udp ${upstreams}
      echo 1 > /proc/sys/net/ipv6/conf/p1/keep_addr_on_down
      for asked in 8.8.8.8 2001:db8::9; do
        rm -f up down noticed
        background nsenter -t "$client" -n python3 outage.py "$asked"
        client_program=$!
        until [ -e up ]; do kill -0 "$client_program"; done
        ip link set p1 down
        : > down
        until [ -e noticed ]; do kill -0 "$client_program"; done
        ip link set p1 up
        wait "$client_program"
      done
    `,
      {
        "outage.py": `
import os, socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 53))
def ask(number, timeout):
  s.settimeout(timeout)
  s.send(b"%d" % number)
  while s.recv(100) != b"%d" % number: pass
ask(0, 10)
open("up", "w").close()
while not os.path.exists("down"): pass
try:
  ask(1, 0.2)
except OSError:
  open("noticed", "w").close()
for number in range(2, 200):
  try:
    ask(number, 0.2)
    print("again")
    break
  except OSError:
    pass
`,
      },
    );
    expect(stdout).toStartWith("again\nagain\n");
  });
});

/**
 * Nobody takes all: one client has every connection or session that there may be, and another one
 * is served all the same. TCP and UDP, both families, several Workers, behind PROXY headers.
 */

import { describe, expect } from "bun:test";
import { command, find, inLab, testInLab } from "../helpers/forward-lab.ts";
import { eventsOf, inLab as inUdpLab, testInLab as testInUdpLab } from "../helpers/udp-lab.ts";

/**
 * takers.py ADDRESS PORT COUNT FROM...   opens COUNT connections from these addresses in turn,
 * keeps them open and idle, and opens another one for each that ends. HEADER is sent first.
 */
const takers = `
import os, select, socket, sys
address, port, count, *sources = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
header = os.environ.get("HEADER", "").encode().decode("unicode_escape").encode()
held, begun, ended = [], 0, 0
poll = select.poll()
open_ones = {}
def begin():
    global begun
    s = socket.socket(family)
    s.bind((sources[begun % len(sources)], 0))
    s.setblocking(False)
    s.connect_ex((address, int(port)))
    begun += 1
    open_ones[s.fileno()] = s
    poll.register(s, select.POLLIN | select.POLLOUT)
    return s
while len(open_ones) < int(count): begin()
while not os.path.exists("enough"):
    for fd, mask in poll.poll(50):
        s = open_ones[fd]
        if mask & select.POLLOUT and not mask & select.POLLERR:
            poll.modify(fd, select.POLLIN)
            try:
                s.sendall(header)
                continue
            except OSError:
                pass
        poll.unregister(fd)
        s.close()
        del open_ones[fd]
        ended += 1
        begin()
    if begun > int(count) + 20: open("taking", "w").close()
`;

/** probes.py ADDRESS PORT FROM COUNT   asks so often in turn, and prints how many were answered. */
const probes = `
import os, socket, sys
address, port, source, count = sys.argv[1:]
header = os.environ.get("HEADER", "").encode().decode("unicode_escape").encode()
good = 0
for i in range(int(count)):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.settimeout(10)
    s.bind((source, 0))
    try:
        s.connect((address, int(port)))
        s.sendall(header + b"x")
        good += s.recv(100) != b""
    except OSError as error:
        print(error)
    s.close()
print("answered", good)
`;

const files = { "takers.py": takers, "probes.py": probes };

const lab = `
for n in 3 4 5; do
  within client ip address add "10.9.1.$n/24" dev c0 preferred_lft 0
  within client ip address add "fd00:1::$n/64" dev c0 nodad preferred_lft 0
done
within client ip address add fd00:8::2/64 dev c0 nodad preferred_lft 0
ip route add fd00:8::/64 via fd00:1::2
at_backend listen --quiet --json '[::]:8080'
take() {
  in_background client python3 takers.py "$@"
  taker=$!
  until [ -e taking ]; do kill -0 "$taker" "$proxy"; sleep 0.02; done
}
count() {
  kill -USR1 "$proxy"
  until_true grep -q '"counters"' proxy.log
}
`;

const counters = (log: Record<string, unknown>[]) =>
  find(log, "counters") as Record<string, number> | undefined;

/** A client behind a load balancer, as headers of version 1 name it. */
const header = (client: string) => String.raw`PROXY TCP4 ${client} 8.8.8.8 1024 80\r\n`;

const testShares = testInLab(["python3"]);

describe("TCP at --max-connections", () => {
  // [what, arguments of forward, the takers', the probes']
  const cases = [
    ["IPv4", "", ["8.8.8.8", "10.9.1.2"], ["8.8.8.8", "10.9.1.3"]],
    ["IPv4, two Workers", "--workers 2", ["8.8.8.8", "10.9.1.2"], ["8.8.8.8", "10.9.1.3"]],
    // Many addresses of one /64 are one client.
    [
      "IPv6",
      "",
      ["2001:db8::9", "fd00:1::2 fd00:1::3 fd00:1::4 fd00:1::5"],
      ["2001:db8::9", "fd00:8::2"],
    ],
  ] as const;
  for (const [what, options, taker, probe] of cases) {
    testShares(`${what}: who has them all loses idle ones to another client`, async () => {
      const { stdout, proxy } = await inLab(
        `${lab}
        forward '[::]:50080' --max-connections 40 ${options} \
          --to 10.9.2.2:8080 --to '[fd00:2::2]:8080'
        take ${taker[0]} 80 400 ${taker[1]}
        within client python3 probes.py ${probe[0]} 80 ${probe[1]} 30
        count
        : > enough
      `,
        files,
      );
      expect(stdout).toContain("answered 30\n");
      const counted = counters(proxy);
      expect(counted?.evicted_connections).toBeGreaterThan(0);
      expect(counted?.refused_connections).toBeGreaterThan(0);
      expect(proxy).toContainEqual(expect.objectContaining({ reason: "evicted" }));
    });
  }

  testShares(
    "near the bound the heaviest client's idle ones end sooner, nobody else's",
    async () => {
      const { proxy } = await inLab(
        `${lab}
      forward :50080 --to 10.9.2.2:8080 --max-connections 40 --idle-timeout 8s
      in_background client python3 takers.py 8.8.8.8 80 1 10.9.1.3
      held() { [ "$(ss -Htn state established sport = :80 | wc -l)" -ge "$1" ]; }
      until_true held 1
      in_background client python3 takers.py 8.8.8.8 80 37 10.9.1.2
      until_true grep -q '"reason":"idle-shortened"' proxy.log
      : > enough
    `,
        files,
      );
      const swept = proxy.filter(({ reason }) => reason === "idle-shortened");
      expect(swept.length).toBeGreaterThan(0);
      for (const { client } of swept) expect(client).toStartWith("10.9.1.2:");
      expect(proxy.filter(({ reason }) => reason === "evicted")).toEqual([]);
    },
  );

  testShares("PROXY headers: the clients that they name share, and so do peers", async () => {
    const { stdout, proxy } = await inLab(
      `${lab}
      forward :50080 --to 10.9.2.2:8080 --max-connections 40 --accept-proxy --source self
      export HEADER='${header("192.0.2.1")}'
      take 8.8.8.8 80 300 10.9.1.2
      export HEADER='${header("192.0.2.2")}'
      within client python3 probes.py 8.8.8.8 80 10.9.1.3 20
      : > enough
      wait "$taker" || :
      rm enough taking
      # Headers that never come.
      export HEADER=
      take 8.8.8.8 80 300 10.9.1.2
      export HEADER='${header("192.0.2.2")}'
      within client python3 probes.py 8.8.8.8 80 10.9.1.3 20
      : > enough
    `,
      files,
    );
    expect(stdout.match(/answered 20\n/g)).toHaveLength(2);
    expect(find(proxy, "forwarded")).toBeDefined();
  });

  testShares("bounds of one client, over all Workers", async () => {
    const { stdout } = await inLab(
      `${lab}
      forward :50080 --to 10.9.2.2:8080 --max-connections-per-client 6 --workers 2
      take 8.8.8.8 80 60 10.9.1.2
      within client python3 probes.py 8.8.8.8 80 10.9.1.3 20
      open="$(within backend ss -Htn state established sport = :8080 dst 10.9.1.2)"
      echo "open: $(echo "$open" | wc -l)"
      count
      : > enough
      kill "$proxy"; wait "$proxy" || :
      forward :50080 --to 10.9.2.2:8080 --connection-rate-per-client 5
      within client python3 probes.py 8.8.8.8 80 10.9.1.4 40
      within client python3 probes.py 8.8.8.8 80 10.9.1.3 3
    `,
      files,
    );
    const [first, fast, other] = [...stdout.matchAll(/answered (\d+)\n/g)].map(([, n]) =>
      Number(n),
    );
    expect([first, other]).toEqual([20, 3]);
    expect(fast).toBeGreaterThanOrEqual(5);
    expect(fast).toBeLessThan(40);
    expect(Number(/open: (\d+)/.exec(stdout)?.[1])).toBeLessThanOrEqual(6);
  });
});

/** Sessions that are confirmed, and silent from then on. */
const silent = `
import os, socket, sys
address, source, count = sys.argv[1:]
held = []
for i in range(int(count)):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(1)
    s.bind((source, 0))
    s.connect((address, 100))
    held.append(s)
    for ask in range(3):
        try:
            s.send(b"x"); s.recv(100)
        except OSError:
            pass
open("silent-" + source, "w").close()
while not os.path.exists("enough"): __import__("time").sleep(0.05)
`;

describe("near the bound the heaviest client's silent ones end sooner, nobody else's", () => {
  testInUdpLab("UDP, both families", async () => {
    const { proxy } = await inUdpLab(
      `
      within client ip address add 10.9.1.3/24 dev c0 preferred_lft 0
      within client ip address add fd00:8::2/64 dev c0 nodad preferred_lft 0
      ip route add fd00:8::/64 via fd00:1::2
      at_backend listen --udp --echo --quiet --json --answer-rate 0 '[::]:9000'
      capture
      for ends in '8.8.8.8 10.9.1.2 10.9.1.3' '2001:db8::9 fd00:1::2 fd00:8::2'; do
        set -- $ends
        forward '[::]:50053' --udp --to 10.9.2.2:9000 --to '[fd00:2::2]:9000' \
          --max-sessions 40 --udp-timeout 8s
        in_background client python3 silent.py "$1" "$3" 1
        few=$!
        until [ -e "silent-$3" ]; do kill -0 "$few"; sleep 0.02; done
        in_background client python3 silent.py "$1" "$2" 37
        many=$!
        until grep -q '"reason":"idle-shortened"' proxy.log; do kill -0 "$proxy"; sleep 0.02; done
        : > enough
        wait "$few" "$many"
        rm enough
        stop
        cat proxy.log >> both.log
      done
      cp both.log proxy.log
    `,
      { "silent.py": silent },
    );
    const ended = eventsOf(proxy, "forwarded");
    const early = ended.filter(({ reason }) => reason === "idle-shortened");
    for (const heavy of ["10.9.1.2:", "[fd00:1::2]:"]) {
      expect(early.some(({ client }) => String(client).startsWith(heavy))).toBe(true);
    }
    for (const { client } of early) expect(client).toMatch(/^(10\.9\.1\.2:|\[fd00:1::2\]:)/);
    expect(ended.filter(({ reason }) => reason === "evicted")).toEqual([]);
  });

  testShares("listen", async () => {
    const { proxy } = await inLab(
      `${lab}
      ${command} listen --json :8090 --max-connections 40 --timeout 8s > proxy.log &
      proxy=$!
      started="$started $proxy"
      until_true grep -q '"bound"' proxy.log
      in_background client python3 takers.py 10.9.1.1 8090 1 10.9.1.3
      held() { [ "$(ss -Htn state established sport = :8090 | wc -l)" -ge "$1" ]; }
      until_true held 1
      in_background client python3 takers.py 10.9.1.1 8090 37 10.9.1.2
      until_true grep -q '"reason":"idle-shortened"' proxy.log
      : > enough
    `,
      files,
    );
    // What the other one has is older, and would have ended first.
    const early = proxy.filter(({ reason }) => reason === "idle-shortened");
    expect(early.length).toBeGreaterThan(0);
    for (const { client } of early) expect(client).toStartWith("10.9.1.2:");
  });
});

describe("listen", () => {
  testShares("shares its connections as well", async () => {
    const { stdout } = await inLab(
      `${lab}
      ${command} listen --quiet --json :8090 --max-connections 40 > proxy.log &
      proxy=$!
      started="$started $proxy"
      until_true grep -q '"bound"' proxy.log
      take 10.9.1.1 8090 300 10.9.1.2
      within client python3 probes.py 10.9.1.1 8090 10.9.1.3 20
      count
      cat proxy.log
      : > enough
    `,
      files,
    );
    expect(stdout).toContain("answered 20\n");
    expect(stdout).toMatch(/"evicted_connections":[1-9]/);
  });
});

/** Sessions without end from one address: each is answered, and answered back. */
const sessions = `
import os, socket, sys
address, source = sys.argv[1:]
begun, held = 0, []
while not os.path.exists("enough"):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(1)
    s.bind((source, 0))
    s.connect((address, 53))
    try:
        s.send(b"x"); s.recv(100); s.send(b"x"); s.recv(100)
    except OSError:
        pass
    begun += 1
    held.append(s)
    if len(held) > 300: held.pop(0).close()
    if begun == 150: open("taking", "w").close()
`;

/** One session that is kept, and others that begin and end beside it. */
const asks = `
import socket, sys
address, source, count = sys.argv[1:]
def ask(s):
    for attempt in range(5):
        s.send(b"x")
        try:
            return s.recv(100)
        except TimeoutError:
            pass
def open_one():
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(1)
    s.bind((source, 0))
    s.connect((address, 53))
    return s
kept = open_one()
good = 0
for i in range(int(count)):
    s = open_one()
    good += ask(kept) is not None and ask(s) is not None and ask(s) is not None
print("answered", good)
`;

/** Answers all but what begins with "forged". */
const picky = `
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", 9000))
open("picky", "w").close()
while True:
    data, peer = s.recvfrom(100)
    if not data.startswith(b"forged"): s.sendto(data, peer)
`;

/** So many sessions, which are all in use. */
const keeps = `
import os, socket, sys
address, source, count = sys.argv[1:]
def open_one():
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.bind((source, 0))
    s.connect((address, 100))
    return s
def ask(s):
    for attempt in range(5):
        s.send(b"x")
        try:
            return s.recv(100) == b"x"
        except OSError:
            pass
    return False
held = [open_one() for i in range(int(count))]
print("ports", *(s.getsockname()[1] for s in held), flush=True)
for i in range(2):
    for s in held: ask(s)
open("keeping", "w").close()
while not os.path.exists("enough"):
    for s in held: ask(s)
print("kept", sum(ask(s) for s in held), "of", count, flush=True)
`;

/** Sources forged in the name of one client, whose host does not know of them. */
const forges = `
import os, socket, struct, sys, time
asked, named = sys.argv[1:]
family = socket.AF_INET6 if ":" in asked else socket.AF_INET
ends = socket.inet_pton(family, named) + socket.inet_pton(family, asked)
s = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
sent = 0
while not os.path.exists("enough"):
    for i in range(8):
        udp = struct.pack(">HHH", 1024 + sent % 20000, 100, 14)
        if family == socket.AF_INET6:
            header = struct.pack(">IHBB", 6 << 28, 14, 17, 64)
            check = checksum(ends + struct.pack(">II", 14, 17) + udp + b"\\0\\0forged")
        else:
            header = struct.pack(">BBHHHBBH", 0x45, 0, 34, sent & 0xffff, 0, 64, 17, 0)
            check = 0
        s.sendto(header + ends + udp + struct.pack(">H", check) + b"forged", (asked, 0))
        sent += 1
    if sent == 800: open("forging", "w").close()
    time.sleep(0.01)
`;

describe("UDP at --max-sessions", () => {
  for (const [what, options, asked, taker, other] of [
    ["IPv4", "", "8.8.8.8", "10.9.1.2", "10.9.1.3"],
    ["IPv4, two Workers", "--workers 2", "8.8.8.8", "10.9.1.2", "10.9.1.3"],
    ["IPv6", "", "2001:db8::9", "fd00:1::2", "fd00:8::2"],
  ] as const) {
    testInUdpLab(`${what}: who has them all ends its own, and another one keeps its`, async () => {
      const { stdout, proxy } = await inUdpLab(
        `
        within client ip address add 10.9.1.3/24 dev c0 preferred_lft 0
        within client ip address add fd00:8::2/64 dev c0 nodad preferred_lft 0
        ip route add fd00:8::/64 via fd00:1::2
        at_backend listen --udp --echo --quiet --json --answer-rate 0 '[::]:9000'
        capture
        forward '[::]:50053' --udp --to 10.9.2.2:9000 --to '[fd00:2::2]:9000' \
          --max-sessions 60 ${options}
        background nsenter -t "$client" -n python3 sessions.py '${asked}' '${taker}'
        until [ -e taking ]; do kill -0 "$proxy"; sleep 0.02; done
        within client python3 asks.py '${asked}' '${other}' 15
        : > enough
        stop
      `,
        { "sessions.py": sessions, "asks.py": asks },
      );
      expect(stdout).toContain("answered 15\n");
      const ended = eventsOf(proxy, "forwarded");
      const evicted = ended.filter(({ reason }) => reason === "evicted");
      expect(evicted.length).toBeGreaterThan(20);
      const isOther = ({ client }: Record<string, unknown>) => String(client).includes(other);
      // Those that were kept came to the end of the proxy, or were silent for as long as they may.
      expect(evicted.filter(isOther)).toEqual([]);
      expect(ended.filter(isOther).length).toBeGreaterThanOrEqual(15);
    });
  }

  testInUdpLab(
    "when all that it has is in use, its newcomers are rejected, counted and said",
    async () => {
      const { stdout, proxy } = await inUdpLab(
        `
      in_background backend python3 picky.py
      until [ -e picky ]; do sleep 0.02; done
      capture
      forward :50053 --udp --to 10.9.2.2:9000 --max-sessions 20
      in_background client python3 keeps.py 8.8.8.8 10.9.1.2 20
      keeps=$!
      until [ -e keeping ]; do kill -0 "$keeps"; sleep 0.02; done
      in_background client python3 forges.py 8.8.8.8 10.9.1.2
      forges=$!
      until [ -e forging ]; do kill -0 "$forges"; sleep 0.02; done
      : > enough
      wait "$keeps" "$forges"
      kill -USR1 "$proxy"
      logged counters 1
      stop
    `,
        { "picky.py": picky, "keeps.py": keeps, "forges.py": forges },
      );
      expect(stdout).toContain("kept 20 of 20\n");
      expect(JSON.stringify(eventsOf(proxy, "warning"))).toContain(
        "a session was refused: all places are taken, and its client has as many sessions as any",
      );
      const [counted] = eventsOf(proxy, "counters");
      expect(counted).toMatchObject({ sessions: 20, evicted_sessions: 0 });
      expect(counted?.refused_sessions).toBeGreaterThan(200);
    },
  );

  for (const [what, asked, named, other] of [
    ["IPv4", "8.8.8.8", "10.9.1.2", "10.9.1.3"],
    ["IPv6", "2001:db8::9", "fd00:1::2", "fd00:8::2"],
  ] as const) {
    testInUdpLab(
      `${what}: sources forged in the name of who has the most end none of its sessions`,
      async () => {
        const { stdout, proxy } = await inUdpLab(
          `
          within client ip address add 10.9.1.3/24 dev c0 preferred_lft 0
          within client ip address add fd00:8::2/64 dev c0 nodad preferred_lft 0
          ip route add fd00:8::/64 via fd00:1::2
          in_background backend python3 picky.py
          until [ -e picky ]; do sleep 0.02; done
          capture
          forward '[::]:50053' --udp --to 10.9.2.2:9000 --to '[fd00:2::2]:9000' --max-sessions 160
          in_background client python3 keeps.py '${asked}' '${named}' 120
          keeps=$!
          until [ -e keeping ]; do kill -0 "$keeps"; sleep 0.02; done
          in_background client python3 forges.py '${asked}' '${named}'
          forges=$!
          until [ -e forging ]; do kill -0 "$forges"; sleep 0.02; done
          within client python3 asks.py '${asked}' '${other}' 10
          : > enough
          wait "$keeps" "$forges"
          stop
        `,
          { "picky.py": picky, "keeps.py": keeps, "forges.py": forges, "asks.py": asks },
        );
        expect(stdout).toContain("answered 10\n");
        expect(stdout).toContain("kept 120 of 120\n");
        const kept = /^ports (.*)$/m.exec(stdout)?.[1]?.split(" ") ?? [];
        const evicted = eventsOf(proxy, "forwarded").filter(({ reason }) => reason === "evicted");
        expect(evicted.length).toBeGreaterThan(200);
        const portOf = ({ client }: Record<string, unknown>) => String(client).split(":").at(-1);
        expect(evicted.map(portOf).filter((port) => kept.includes(port ?? ""))).toEqual([]);
        const isOther = ({ client }: Record<string, unknown>) => String(client).includes(other);
        expect(evicted.filter(isOther)).toEqual([]);
      },
    );
  }
});

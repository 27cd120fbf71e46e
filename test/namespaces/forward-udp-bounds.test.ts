/** `forward --udp` where something is missing, full, held by others, or at its end. */

import { describe, expect } from "bun:test";
import { eventsOf, inLab, testInLab } from "../helpers/udp-lab.ts";

/**
 * One datagram from each of many sockets; with `wait`, each waits for its answer, with `hold` all
 * stay open until they are told to go: an answer to a closed one would end its session.
 */
const many = `
import os, socket, sys
count, wait = int(sys.argv[1]), sys.argv[2] == "wait"
held = []
for i in range(count):
  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
  s.settimeout(10)
  s.connect(("8.8.8.8", 1 + i % 1000))
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
import random, socket, struct, sys
count = int(sys.argv[1])
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for i in range(count):
  source = struct.pack(">I", 0x0a090100 | 100 + i % 100)
  udp = struct.pack(">HHHH", 1024 + i // 100 % 60000, 53, 9, 0) + b"x"
  ip = struct.pack(">BBHHHBBH", 0x45, 0, 29, i & 0xffff, 0, 64, 17, 0)
  s.sendto(ip + source + bytes([8, 8, 8, 8]) + udp, ("8.8.8.8", 0))
`;

/** Sends one at a time until it is back, again and again until it is told to stop. */
const steady = `
import os, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# The queues of a kernel that is flooded may lose a datagram.
s.settimeout(0.5)
s.connect(("8.8.4.4", 53))
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

const files = { "many.py": many, "flood.py": flood, "steady.py": steady };

describe("bounds", () => {
  testInLab("a full table: the least recently used one ends, counted and said", async () => {
    const { stdout, proxy } = await inLab(
      `
      at_backend listen --udp --quiet --json '[::]:9000'
      capture
      forward :50053 --udp --to 10.9.2.2:9000 --max-sessions 10
      before=$(sockets)
      within client python3 many.py 100 wait
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
      within client ip address add 10.9.1.3/24 dev c0
      capture
      forward :50053 --udp --to 10.9.2.2:9000 --max-sessions-per-client 5
      background nsenter -t "$client" -n python3 many.py 20 hold
      many=$!
      until [ -e sent ] && [ "$(sockets)" -gt 10 ]; do kill -0 "$many"; done
      echo x | within client socat -t5 - udp:8.8.8.8:53,bind=10.9.1.3,readbytes=12
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

  testInLab("a flood from spoofed sources: sessions go on, descriptors are bounded", async () => {
    const { stdout, proxy } = await inLab(
      `
      at_backend listen --udp --echo --quiet --json '[::]:9000'
      within client ip route add local 10.9.1.128/25 dev lo
      capture
      ulimit -n 300
      forward :50053 --udp --to 10.9.2.2:9000
      background nsenter -t "$client" -n python3 steady.py
      steady=$!
      until [ -e steady ]; do kill -0 "$steady"; done
      within client python3 flood.py 20000
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
    const steadyOnes = sessions.filter((each) => each.original_destination === "8.8.4.4:53");
    expect(steadyOnes.map(({ reason }) => reason)).toEqual(["stopped"]);
    const warnings = eventsOf(proxy, "warning").map(({ text }) => text);
    expect(warnings).toContain("a session was ended to make room for another one");
  });

  testInLab("thousands of sessions, as many as the descriptors allow", async () => {
    const { stdout } = await inLab(
      `
      at_backend listen --udp --quiet --json '[::]:9000'
      within client ip route add local 10.9.1.128/25 dev lo
      capture
      limit=$(ulimit -Hn)
      wanted=$((limit / 2 < 20100 ? limit / 2 - 100 : 20000))
      forward :50053 --udp --quiet --to 10.9.2.2:9000
      before=$(sockets)
      # A queue of the kernel may lose some of them: those are sent again.
      until [ "$(($(sockets) - before))" -ge "$wanted" ]; do
        kill -0 "$proxy"
        within client python3 flood.py "$wanted"
      done
      echo "enough: $wanted"
      grep VmRSS "/proc/$proxy/status"
      stop
    `,
      files,
    );
    expect(stdout).toMatch(/enough: \d{4,}/);
  });
});

describe("others on the proxy's host", () => {
  testInLab("a foreign wildcard socket on the port: raw packets, said once", async () => {
    const { stdout, proxy } = await inLab(`
      background socat -u udp6-recv:53 open:/dev/null
      until ss -uln 2>/dev/null | grep -q ':53 '; do :; done
      at_backend listen --udp --json '[::]:9000'
      capture 53
      forward '[::]:50053' --udp --to 10.9.2.2:9000 --to '[fd00:2::2]:9000'
      for to in 8.8.8.8 '[2001:db8::9]' 8.8.4.4 8.8.4.4; do
        echo x | within client socat -t5 - "udp:$to:53,readbytes=12"
      done
      stop
    `);
    expect(stdout.match(/hello world/g)).toHaveLength(4);
    const warnings = eventsOf(proxy, "warning").map(({ text }) => text);
    expect(warnings).toEqual([
      "port 53 is held by another program here: answers leave as raw packets",
      "port 53 is held by another program here: answers leave as raw packets (3 more)",
    ]);
  });

  testInLab("two workers share the traffic, a session stays with one", async () => {
    const { stdout, proxy } = await inLab(
      `
      at_backend listen --udp --echo --quiet --json '[::]:9000'
      capture
      forward :50053 --udp --to 10.9.2.2:9000 --workers 2
      within client python3 many.py 200 wait
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
      forward :50053 --udp --to 10.9.2.2:9000
      within client python3 many.py 50 wait
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
      at_backend listen --udp --echo --quiet --json '[::]:9000'
      capture
      forward :50053 --udp --to 10.9.2.2:9000
      background nsenter -t "$client" -n python3 outage.py
      client_program=$!
      until [ -e up ]; do kill -0 "$client_program"; done
      ip link set p1 down
      : > down
      until [ -e noticed ]; do kill -0 "$client_program"; done
      ip link set p1 up
      wait "$client_program"
    `,
      {
        "outage.py": `
import os, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("8.8.8.8", 53))
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
    expect(stdout).toContain("again");
  });
});

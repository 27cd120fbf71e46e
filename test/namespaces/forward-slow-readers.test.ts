/**
 * Memory of the kernel behind those who do not read: bounded, however many they are, and in both
 * families.
 */

import { describe, expect } from "bun:test";
import { earnedReceiveBytes } from "../../src/engine/limits.ts";
import { command, inLab, testInLab } from "../helpers/forward-lab.ts";

/** stallers.py ADDRESS PORT COUNT BYTES FROM...   ask from these in turn, read so much, stall. */
const stallers = `
import os, socket, sys, time
address, port, count, most, *sources = sys.argv[1:]
header = os.environ.get("HEADER", "").encode().decode("unicode_escape").encode()
held = []
for i in range(int(count)):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.bind((sources[i % len(sources)], 0))
    s.connect((address, int(port)))
    s.sendall(header + b"x")
    left = int(most)
    while left > 0: left -= len(s.recv(min(left, 65536)))
    held.append(s)
open("stalled-" + count, "w").close()
while not os.path.exists("enough"):
    time.sleep(0.1)
    # Slowly, but it reads.
    if int(count) == 1: held[0].recv(20000)
`;

const testSlow = testInLab(["python3"]);

describe("memory behind slow readers", () => {
  for (const [what, asked, many, upstream] of [
    ["IPv4", "8.8.8.8", "10.20.0.{1..40}", "10.9.2.2"],
    ["IPv6", "2001:db8::9", "fd00:20:{1..40}::1", "[fd00:2::2]"],
  ] as const) {
    testSlow(
      `${what}: few streams have receive buffers that grow, however many clients`,
      async () => {
        const { stdout } = await inLab(
          `within client ip route add local 10.20.0.0/16 dev lo
        within client ip -6 route add local fd00:20::/32 dev lo
        within client sh -c 'echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind'
        ip route add 10.20.0.0/16 via 10.9.1.2
        ip route add fd00:20::/32 via fd00:1::2
        # So far a buffer could grow: few of these are a quarter of any memory.
        echo 4096 131072 67108864 > /proc/sys/net/ipv4/tcp_rmem
        head -c 16M /dev/zero > reply
        at_backend listen --quiet --json '[::]:8081' --reply-file reply
        upstreams() { ss -Htnm state connected exclude time-wait dport = :8081; }
        forward '[::]:50080' --to '${upstream}:8081'
        clients=$(bash -c 'echo ${many}')
        in_background client python3 stallers.py ${asked} 80 40 1000000 $clients
        until_true test -e stalled-40
        upstreams > buffers
        grep -o 'rb[0-9]*' buffers | tr -d rb | sort -n | sed 's/^/buffer: /'
        : > enough
      `,
          { "stallers.py": stallers },
        );
        const buffers = [...stdout.matchAll(/^buffer: (\d+)$/gm)].map(([, bytes]) => Number(bytes));
        expect(buffers).toHaveLength(40);
        const earned = 2 * earnedReceiveBytes;
        const grown = buffers.filter((bytes) => bytes > earned);
        expect(grown.length).toBeGreaterThan(0);
        expect(grown.length).toBeLessThan(20);
      },
    );
  }

  // What /proc says of the host's memory, so that the test does not depend on what others use.
  const pretended = `
  echo 'MemTotal: 1048576 kB' > meminfo
  mkdir net
  used() { echo "TCP: inuse 1 orphan 0 tw 0 alloc 1 mem $1" > net/sockstat; }
  used 100
  echo 'mount --bind meminfo /proc/meminfo' > pretend.sh
  echo 'mount --bind net "/proc/$$/net"; exec "$@"' >> pretend.sh
  launcher="unshare -m sh -e pretend.sh"
  within client sh -c 'echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind'
  within client ip route add local 10.20.0.0/16 dev lo
  within client ip -6 route add local fd00:20::/32 dev lo
  ip route add 10.20.0.0/16 via 10.9.1.2
  ip route add fd00:20::/32 via fd00:1::2
  head -c 16M /dev/zero > reply
  # stall ADDRESS PORT HEAVY LIGHT SLOW: clients with 30 connections, with 2, and one that reads.
  stall() {
    HEADER=\${header:+PROXY TCP4 192.0.2.1 8.8.8.8 1024 80\\\\r\\\\n}
    export HEADER
    in_background client python3 stallers.py "$1" "$2" 30 20000 "$3"
    HEADER=\${header:+PROXY TCP4 192.0.2.2 8.8.8.8 1024 80\\\\r\\\\n}
    in_background client python3 stallers.py "$1" "$2" 2 20000 "$4"
    in_background client python3 stallers.py "$1" "$2" 1 20000 "$5"
    for count in 30 2 1; do until_true test -e "stalled-$count"; done
  }
  # Of 48 MiB more than three quarters are used, until the first ones have ended.
  end_some() {
    used 9400
    until_true grep -q "$1" proxy.log
    used 100
    kill -USR1 "$proxy"
    until_true grep -q '"counters"' proxy.log
    : > enough
  }
  `;

  const ended = (log: Record<string, unknown>[]) =>
    log.filter(({ reason }) => reason === "stalled");

  for (const [what, options, header, asked, heavy, light, slow, named] of [
    ["IPv6", "", "", "2001:db8::9", "fd00:1::2", "fd00:20:1::1", "fd00:20:2::1", "[fd00:1::2]:"],
    [
      "PROXY headers, two Workers",
      "--accept-proxy --source self --workers 2",
      "yes",
      ...["8.8.8.8", "10.9.1.2", "10.9.1.2", "10.9.1.2"],
      "192.0.2.1:",
    ],
  ] as const) {
    testSlow(`${what}: near the end of it the heaviest client's stalled ones end`, async () => {
      const { proxy } = await inLab(
        `${pretended}
        header='${header}'
        at_backend listen --quiet --json '[::]:8081' --reply-file reply
        forward '[::]:50080' --to '10.9.2.2:8081' --to '[fd00:2::2]:8081' ${options}
        stall ${asked} 80 ${heavy} ${light} ${slow}
        end_some '"reason":"stalled"'`,
        { "stallers.py": stallers },
      );
      const those = ended(proxy);
      expect(those.length).toBeGreaterThan(0);
      expect(those.length).toBeLessThan(30);
      for (const { client } of those) expect(client).toStartWith(named);
      // Of each Worker, and of all.
      const counted = proxy.filter(({ event }) => event === "counters");
      expect(counted.some((counters) => Number(counters.stalled_connections) > 0)).toBe(true);
    });
  }

  testSlow("listen: the same", async () => {
    const { proxy } = await inLab(
      `${pretended}
      header=
      $launcher ${command} listen --json :8090 --reply-file reply > proxy.log &
      proxy=$!
      started="$started $proxy"
      until_true grep -q '"bound"' proxy.log
      stall 10.9.1.1 8090 10.9.1.2 10.20.0.1 10.20.0.2
      end_some '"stalled"'`,
      { "stallers.py": stallers },
    );
    const those = ended(proxy);
    expect(those.length).toBeGreaterThan(0);
    for (const { client } of those) expect(client).toStartWith("10.9.1.2:");
  });
});

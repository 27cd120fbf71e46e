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
held = []
for i in range(int(count)):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.bind((sources[i % len(sources)], 0))
    s.connect((address, int(port)))
    s.sendall(b"x")
    left = int(most)
    while left > 0: left -= len(s.recv(min(left, 65536)))
    held.append(s)
open("stalled", "w").close()
while not os.path.exists("enough"): time.sleep(0.05)
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
        in_background backend ${command} listen --quiet '[::]:8081' --reply-file reply
        upstreams() { ss -Htnm state connected exclude time-wait dport = :8081; }
        forward '[::]:50080' --to '${upstream}:8081'
        clients=$(bash -c 'echo ${many}')
        in_background client python3 stallers.py ${asked} 80 40 1000000 $clients
        until_true test -e stalled
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
});

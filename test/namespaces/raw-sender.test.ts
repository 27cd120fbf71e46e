/**
 * Raw replies over veth to an ordinary connected socket, while another program has the port on
 * every address of the sender, so that no socket could be bound for them.
 */

import { describe, expect } from "bun:test";
import { join } from "node:path";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { testWith } from "../helpers/tools.ts";

const helper = `'${process.execPath}' '${join(import.meta.dir, "../helpers/raw-sender.ts")}'`;

/** Connects, tells its port, and prints what arrives until its peer is said to be unreachable. */
const client = `
import socket, sys
address = sys.argv[1]
s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.connect((address, 53))
print(s.getsockname()[1], file=open("port.new", "w"))
import os; os.rename("port.new", "port")
while True:
    try:
        data = s.recv(70000)
    except BlockingIOError:
        break
    except OSError as error:
        # The kernel tells of an error before it gives what it has queued: that is read now.
        print(error.strerror, flush=True)
        s.setblocking(False)
        continue
    whole = all(byte == at % 256 for at, byte in enumerate(data))
    print("received", len(data), "whole" if whole else "changed", flush=True)
`;

const testRaw = testWith(["ip", "nsenter", "socat", "python3", "tcpdump", "ss"], {
  "network namespaces": canUnshare,
});

const families = [
  { family: 4, from: "8.8.8.8", to: "10.9.0.2", fits: 1472, most: 65_507 },
  { family: 6, from: "2001:db8::9", to: "fd00:9::2", fits: 1452, most: 65_527 },
] as const;

describe.each(families)("IPv$family", ({ family, from, to, fits, most }) => {
  const sizes = [5, 0, 1, fits, fits + 1, 4000, most];

  testRaw("datagrams of all sizes, then ECONNREFUSED", async () => {
    const { status, stdout, stderr } = await inNamespace(
      `
      neighbour client p0 c0
      within client ip route add default via 10.9.0.1
      within client ip route add default via fd00:9::1
      background socat -u udp6-recv:53 open:/dev/null
      until ss -uln | grep -q ':53 '; do :; done
      nsenter -t "$client" -n tcpdump -lnvvi c0 udp or icmp or icmp6 > dump 2> tcpdump.log &
      started="$started $!"; dumper=$!
      until grep -q listening tcpdump.log; do kill -0 $dumper; done
      nsenter -t "$client" -n python3 client.py '${from}' > received &
      started="$started $!"; asking=$!
      until [ -e port ]; do kill -0 $asking; done
      ${helper} '${from}' 53 '${to}' "$(cat port)" ${sizes.join(" ")} refuse
      wait $asking
      until grep -q unreachable dump; do kill -0 $dumper; done
      cat received dump
      `,
      { files: { "client.py": client } },
    );
    if (status !== 0) throw new Error(`status ${status}: ${stderr}\n${stdout}`);
    const received = stdout.split("\n").filter((line) => line.startsWith("received"));
    expect(received).toEqual(sizes.map((size) => `received ${size} whole`));
    expect(stdout).toContain("Connection refused");
    // Fragments apart, tcpdump has checked them all.
    expect(stdout.match(/\[udp sum ok\]/g)?.length).toBeGreaterThanOrEqual(4);
    expect(stdout).toMatch(family === 4 ? /udp port 53 unreachable/ : /\[icmp6 sum ok\]/);
    expect(stdout).not.toMatch(/bad (udp )?cksum|wrong icmp cksum|bad icmp6 cksum/);
  });
});

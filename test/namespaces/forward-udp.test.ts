/** `forward --udp` between real clients and servers: who sees whom, and what arrives. */

import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { eventsOf, inLab, testInLab } from "../helpers/udp-lab.ts";

const files = {
  "datagrams.py": readFileSync(new URL("datagrams.py", import.meta.url), "utf8"),
};

const families = [
  { family: "4", asked: "8.8.8.8", client: "10.9.1.2", backend: "10.9.2.2", largest: 65_507 },
  {
    family: "6",
    asked: "2001:db8::9",
    client: "fd00:1::2",
    backend: "fd00:2::2",
    largest: 65_527,
  },
] as const;

const inUrl = (address: string) => (address.includes(":") ? `[${address}]` : address);

describe.each(families)("IPv$family", ({ asked, client, backend, largest }) => {
  testInLab("every size both ways in order, the empty and the largest one too", async () => {
    const { stdout, proxy } = await inLab(
      `
      at_backend listen --udp --echo --quiet --json --answer-rate 0 '[::]:9000'
      capture
      forward '[::]:50053' --udp --to '${inUrl(backend)}:9000'
      within client python3 datagrams.py exchange '${asked}' 7 60 0,1,1200,${largest},1472,3000
      within client python3 datagrams.py exchange '${asked}' 8 3000 1200,1200,1200,1200,40,0 32
      within client python3 datagrams.py exchange '${asked}' 9 200 3000,3000,3000 16
      stop
    `,
      files,
    );
    expect(stdout.match(/exchanged/g)).toHaveLength(3);
    const sessions = eventsOf(proxy, "forwarded");
    expect(sessions.map(({ client_datagrams }) => client_datagrams)).toEqual([60, 3000, 200]);
    expect(sessions.map(({ upstream_datagrams }) => upstream_datagrams)).toEqual([60, 3000, 200]);
    const bytes = 10 * (1 + 1200 + largest + 1472 + 3000);
    expect(sessions[0]).toMatchObject({ client_bytes: bytes, upstream_bytes: bytes });
    expect(eventsOf(proxy, "warning")).toEqual([]);
  });

  testInLab("the listener's own port: first by the listener, then by a socket", async () => {
    const { stdout, proxy } = await inLab(
      `
      at_backend listen --udp --echo --quiet --json --answer-rate 0 '[::]:9000'
      capture 50053
      forward '[::]:50053' --udp --to '${inUrl(backend)}:9000'
      before=$(sockets)
      within client python3 datagrams.py exchange '${asked}' 50053 10 0,1,1200,${largest},1472
      echo "few: $(($(sockets) - before))"
      within client python3 datagrams.py exchange '${asked}' 50053 3000 1200,1200,1200,1200,40,0 32
      echo "many: $(($(sockets) - before))"
      stop
    `,
      files,
    );
    expect(stdout.match(/exchanged/g)).toHaveLength(2);
    // Over IPv6 large answers, too, need a socket, which hears that they were too large.
    const few = asked.includes(":") ? 2 : 1;
    expect(stdout).toContain(`few: ${few}\n`);
    expect(stdout).toContain(`many: ${few + 2}\n`);
    expect(eventsOf(proxy, "warning")).toEqual([]);
  });

  testInLab("--source client:port keeps the port, self does not spoof", async () => {
    const { backend: seen } = await inLab(`
      at_backend listen --udp --json '[::]:9000'
      capture
      forward '[::]:50053' --udp --to '${inUrl(backend)}:9000' --source client:port
      echo x | within client socat -t20 - 'udp:${inUrl(asked)}:7,sourceport=40123,readbytes=12'
      stop
      forward '[::]:50053' --udp --to '${inUrl(backend)}:9000' --source self
      echo x | within client socat -t20 - 'udp:${inUrl(asked)}:7,readbytes=12'
      stop
      until [ "$(grep -c '"datagram"' backend.log)" = 2 ]; do kill -0 "$server"; done
    `);
    const clients = eventsOf(seen, "datagram").map(({ client: from }) => from);
    expect(clients[0]).toBe(`${inUrl(client)}:40123`);
    expect(clients[1]).toStartWith(client === "10.9.1.2" ? "10.9.2.1:" : "[fd00:2::1]:");
  });
});

describe("towards upstreams", () => {
  testInLab("original: on to the address that the client asked for", async () => {
    const { stdout, proxy } = await inLab(`
      within backend ip address add 8.8.8.8/32 dev lo
      ip route add 8.8.8.8/32 via 10.9.2.2
      at_backend listen --udp --json 8.8.8.8:53
      capture 53
      forward :50053 --udp --to original --source client:port
      echo x | within client socat -t20 - udp:8.8.8.8:53,readbytes=12
      stop
    `);
    expect(stdout).toContain("hello world");
    expect(eventsOf(proxy, "forwarded")[0]).toMatchObject({ upstream: "8.8.8.8:53" });
  });

  // What the upstream's host says of a spoofed source is addressed to the client, and meant for us.
  const icmp = `nft -f - <<'EOF'
    insert rule inet tproxyd prerouting icmp type destination-unreachable socket transparent 1 \\
      socket wildcard 0 meta mark set 1
    insert rule inet tproxyd prerouting icmpv6 type destination-unreachable socket transparent 1 \\
      socket wildcard 0 meta mark set 1
EOF`;

  for (const source of ["self", "client"]) {
    testInLab(`nobody listens: the client is told so (--source ${source})`, async () => {
      const { stdout, proxy } = await inLab(
        `
      source=${source}
      capture
      ${source === "client" ? icmp : ""}
      forward '[::]:50053' --udp --to 10.9.2.2:9 --to '[fd00:2::2]:9' --source "$source"
      for to in 8.8.8.8 2001:db8::9; do within client python3 refused.py "$to"; done
      stop
    `,
        {
          "refused.py": `
import socket, sys
host = sys.argv[1]
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.connect((host, 53))
s.send(b"x")
try:
  s.recv(100)
except ConnectionRefusedError:
  print("refused", host)
`,
        },
      );
      expect(stdout).toContain("refused 8.8.8.8\n");
      expect(stdout).toContain("refused 2001:db8::9\n");
      const reasons = eventsOf(proxy, "forwarded").map(({ reason }) => reason);
      expect(reasons).toEqual(["unreachable", "unreachable"]);
    });
  }

  testInLab("silent ones: the session ends by itself, and gives back what it had", async () => {
    const { stdout, proxy } = await inLab(`
      background nsenter -t "$backend" -n socat -u udp6-recv:9000 open:/dev/null
      until within backend ss -Hlun | grep -q :9000; do kill -0 "$!"; done
      capture
      forward '[::]:50053' --udp --to 10.9.2.2:9000 --to '[fd00:2::2]:9000' --udp-timeout 200ms
      before=$(sockets)
      for asked in 8.8.8.8:1 8.8.8.8:2 '[2001:db8::9]:1'; do
        echo x | within client socat -u - "udp:$asked"
      done
      logged forwarded 3
      echo "left: $(($(sockets) - before))"
    `);
    expect(stdout).toContain("left: 0\n");
    const sessions = eventsOf(proxy, "forwarded");
    expect(sessions.map(({ reason }) => reason)).toEqual([
      "idle-timeout",
      "idle-timeout",
      "idle-timeout",
    ]);
    expect(sessions[0]).toMatchObject({ client_datagrams: 1, upstream_datagrams: 0 });
  });

  testInLab("a link-local client, which only its own link knows", async () => {
    const { stdout, proxy } = await inLab(
      `
      at_backend listen --udp --echo --quiet --json --answer-rate 0 '[::]:9000'
      own=$(ip -6 -o address show dev p0 scope link | awk '{ sub("/.*", "", $4); print $4 }')
      forward '[::]:50053' --udp --to 10.9.2.2:9000 --source self
      for window in 1 16; do
        within client python3 datagrams.py exchange "$own%c0" 50053 100 5,1200,1400 "$window"
      done
      stop
      forward '[::]:50053' --udp --to '[fd00:2::2]:9000'
      within client python3 datagrams.py ask "$own%c0" 50053 1 2 0.2
      # The first is about the start: nothing brings packets here.
      logged warning 2
    `,
      files,
    );
    expect(stdout).toStartWith("exchanged 100\nexchanged 100\noutcomes silence\n");
    expect(eventsOf(proxy, "warning")[1]?.text).toContain("a link-local source means nothing");
  });

  testInLab("a time-out of a port counts once there has been an answer", async () => {
    const { proxy } = await inLab(`
      at_backend listen --udp --quiet --json '[::]:9000'
      capture
      forward :50053 --udp --to 10.9.2.2:9000 --udp-timeout 53=100ms
      for port in 53 54; do
        echo x | within client socat -t20 - "udp:8.8.8.8:$port,readbytes=12"
      done
      logged forwarded 1
    `);
    expect(eventsOf(proxy, "forwarded")).toMatchObject([
      { original_destination: "8.8.8.8:53", reason: "idle-timeout" },
    ]);
  });

  testInLab("TCP and UDP together on one port", async () => {
    const { stdout, proxy } = await inLab(`
      at_backend listen --tcp --udp --json '[::]:9000'
      tproxy routes --print --in p0 --proto tcp,udp --dport 53 --to-port 50053 --reply-path \
        --dialect nft > rules.sh
      sh -e rules.sh
      forward :50053 --tcp --udp --to 10.9.2.2:9000
      echo x | within client socat -t20 - udp:8.8.8.8:53,readbytes=12
      echo x | within client socat -t20 - tcp:8.8.8.8:53
      logged forwarded 1
      stop
    `);
    expect(stdout.match(/hello world/g)).toHaveLength(2);
    expect(eventsOf(proxy, "bound").map(({ protocol }) => protocol)).toEqual(["tcp", "udp"]);
    expect(eventsOf(proxy, "forwarded").map(({ protocol }) => protocol)).toEqual(["tcp", "udp"]);
  });
});

/** Hop limits of what `forward` carries, and the loops of proxies that end by them. */

import { describe, expect } from "bun:test";
import { command } from "../helpers/three-hosts.ts";
import { eventsOf, inLab, testInLab } from "../helpers/udp-lab.ts";

/** Answers with the hop limit that a datagram has come with. */
const server = `
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
s.setsockopt(socket.IPPROTO_IP, 12, 1)
s.bind(("::", 9000))
open("ready", "w").close()
while True:
  data, control, _, peer = s.recvmsg(100, 200)
  s.sendto(b"%d" % int.from_bytes(control[0][2][:4], "little"), peer)
`;

/** Sends with these hop limits, one session; what comes back, or who tells of an ICMP error. */
const ask = `
import ipaddress, select, socket, sys
address, port, limits = sys.argv[1], int(sys.argv[2]), [int(word) for word in sys.argv[3:]]
v6 = ":" in address
s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(*((socket.IPPROTO_IPV6, 25) if v6 else (socket.IPPROTO_IP, 11)), 1)
s.connect((address, port))
told = []
for limit in limits:
  if v6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, limit)
  else: s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, limit)
  s.send(b"x")
  poll = select.poll(); poll.register(s, select.POLLIN)
  events = poll.poll(5000)
  if not events: told.append("silence"); continue
  if events[0][1] & select.POLLERR:
    _, control, _, _ = s.recvmsg(100, 500, 0x2000)
    s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    error = control[0][2]
    at = 16 + 8 if v6 else 16 + 4
    router = ipaddress.ip_address(error[at:at + (16 if v6 else 4)])
    told.append(f"{error[5]}/{error[6]} by {router}")
  else: told.append(s.recv(100).decode())
print("told", *told, sep=", ", flush=True)
`;

/**
 * Sends so many datagrams on their last hop, each of a session of its own, once an ICMP error has
 * told of the first one.
 */
const flood = `
import select, socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
v6 = ":" in address
def send():
  s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
  s.setsockopt(*((socket.IPPROTO_IPV6, 25) if v6 else (socket.IPPROTO_IP, 11)), 1)
  if v6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
  else: s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
  s.connect((address, port))
  s.send(b"x")
  return s
first = send()
poll = select.poll(); poll.register(first, 0); poll.poll(10000)
held = [send() for i in range(count)]
`;

const files = { "server.py": server, "ask.py": ask };

describe.each([
  { family: 4, asked: "8.8.8.8", to: "10.9.2.2", own: "10.9.1.1", back: "10.9.2.1" },
  { family: 6, asked: "2001:db8::8", to: "[fd00:2::2]", own: "fd00:1::1", back: "[fd00:2::1]" },
])("IPv$family", ({ family, asked, to, own, back }) => {
  testInLab("what goes on has one hop less, and with none left the client is told", async () => {
    const { stdout, proxy } = await inLab(
      `
      in_background backend python3 server.py
      until [ -e ready ]; do :; done
      capture 53
      forward '[::]:50053' --udp --to '${to}:9000'
      within client python3 ask.py ${asked} 53 64 17 1 64 2
      stop
      `,
      files,
    );
    const error = family === 4 ? "11/0" : "3/0";
    expect(stdout).toContain(`told, 63, 16, ${error} by ${own}, 63, 1\n`);
    expect(eventsOf(proxy, "warning").map(({ text }) => text)).toEqual([
      "a datagram was dropped: its hop limit was used up, as in a loop",
    ]);
  });

  testInLab(
    "one host is told as often as the kernel would tell it, however much it sends",
    async () => {
      const { stdout } = await inLab(
        `
      capture 53
      forward '[::]:50053' --udp --to '${to}:9000'
      within client python3 flood.py ${asked} 53 300
      dropped() {
        kill -USR1 "$proxy"
        tail -n 1 proxy.log | grep -Eq '"dropped_datagrams":[1-9][0-9][0-9]'
      }
      until dropped; do kill -0 "$proxy"; sleep 0.1; done
      within client cat /proc/net/snmp /proc/net/snmp6 |
        awk '/^Icmp: [0-9]/ { print "told 4", $6 } /^Icmp6InTimeExcds/ { print "told 6", $2 }'
      stop
      `,
        { "flood.py": flood },
      );
      const count = Number(new RegExp(`^told ${family} (\\d+)$`, "m").exec(stdout)?.[1]);
      // At once as many as the kernel's burst has, then one a second.
      expect(count).toBeWithin(1, 60);
    },
  );

  testInLab(
    "two proxies that forward to each other: a datagram goes round until it has no hop",
    async () => {
      const { stdout } = await inLab(
        `
      in_background backend ${command} forward '[::]:7000' --udp --source self --json \\
        --to '${back}:50053' > other.log
      until grep -q bound other.log; do :; done
      forward '[::]:50053' --udp --source self --to '${to}:7000'
      within client python3 ask.py ${own} 50053 64 &
      until grep -q "hop limit" proxy.log other.log; do kill -0 "$proxy"; done
      kill -USR1 "$proxy"; logged counters 1
      stop
      grep counters proxy.log | sed 's/^/here /' | tail -1
      `,
        files,
      );
      const counters = JSON.parse(/^here (.*)$/m.exec(stdout)?.[1] ?? "{}") as { sessions: number };
      expect(counters.sessions).toBeWithin(30, 34);
    },
  );

  testInLab("the same of TCP: a connection", async () => {
    const { stdout } = await inLab(
      `
      in_background backend ${command} forward '[::]:7000' --source self --json \\
        --to '${back}:50080' > other.log
      until grep -q bound other.log; do :; done
      forward '[::]:50080' --source self --to '${to}:7000'
      within client python3 -c 'import socket
s = socket.create_connection(("${own}", 50080), 10); s.send(b"x"); print("got", s.recv(1))' ||
        echo ended
      until grep -q "hop limit" proxy.log other.log; do kill -0 "$proxy"; done
      kill -USR1 "$proxy"; logged counters 1
      stop
      grep counters proxy.log | sed 's/^/here /' | tail -1
      `,
      files,
    );
    expect(stdout).toMatch(/^(ended|got b'')$/m);
    const counters = JSON.parse(/^here (.*)$/m.exec(stdout)?.[1] ?? "{}") as { accepted: number };
    expect(counters.accepted).toBeWithin(30, 34);
  });
});

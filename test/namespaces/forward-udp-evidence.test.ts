/** Which upstreams of UDP are left alone, by what is seen of them; and what nobody can feign. */

import { expect } from "bun:test";
import { eventsOf, inLab, testInLab } from "../helpers/udp-lab.ts";

/** Answers each datagram but f with its port. */
const server = `
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", int(sys.argv[1])))
open("ready" + sys.argv[1], "w").close()
while True:
  data, peer = s.recvfrom(100)
  if data != b"f": s.sendto(sys.argv[1].encode(), peer)
`;

/** Each session from a socket of its own, of these hosts in turns, until the log has a word. */
const askUntil = `
import json, socket, sys, time
asked, word, hosts = sys.argv[1], sys.argv[2], sys.argv[3:]
family = socket.AF_INET6 if ":" in asked else socket.AF_INET
def ask(host, timeout):
  s = socket.socket(family, socket.SOCK_DGRAM)
  s.bind((host, 0)); s.settimeout(timeout); s.connect((asked, 53)); s.send(b"x")
  try: return s.recv(100).decode()
  except TimeoutError: return "silence"
  except OSError as error: return str(error.errno)
n = 0
while word not in open("proxy.log").read():
  ask(hosts[n % len(hosts)], 0.1); n += 1
for host in hosts: print("host", host, *sorted({ask(host, 5) for i in range(6)}), flush=True)
`;

/** Sends, and then an ICMP error about it that nobody but itself has sent. */
const forge = `
import socket, struct, sys, time
mac = bytes.fromhex(sys.argv[1].replace(":", ""))
def checksum(data):
  total = sum(struct.unpack(f">{len(data) // 2}H", data))
  total = (total & 0xffff) + (total >> 16); total = (total & 0xffff) + (total >> 16)
  return ~total & 0xffff
def ip(protocol, source, destination, payload):
  header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0,
    socket.inet_aton(source), socket.inet_aton(destination))
  return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); link.bind(("c0", 0))
frame = mac + link.getsockname()[4] + b"\\x08\\x00"
me = "10.9.1.2"
for i in range(20):
  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((me, 0))
  s.sendto(b"f", ("8.8.8.8", 53))
  time.sleep(0.02)
  for port in (9000, 9001):
    udp = struct.pack(">HHHH", s.getsockname()[1], port, 9, 0)
    icmp = struct.pack(">BBHI", 3, 3, 0, 0) + ip(17, me, "10.9.2.2", udp)
    icmp = icmp[:2] + struct.pack(">H", checksum(icmp)) + icmp[4:]
    link.send(frame + ip(1, "10.9.1.77", me, icmp))
print("forged")
`;

const files = { "server.py": server, "ask.py": askUntil, "forge.py": forge };
const serve = (port: number) => `
  in_background backend python3 server.py ${port}
  until [ -e ready${port} ]; do :; done
`;

testInLab(
  "a silent upstream is left alone, for all if it is silent to several",
  async () => {
    const { stdout, proxy } = await inLab(
      `
    ${serve(9000)}
    within backend nft -f - <<'RULES'
      table inet silent {
        chain input {
          type filter hook input priority 0
          udp dport 9009 drop
        }
      }
RULES
    for n in 3 4; do
      within client ip address add 10.9.1.$n/24 dev c0
      within client ip address add fd00:1:0:$n::2/64 dev c0 nodad
      ip route add fd00:1:0:$n::/64 via fd00:1::2
    done
    capture 53
    forward '[::]:50053' --udp --to 10.9.2.2:9000 --to 10.9.2.2:9009 --quiet
    within client python3 ask.py 8.8.8.8 "backs off for 10 s for 10.9.1.2 alone" 10.9.1.2
    within client python3 ask.py 8.8.8.8 "backs off for 10 s:" 10.9.1.2 10.9.1.3 10.9.1.4
    stop
    forward '[::]:50053' --udp --to '[fd00:2::2]:9000' --to '[fd00:2::2]:9009' --quiet
    within client python3 ask.py 2001:db8::8 "off for 10 s:" fd00:1::2 fd00:1:0:3::2 fd00:1:0:4::2
    stop
    `,
      files,
    );
    const hosts = [...stdout.matchAll(/^host (\S+) (.*)$/gm)].map(([, host, got]) => [host, got]);
    const answered = ["10.9.1.2", "10.9.1.2", "10.9.1.3", "10.9.1.4"].map((host) => [host, "9000"]);
    const six = ["fd00:1::2", "fd00:1:0:3::2", "fd00:1:0:4::2"].map((host) => [host, "9000"]);
    expect(hosts.slice(0, 7)).toEqual([...answered, ...six]);
    const said = eventsOf(proxy, "warning").map(({ text }) => String(text));
    expect(said.filter((text) => text.includes("backs off") && !text.includes("9009"))).toEqual([]);
  },
  240_000,
);

testInLab("ICMP errors that a client forges harm itself alone", async () => {
  const { stdout, proxy } = await inLab(
    `
    ${serve(9000)} ${serve(9001)}
    within client ip address add 10.9.1.3/24 dev c0
    capture 53
    forward '[::]:50053' --udp --source client:port --to 10.9.2.2:9000 --to 10.9.2.2:9001 --quiet
    within client python3 forge.py "$(ip -br link show p0 | awk '{ print $3 }')"
    until grep -q "backs off" proxy.log; do kill -0 "$proxy"; done
    within client python3 ask.py 8.8.8.8 bound 10.9.1.3
    stop
    `,
    files,
  );
  expect(stdout).toContain("host 10.9.1.3 9000 9001\n");
  const said = eventsOf(proxy, "warning").map(({ text }) => String(text));
  const rests = said.filter((text) => text.includes("backs off for"));
  expect(rests).not.toEqual([]);
  for (const text of rests) expect(text).toContain("for 10.9.1.2 alone");
});

/** Ten sessions whose datagrams have one hop left behind the proxy. */
const short = `
import socket, sys
v6 = ":" in sys.argv[1]
for i in range(10):
  s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
  if v6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 2)
  else: s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 2)
  s.settimeout(5); s.connect((sys.argv[1], 53)); s.send(b"x")
  try: s.recv(100)
  except OSError: pass
`;

testInLab("hop limits that one client lets run out rest no upstream for others", async () => {
  const { proxy } = await inLab(
    `
    within backend sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    within backend ip link add far type veth peer name beyond
    within backend ip link set beyond up
    within backend ip address add 10.9.3.1/24 dev far
    within backend ip address add fd00:3::1/64 dev far nodad
    within backend ip link set far up
    ip route add 10.9.3.0/24 via 10.9.2.2
    ip route add fd00:3::/64 via fd00:2::2
    capture 53
    forward '[::]:50053' --udp --source self --to 10.9.3.8:9000 --to 10.9.3.9:9000 --quiet
    within client python3 short.py 8.8.8.8
    stop
    forward '[::]:50053' --udp --source self --to '[fd00:3::8]:9000' --to '[fd00:3::9]:9000' \\
      --quiet
    within client python3 short.py 2001:db8::8
    stop
    `,
    { "short.py": short },
  );
  const said = eventsOf(proxy, "warning").map(({ text }) => String(text));
  const rests = said.filter((text) => text.includes("backs off for"));
  expect(rests).not.toEqual([]);
  for (const text of rests) expect(text).toMatch(/for (10\.9\.1\.2|fd00:1::\S*) alone/);
});

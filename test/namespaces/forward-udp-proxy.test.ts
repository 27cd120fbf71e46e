/**
 * `forward --udp` and the PROXY protocol among three hosts: the sender of headers is at the host of
 * the client, and the backend sees those whom it names.
 */

import { describe, expect } from "bun:test";
import { canUnshare } from "../helpers/netns.ts";
import { testWith } from "../helpers/tools.ts";
import { eventsOf, inLab, testInLab } from "../helpers/udp-lab.ts";

/** `the first` or `every`: asks for two clients over one socket, checks who answers and what. */
const sender = `
import ipaddress, socket, struct, sys
to, port, way, names = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
def header(client):
  asked, family = ("2001:db8::53", 0x22) if ":" in client else ("203.0.113.53", 0x12)
  ends = b"".join(ipaddress.ip_address(end).packed for end in (client, asked))
  block = ends + struct.pack(">HH", 4242, 53)
  signature = b"\\r\\n\\r\\n\\0\\r\\nQUIT\\n"
  return signature + struct.pack(">BBH", 0x21, family, len(block)) + block
def exchange(data, wanted):
  s.sendto(data, (to, port))
  got, sender = s.recvfrom(2000)
  assert got == wanted, (got, wanted)
  assert sender[:2] == (to, port), sender
for round in range(3):
  for client in names:
    data = b"%d %s" % (round, client.encode())
    exchange(header(client) + data, data)
    if way == "the first":
      for more in (b"", b"more", b"x" * 1200):
        exchange(more, more)
print("exchanged", way)
`;

/** Then its log is complete. */
const serverEnds = 'kill "$server"; wait "$server" || :';

const families = [
  { family: "4", near: "10.9.1.1", foreign: "8.8.8.8", names: ["198.51.100.7", "198.51.100.8"] },
  {
    family: "6",
    near: "fd00:1::1",
    foreign: "2001:db8::9",
    names: ["2001:db8:1::7", "2001:db8:1::8"],
  },
] as const;

const inUrl = (address: string) => (address.includes(":") ? `[${address}]` : address);
const portless = (address: unknown) => `${address}`.replace(/:\d+$/, "").replace(/[[\]]/g, "");

describe.each(families)("IPv$family", ({ near, foreign, names }) => {
  const network = inUrl(near).includes("[") ? "fd00:1::/64" : "10.9.1.0/24";
  const backend = near === "10.9.1.1" ? "10.9.2.2" : "[fd00:2::2]";

  for (const way of ["every", "the first"]) {
    for (const [what, to, port] of [
      ["the listener's address", near, 50053],
      ["an address that is captured", foreign, 7],
    ] as const) {
      testInLab(`a header in front of ${way} datagram, to ${what}`, async () => {
        const {
          stdout,
          proxy,
          backend: seen,
        } = await inLab(
          `
          at_backend listen --udp --echo --json '[::]:9000'
          capture
          forward '[::]:50053' --udp --to '${backend}:9000' --accept-proxy=${network}
          within client python3 sender.py '${to}' ${port} '${way}' ${names.join(" ")}
          stop
          ${serverEnds}
        `,
          { "sender.py": sender },
        );
        expect(stdout).toContain(`exchanged ${way}\n`);
        const datagrams = way === "every" ? 3 : 12;
        const sessions = eventsOf(proxy, "forwarded");
        const destination = `${inUrl(near === "10.9.1.1" ? "203.0.113.53" : "2001:db8::53")}:53`;
        expect(sessions.map((session) => [session.client, session.client_datagrams])).toEqual(
          names.map((name) => [`${inUrl(name)}:4242`, datagrams]),
        );
        for (const session of sessions) {
          expect(session).toMatchObject({
            original_destination: destination,
            source: "client",
            upstream_datagrams: datagrams,
          });
        }
        // A socket for each client, with its address.
        const clients = new Set(eventsOf(seen, "datagram").map(({ client }) => client));
        expect([...clients].map(portless)).toEqual([...names]);
        expect(eventsOf(proxy, "warning")).toEqual([]);
      });
    }
  }
});

/** Sends from one address; what comes back is what was sent. */
const exchange = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.bind((sys.argv[1], 0))
s.connect((sys.argv[2], int(sys.argv[3])))
for data in (b"one", b"", b"x" * 1200, b"four"):
  s.send(data)
  got = s.recv(2000)
  assert got == data, got
print("exchanged")
`;

const nginxConfiguration = `
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
master_process off;
pid nginx.pid;
error_log stderr;
events { worker_connections 1024; }
stream {
  server {
    listen 10.9.1.2:5300 udp;
    listen [fd00:1::2]:5300 udp;
    proxy_pass 10.9.1.1:50053;
    proxy_protocol on;
  }
}
`;

const withNginx = testWith(["ip", "nft", "nsenter", "python3", "nginx"], {
  "network namespaces": canUnshare,
});

describe("real senders", () => {
  withNginx("nginx's proxy_protocol on: the backend sees nginx's clients", async () => {
    const {
      stdout,
      proxy,
      backend: seen,
    } = await inLab(
      `
      within client ip address add 10.9.1.77/24 dev c0
      within client ip address add 10.9.1.78/24 dev c0
      at_backend listen --udp --echo --json '[::]:9000'
      capture
      forward '[::]:50053' --udp --to 10.9.2.2:9000 --accept-proxy=10.9.1.2
      in_background client nginx -p . -c nginx.conf 2> nginx.err
      nginx=$!
      until within client ss -Huln sport = :5300 | grep -q 10.9.1.2; do kill -0 "$nginx"; done
      for address in 10.9.1.77 10.9.1.78; do
        within client python3 exchange.py "$address" 10.9.1.2 5300
      done
      stop
      ${serverEnds}
    `,
      { "nginx.conf": nginxConfiguration, "exchange.py": exchange },
    );
    expect(stdout.match(/exchanged/g)).toHaveLength(2);
    expect(eventsOf(proxy, "forwarded").map(({ client }) => portless(client))).toEqual([
      ...["10.9.1.77", "10.9.1.78"],
    ]);
    const clients = new Set(eventsOf(seen, "datagram").map(({ client }) => portless(client)));
    expect([...clients]).toEqual(["10.9.1.77", "10.9.1.78"]);
    expect(eventsOf(proxy, "warning")).toEqual([]);
  });

  const withDnsdist = testWith(["ip", "nft", "nsenter", "dig", "dnsmasq", "dnsdist"], {
    "network namespaces": canUnshare,
  });

  withDnsdist("dnsdist: many clients over one socket, each has its own answer", async () => {
    const { stdout, proxy } = await inLab(
      `
      for i in 70 71 72 73 74 75 76 77; do
        within client ip address add "10.9.1.$i/24" dev c0
      done
      background nsenter -t "$backend" -n sh -c 'exec dnsmasq --conf-file=/dev/null --no-resolv \\
        --no-hosts --keep-in-foreground --address=/example.com/192.0.2.77 --log-queries \\
        --log-facility=- --user=root > dns.log 2>&1'
      until grep -q started dns.log; do :; done
      capture
      forward '[::]:50053' --udp --to 10.9.2.2:53 --accept-proxy=10.9.1.2
      in_background client dnsdist --supervised --disable-syslog -C dnsdist.conf > dnsdist.log 2>&1
      dnsdist=$!
      until within client ss -Huln sport = :5300 | grep -q 10.9.1.2; do kill -0 "$dnsdist"; done
      for i in 70 71 72 73 74 75 76 77; do
        within client dig -b "10.9.1.$i" +short +tries=1 +time=10 -p 5300 @10.9.1.2 \\
          "n$i.example.com" &
        digs="\${digs:-} $!"
      done
      for dig in $digs; do wait "$dig"; done
      stop
      grep 'query\\[A\\] n' dns.log
    `,
      {
        "dnsdist.conf": `
          setLocal("10.9.1.2:5300")
          setSecurityPollSuffix("")
          newServer{
            address="10.9.1.1:50053", useProxyProtocol=true, sockets=1, healthCheckMode="up"
          }
        `,
      },
    );
    expect(stdout.match(/^192\.0\.2\.77$/gm)).toHaveLength(8);
    for (let i = 70; i < 78; i++) {
      expect(stdout).toContain(`query[A] n${i}.example.com from 10.9.1.${i}\n`);
    }
    expect(eventsOf(proxy, "warning")).toEqual([]);
  });
});

describe("a real reader", () => {
  const withUnbound = testWith(["ip", "nft", "nsenter", "dig", "unbound"], {
    "network namespaces": canUnshare,
  });

  withUnbound("unbound wants --send-proxy v2:every, and sees the client each time", async () => {
    const { stdout, proxy } = await inLab(
      `
      in_background backend unbound -d -c "$PWD/unbound.conf" > unbound.log 2>&1
      unbound=$!
      until grep -q 'start of service' unbound.log; do kill -0 "$unbound"; done
      capture
      forward '[::]:50053' --udp --to 10.9.2.2:5353 --source self --send-proxy v2:every \\
        --udp-timeout 53=60s
      for i in 1 2; do
        within client dig -b 10.9.1.2#40001 +short +tries=1 +time=10 @8.8.8.8 "n$i.example.com"
        within client dig -b fd00:1::2#40001 +short +tries=1 +time=10 @2001:db8::9 "n$i.example.com"
      done
      stop
      grep 'info: .* n[12]' unbound.log
    `,
      { "unbound.conf": unboundConfiguration },
    );
    expect(stdout.match(/^192\.0\.2\.77$/gm)).toHaveLength(4);
    for (const name of ["n1", "n2"]) {
      for (const client of ["10.9.1.2", "fd00:1::2"]) {
        expect(stdout).toContain(`info: ${client} ${name}.example.com. A IN\n`);
      }
    }
    const sessions = eventsOf(proxy, "forwarded");
    expect(sessions.map(({ client_datagrams }) => client_datagrams)).toEqual([2, 2]);
  });
});

const unboundConfiguration = `
server:
  interface: 10.9.2.2@5353
  proxy-protocol-port: 5353
  access-control: 10.9.1.2/32 allow
  access-control: fd00:1::2/128 allow
  access-control: 10.9.2.1/32 allow
  module-config: "iterator"
  username: ""
  chroot: ""
  pidfile: ""
  use-syslog: no
  logfile: ""
  log-queries: yes
  local-zone: "example.com." redirect
  local-data: "example.com. A 192.0.2.77"
`;

/**
 * A large answer to a client behind a narrower path, and one of a backend behind such a path: the
 * ICMP errors that say so go to addresses of others, and are heard here, whoever listens.
 */

import { describe, expect } from "bun:test";
import { command, families, inLab, testInLab } from "../helpers/forward-lab.ts";
import { ruleFunctions } from "../helpers/rules.ts";

const testPath = testInLab(["curl", "haproxy", "socat"]);

/** A client `far` beyond the client's host, whose link to it is narrower than far itself thinks. */
const beyond = `
${ruleFunctions}
routes --remove > removed.log
namespace far
ip link add n0 type veth peer name f0
eval "ip link set n0 netns $client; ip link set f0 netns $far"
narrow() {
  within client sh -c 'echo 0 > /proc/sys/net/ipv6/conf/n0/accept_dad
    echo 1 > /proc/sys/net/ipv4/ip_forward
    echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
    ip link set n0 up mtu 1300
    ip address add 10.9.4.1/24 dev n0
    ip address add fd00:4::1/64 dev n0 nodad'
  within far sh -c 'echo 0 > /proc/sys/net/ipv6/conf/f0/accept_dad
    ip link set f0 up
    ip address add 10.9.4.2/24 dev f0
    ip address add fd00:4::2/64 dev f0 nodad
    ip route add default via 10.9.4.1
    ip route add default via fd00:4::1'
}
narrow
ip route add 10.9.4.0/24 via 10.9.1.2
ip -6 route add fd00:4::/64 via fd00:1::2
large() { within far curl -sS --max-time 10 --http0.9 "$@" | wc -c; }
head -c 60000 /dev/zero | tr '\\0' x > large
`;

/** A listener of our own port 50080 that answers with the file. */
const haproxy = `
global
  tune.bufsize 131072
defaults
  mode http
  timeout connect 5s
  timeout client 10s
  timeout server 10s
frontend all
  bind :::50080 v4v6 transparent
  http-request return status 200 content-type text/plain file large
`;

describe.each(families)("IPv$family", ({ family, asked, backend }) => {
  testPath("a client behind a narrower path gets all of a large answer", async () => {
    const { stdout } = await inLab(
      `${beyond}
      haproxy -db -f haproxy.cfg > haproxy.log 2>&1 &
      proxy=$!
      started="$started $proxy"
      until_true sh -c 'ss -Hltn | grep -q :50080'
      routes --apply --in p0 --dport 80 --to-port 50080 > applied.log
      echo "HAProxy: $(large 'http://${asked}/')"
      routes --remove > removed.log
      kill "$proxy"; wait "$proxy" || :
      ${command} listen --quiet --reply-file large '[::]:80' > listen.log &
      proxy=$!
      started="$started $proxy"
      until_true grep -q Bound listen.log
      # By the mark alone, and with what iptables makes of it.
      routes --print --in p0 --dport 80 --dialect iptables > apply.sh
      sh -e apply.sh
      echo "listen: $(large 'http://${asked}/')"
      routes --print --in p0 --dport 80 --dialect iptables --undo > undo.sh
      sh -e undo.sh
      kill "$proxy"; wait "$proxy" || :
      at_backend listen --quiet --json --reply-file large '[::]:8080'
      forward '[::]:80' --to '${backend}:8080' --source self --routes auto --in p0
      echo "forward: $(large 'http://${asked}/')"
    `,
      { "haproxy.cfg": haproxy },
    );
    expect(stdout).toStartWith("HAProxy: 60000\nlisten: 60000\nforward: 60000\n");
  });

  testPath("an upstream behind a narrower path gets all that its client sends", async () => {
    const far = family === "4" ? "10.9.4.2" : "[fd00:4::2]";
    const { stdout } = await inLab(`${beyond}
      nsenter -t "$far" -n ${command} listen --json --discard '[::]:8080' > far.log &
      started="$started $!"
      eventually grep -q bound far.log
      forward '[::]:80' --to '${far}:8080' --routes auto --in p1
      background nsenter -t "$backend" -n socat -u FILE:large 'tcp:${asked}:80'
      until_true grep -o '"client_bytes":60000' far.log
    `);
    expect(stdout).toStartWith('"client_bytes":60000\n');
  });
});

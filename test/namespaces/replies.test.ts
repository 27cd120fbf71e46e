/**
 * Replies are told from requests by their socket: those to captured ports arrive, and what is not
 * captured goes on, whatever sockets have its destination.
 */

import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { families } from "../helpers/forward-lab.ts";
import { ruleFunctions } from "../helpers/rules.ts";
import { command } from "../helpers/three-hosts.ts";
import { eventsOf, inLab, testInLab } from "../helpers/udp-lab.ts";

/** A third host, whose packets are not captured and go on to the real destination. */
const other = (asked: string, backend: string) => `
namespace other
veth other p2 o0
ip address add 10.9.3.1/24 dev p2
ip address add fd00:3::1/64 dev p2 nodad
within other ip address add 10.9.3.2/24 dev o0
within other ip address add fd00:3::2/64 dev o0 nodad
within other ip route add default via 10.9.3.1
within other ip route add default via fd00:3::1
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
within backend ip address add '${asked}' dev lo
ip route add '${asked}' via '${backend}'
`;

/** An unconnected socket to answer from, as proxies of UDP have them. */
const holder = `
import socket, sys, time
v6 = ":" in sys.argv[1]
s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
# IPV6_TRANSPARENT, IP_TRANSPARENT
s.setsockopt(socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP, 75 if v6 else 19, 1)
s.bind((sys.argv[1], 53))
print("Bound", flush=True)
time.sleep(60)
`;

const files = {
  "holder.py": holder,
  "datagrams.py": readFileSync(new URL("datagrams.py", import.meta.url), "utf8"),
};

/** A server at port 5060, and a client that asks it from any port. */
const phones = (asked: string) => `
in_background backend python3 datagrams.py echo 5060
from() { echo hello | within client socat -t0.3 - "udp:${asked}:5060,sourceport=$1"; }
answers() { [ "$(from "$1")" = hello ]; }
`;

const bare = (address: string) => address.replace(/[[\]]/g, "");

describe.each(families)("IPv$family", ({ asked, backend, client }) => {
  testInLab("UDP to every port, from one port to itself, by one interface or by any", async () => {
    const { stdout, proxy } = await inLab(
      `${ruleFunctions}
      in_background backend python3 datagrams.py echo 7777
      ${phones(asked)}
      asks() { within client python3 datagrams.py ask '${bare(asked)}' "$@" 2; }
      for options in '--in p0 --dport 1-65535' '--dport 1-65535'; do
        forward '[::]:5300' --udp --to '${backend}:7777' --routes auto $options
        eventually asks 7777 1 1
        echo "$options: $(asks 7777 4 1)"
        stop
        forward '[::]:5300' --udp --to '${backend}:5060' --source client:port --routes auto $options
        for port in 5060 5061; do eventually answers "$port"; echo "answered at $port"; done
        stop
      done
    `,
      files,
    );
    for (const options of ["--in p0 --dport 1-65535", "--dport 1-65535"]) {
      expect(stdout).toContain(
        `${options}: outcomes 0 0 0 0\nanswered at 5060\nanswered at 5061\n`,
      );
    }
    // Of a one-armed capture, too, a reply belongs to its session and begins none.
    const sessions = eventsOf(proxy, "forwarded").map((each) => each.client);
    expect(sessions).toEqual([`${client}:5060`, `${client}:5061`]);
  });

  testInLab("by iptables, which tells replies to captured ports by conntrack", async () => {
    const { stdout } = await inLab(
      `${ruleFunctions}${phones(asked)}
      set -- --dialect iptables --in p0 --proto udp --dport 5060,7000-8000 --to-port 5300 \\
        --reply-path
      routes --print "$@" > apply.sh
      routes --print "$@" --undo > undo.sh
      dump before
      sh -e apply.sh
      forward '[::]:5300' --udp --to '${backend}:5060' --source client:port
      for port in 5060 5061; do eventually answers "$port"; echo "answered at $port"; done
      stop
      sh -e undo.sh
      dump after; same before after undone
    `,
      files,
    );
    expect(stdout).toMatch(/answered at 5060\nanswered at 5061\nundone: same\n/);
  });

  testInLab(
    "what is not captured reaches its destination, beside a socket that has it",
    async () => {
      const { stdout } = await inLab(
        `${ruleFunctions}${other(bare(asked), bare(backend))}
      in_background backend ${command} listen --quiet --udp '[::]:53' --reply real > real.log
      in_background backend ${command} listen --quiet --reply real '[::]:80' > real.log
      ${command} listen --udp '[::]:50053' --reply ours > ours.log &
      started="$started $!"
      ${command} listen --echo --quiet '${asked}:80' > bound.log &
      started="$started $!"
      background python3 holder.py '${bare(asked)}' > held.log
      for log in bound.log held.log; do eventually grep -q Bound $log; done
      routes --apply --proto udp --in p0 --dport 53 --to-port 50053 --reply-path > applied.log
      routes --apply --table-name tproxyd-two --mark 2/2 --table 200 --priority 200 --in p0 \\
        --dport 80 --reply-path --force > applied.log
      says() { echo question | within "$1" socat -t20 - "udp:${asked}:53,readbytes=5"; }
      is() { [ "$(says "$1")" = "$2" ]; }
      eventually is client ours
      eventually is other real
      says client
      says other
      talk() { (echo one; sleep 0.2; echo two) | within other socat -t20 - 'tcp:${asked}:80'; }
      talk
      # Both sockets are there: what is captured still gets to them.
      echo mine | within client socat -t20 - 'tcp:${asked}:80'
    `,
        files,
      );
      expect(stdout).toStartWith("ours\nreal\nreal\nmine\n");
    },
  );
});

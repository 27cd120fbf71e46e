/** What `forward --udp` does to datagrams: nothing. Whole, in order, each to whom it is for. */

import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { canUnshare } from "../helpers/netns.ts";
import { testWith } from "../helpers/tools.ts";
import { eventsOf, inLab, testInLab } from "../helpers/udp-lab.ts";

const files = {
  "datagrams.py": readFileSync(join(import.meta.dir, "datagrams.py"), "utf8"),
};

const testTraced = testWith(["ip", "nft", "nsenter", "python3", "strace"], {
  "network namespaces": canUnshare,
});

const serve = (program: string) => `
  in_background backend python3 datagrams.py ${program} 9000 > server.log
  until grep -q bound server.log; do kill -0 "$!"; done
`;
const upstreams = "--to 10.9.2.2:9000 --to '[fd00:2::2]:9000'";

describe.each([
  { family: "4", asked: "8.8.8.8" },
  { family: "6", asked: "2001:db8::9" },
])("IPv$family", ({ asked }) => {
  testInLab("numbered datagrams of all sizes, both ways at once, to another port", async () => {
    const seed = Math.floor(Math.random() * 1e9);
    const { stdout, proxy } = await inLab(
      `
      ${serve("streams-server")}
      capture 443,50053
      forward '[::]:50053' --udp ${upstreams}
      echo "seed ${seed}"
      within client python3 datagrams.py streams '${asked}' 443 6 800 ${seed}
      within client python3 datagrams.py streams '${asked}' 50053 6 800 ${seed}
      stop
    `,
      files,
    );
    expect(stdout.match(/whole 6/g)).toHaveLength(2);
    expect(eventsOf(proxy, "warning")).toEqual([]);
    const sessions = eventsOf(proxy, "forwarded");
    expect(sessions.map(({ reason }) => reason)).toEqual(Array(12).fill("stopped"));
    for (const each of sessions) expect(each.upstream_datagrams).toBeGreaterThanOrEqual(800);
  });

  testInLab("what comes in fragments, by the rules that the command puts in itself", async () => {
    const { stdout, proxy } = await inLab(
      `
      ${serve("echo")}
      for options in '[::]:53' '[::]:50053 --dport 53'; do
        forward --udp $options ${upstreams} --routes auto --in p0
        echo "$options $(within client python3 datagrams.py ask '${asked}' 53 3 8000)"
        stop
      done
    `,
      files,
    );
    expect(stdout).toContain("[::]:53 outcomes 8000 8000 8000\n");
    expect(stdout).toContain("[::]:50053 --dport 53 outcomes 8000 8000 8000\n");
    expect(eventsOf(proxy, "forwarded")).toMatchObject([
      { client_datagrams: 3, client_bytes: 24_000 },
    ]);
  });

  testTraced("whom the kernel gives a socket that is not yet connected: each its own", async () => {
    const { stdout } = await inLab(
      `
      ${serve("echo")}
      tproxy routes --print --in p0 --proto udp --dport 50053 --family both --reply-path \
        --dialect nft > rules.sh
      sh -e rules.sh
      forward '[::]:50053' --udp ${upstreams}
      # Time for others to send to what is bound and not connected.
      background strace -f -qq -o /dev/null -e trace=connect -e inject=connect:delay_enter=20000 \
        -p "$proxy"
      tracer=$!
      until ! grep -h TracerPid /proc/"$proxy"/task/*/status | grep -qv "TracerPid:.$tracer"; do
        kill -0 "$tracer"
      done
      within client python3 datagrams.py beside '${asked}' 50053
      # A tracer that is ended first would take the signal with it.
      stop
    `,
      files,
    );
    expect(stdout).toContain("each its own\n");
  });
});

/** Another host, behind the one of `side`, over a link that carries less than all others. */
const narrow = (side: "client" | "backend", near: string, far: string) => `
  namespace inner
  ip link add q0 type veth peer name q1
  ip link set q0 netns "$${side}"
  ip link set q1 netns "$inner"
  within ${side} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward
    echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
    echo 0 > /proc/sys/net/ipv6/conf/q0/accept_dad
    ip address add 10.9.8.1/24 dev q0; ip address add fd00:8::1/64 dev q0 nodad
    ip link set q0 up mtu 1300'
  within inner sh -c 'echo 0 > /proc/sys/net/ipv6/conf/q1/accept_dad
    ip address add 10.9.8.2/24 dev q1; ip address add fd00:8::2/64 dev q1 nodad
    ip link set q1 up mtu 1300
    ip route add default via 10.9.8.1; ip route add default via fd00:8::1'
  ip route add 10.9.8.0/24 via ${near}
  ip route add fd00:8::/64 via ${far}
`;

describe("where a path further on carries less", () => {
  // Over IPv6 the first is lost, and through the listener one more.
  const ask = (host: string) => `ask() {
    ip route flush cache
    ip -6 route flush cache
    case $1 in
      *.*) within ${host} python3 datagrams.py ask "$1" "$2" 5 1400 ;;
      *) within ${host} python3 datagrams.py insist "$1" "$2" 1400 ;;
    esac
  }`;

  testInLab("to the upstream: no session ends, and over IPv4 nothing is lost", async () => {
    const { stdout, proxy } = await inLab(
      `
      ${narrow("backend", "10.9.2.2", "fd00:2::2")}
      ${ask("client")}
      in_background inner python3 datagrams.py echo 9000 > server.log
      until grep -q bound server.log; do kill -0 "$!"; done
      capture 53
      for source in client self; do
        for to in 10.9.8.2 '[fd00:8::2]'; do
          forward '[::]:50053' --udp --to "$to:9000" --source "$source"
          case $to in 1*) asked=8.8.8.8 ;; *) asked=2001:db8::9 ;; esac
          echo "$source $to $(ask "$asked" 53)"
          stop
          grep '"forwarded"' proxy.log >> all.log
        done
      done
      mv all.log proxy.log
    `,
      files,
    );
    for (const source of ["client", "self"]) {
      expect(stdout).toContain(`${source} 10.9.8.2 outcomes 1400 1400 1400 1400 1400\n`);
      expect(stdout).toContain(`${source} [fd00:8::2] outcomes 1400\n`);
    }
    const reasons = eventsOf(proxy, "forwarded").map(({ reason }) => reason);
    expect(reasons).toEqual(Array(4).fill("stopped"));
  });

  testInLab("to the client: through the listener, by a socket, and as raw packets", async () => {
    const { stdout, proxy } = await inLab(
      `
      ${narrow("client", "10.9.1.2", "fd00:1::2")}
      ${ask("inner")}
      ${serve("echo")}
      background socat -u udp6-recv:54 open:/dev/null
      until ss -uln 2>/dev/null | grep -q ':54 '; do :; done
      forward '[::]:50053' --udp ${upstreams} --source self \
        --routes auto --in p0 --dport 53,54,50053
      for port in 53 54 50053; do echo "$port $(ask 8.8.8.8 "$port")"; done
      for port in 53 50053; do echo "$port $(ask 2001:db8::9 "$port")"; done
      stop
    `,
      files,
    );
    for (const port of [53, 54, 50053]) {
      expect(stdout).toContain(`${port} outcomes 1400 1400 1400 1400 1400\n`);
    }
    for (const port of [53, 50053]) expect(stdout).toContain(`${port} outcomes 1400\n`);
    const reasons = eventsOf(proxy, "forwarded").map(({ reason }) => reason);
    expect(reasons).toEqual(Array(5).fill("stopped"));
  });
});

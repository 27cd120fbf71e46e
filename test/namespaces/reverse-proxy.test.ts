/**
 * A reverse proxy on an address of this host, whose upstreams see the clients: it needs the reply
 * path, and nothing of what passes through this host may be captured for it.
 */

import { describe, expect } from "bun:test";
import { command, families, inLab, nginxConfiguration, testInLab } from "../helpers/forward-lab.ts";
import { ruleFunctions } from "../helpers/rules.ts";
import { eventsOf } from "../helpers/udp-lab.ts";

const testReverse = testInLab(["curl", "nginx", "socat"]);

const nginx = (own: string, backend: string) =>
  nginxConfiguration(`
  server {
    listen ${own}:8080;
    location / {
      proxy_bind $remote_addr transparent;
      proxy_pass http://${backend}:8080;
    }
  }
`);

/** The host with that address is behind this one, and this one is a router. */
const routed = (asked: string, backend: string) => `
${ruleFunctions}
routes --remove > removed.log
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
within backend ip address add '${asked}' dev lo
ip route add '${asked}' via '${backend}'
dump before
curling() { within client curl -sS --max-time 10 "$@"; }
`;

describe.each(families)("IPv$family", ({ family, asked, client, backend }) => {
  const own = family === "4" ? "10.9.1.1" : "[fd00:1::1]";
  const bare = (address: string) => address.replace(/[[\]]/g, "");
  const answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
  const files = { "nginx.conf": nginx(own, backend), answer };
  /** Whom the backend saw, and where each wanted to go. */
  const seen = (log: readonly Record<string, unknown>[], event: string) =>
    eventsOf(log, event).map((each) => [String(each.client), each.original_destination]);

  testReverse("nginx with proxy_bind: one command, which captures nothing", async () => {
    const { stdout, backend: log } = await inLab(
      `${routed(bare(asked), bare(backend))}
      mkdir temp
      at_backend listen --json --reply-file answer '[::]:8080'
      nginx -p "$PWD" -c nginx.conf &
      started="$started $!"
      eventually curl -so /dev/null --max-time 1 'http://${own}:8080/none'
      doctor() { ${command} doctor "$@" | grep -E '(ok|FAILURE) +way back' | cut -c3-10; }
      doctor --proto tcp --backend '${backend}:8080'
      routes --apply --reply-path > applied.log
      doctor --proto tcp --backend '${backend}:8080'
      routes --check --reply-path
      nft list ruleset | grep -c 'tproxyd: capture' || :
      for host in '${own}' '${asked}'; do curling "http://$host:8080/"; done
      routes --remove > removed.log
      dump after; same before after removed
    `,
      files,
    );
    expect(stdout).toStartWith("FAILURE \nok      \nas it should be\n0\nok\nok\nremoved: same\n");
    const last = seen(log, "accepted").slice(-2);
    expect(last.map(([, to]) => to)).toEqual([`${backend}:8080`, `${asked}:8080`]);
    for (const [from] of last) expect(from).toStartWith(client);
  });

  testReverse("forward --routes auto on an own address, of both protocols", async () => {
    const { stdout, backend: log } = await inLab(
      `${routed(bare(asked), bare(backend))}
      at_backend listen --json --tcp --udp --reply ok '[::]:8080'
      forward '${own}:8080' --tcp --udp --to '${backend}:8080' --routes auto
      nft list ruleset | grep -c 'tproxyd: capture' || :
      for host in '${own}' '${asked}'; do
        curling --http0.9 "http://$host:8080/"
        echo question | within client socat -t20 - "udp:$host:8080,readbytes=3"
      done
      kill "$proxy"; wait "$proxy"
      dump after; same before after removed
    `,
      files,
    );
    expect(stdout).toStartWith("0\nok\nok\nok\nok\nremoved: same\n");
    const destinations = [`${backend}:8080`, `${asked}:8080`];
    for (const event of ["accepted", "datagram"]) {
      expect(seen(log, event).map(([, to]) => to)).toEqual(destinations);
      for (const [from] of seen(log, event)) expect(from).toStartWith(client);
    }
  });
});

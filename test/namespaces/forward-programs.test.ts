/**
 * `forward` among the programs that it works with: curl, wrk and iperf3 through it, nginx behind it
 * and HAProxy in front of it, both with the PROXY protocol. What nginx logs is what it saw.
 */

import { describe, expect } from "bun:test";
import { families, find, inLab, nginxConfiguration, testInLab } from "../helpers/forward-lab.ts";

/** nginx: 8080 plain, 8081 behind the PROXY protocol. */
const nginx = nginxConfiguration(`
  log_format seen '$server_port $remote_addr $proxy_protocol_addr:$proxy_protocol_port '
    '$proxy_protocol_server_addr:$proxy_protocol_server_port $status $request_uri';
  access_log nginx.log seen;
  server {
    listen 8080 backlog=1024;
    listen [::]:8080 backlog=1024;
    listen 8081 proxy_protocol;
    listen [::]:8081 proxy_protocol;
    location / { return 200 "from nginx\n"; }
  }
`);

/** HAProxy on the client's host: one port for each version of the header. */
const haproxy = (to: string) => `
defaults
  mode tcp
  timeout connect 5s
  timeout client 10s
  timeout server 10s
frontend one
  bind :::8001 v4v6
  default_backend one
backend one
  server proxy ${to}:80 send-proxy
frontend two
  bind :::8002 v4v6
  unique-id-format %{+X}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
  default_backend two
backend two
  server proxy ${to}:80 send-proxy-v2 proxy-v2-options crc32c,unique-id
`;

const start = `
  mkdir temp
  touch nginx.log
  in_background backend nginx -p "$PWD" -c nginx.conf
  until within backend curl -so /dev/null http://127.0.0.1:8080/ready; do :; done
  start_haproxy() {
    in_background client haproxy -db -f haproxy.cfg
    until within client ss -Hltn | grep -q :8002; do :; done
  }
  fetch() { within client curl -sS --max-time 10 "$@"; }
`;

const lines = (text: string, prefix: string) =>
  text.split("\n").filter((line) => line.startsWith(prefix));

describe.each(families)("IPv$family", ({ family, asked, client, backend }) => {
  const bare = (address: string) => address.replace(/[[\]]/g, "");
  const files = { "nginx.conf": nginx, "haproxy.cfg": haproxy(bare(asked)) };
  /** Another address of the client's host, never chosen unasked: whoever comes by HAProxy. */
  const user = family === "4" ? "10.9.1.77" : "fd00:1::77";
  const addUser = `
    within client ip address add ${user}/${family === "4" ? 24 : "64 nodad"} dev c0 preferred_lft 0
  `;
  const bind = family === "4" ? ":50080" : "[::]:50080";

  testInLab(["nginx", "curl", "wrk"])("wrk to nginx, which logs the client", async () => {
    const { stdout, proxy } = await inLab(
      `${start}
      forward '${bind}' --to '${backend}:8080'
      fetch 'http://${asked}/curl'
      fetch -H 'Connection: close' 'http://${asked}/close'
      within client wrk -t1 -c64 -d1s 'http://${asked}/keep'
      within client wrk -t1 -c32 -d1s -H 'Connection: close' 'http://${asked}/churn'
      settled
      echo "pipes $(descriptors pipe:)"
      cut -d' ' -f1,2,5,6 nginx.log | grep -v /ready | sort | uniq -c | sed 's/^ */seen /'`,
      files,
    );
    expect(stdout).not.toContain("Socket errors");
    expect(stdout).not.toContain("Non-2xx");
    const seen = lines(stdout, "seen ").map((line) => line.split(" ").slice(2).join(" "));
    expect(seen).toEqual(
      ["/churn", "/close", "/curl", "/keep"].map((path) => `8080 ${bare(client)} 200 ${path}`),
    );
    const carried = proxy.filter(({ event }) => event === "forwarded");
    expect(carried.length).toBeGreaterThan(100);
    // wrk lets go of what it has open at its end: with unread bytes that is a reset.
    const errors = new Set(carried.map(({ ended_by, reason }) => `${reason} by ${ended_by}`));
    errors.delete("reset by client");
    expect([...errors].filter((each) => !each.startsWith("done by "))).toEqual([]);
  });

  testInLab(["iperf3"])("iperf3, both ways at once", async () => {
    const { stdout } = await inLab(
      `
      in_background backend iperf3 -s -1 -J > server.json
      until within backend ss -Hltn | grep -q :5201; do :; done
      forward '${bind}' --to '${backend}:5201'
      within client iperf3 -c '${bare(asked)}' -p 80 --bidir -P 4 -t 1 -J > client.json
      settled
      echo "client $(tr -d '\\n\\t' < client.json)"
      echo "server $(tr -d '\\n\\t' < server.json)"
    `,
    );
    const [ours, theirs] = ["client ", "server "].map((name) =>
      JSON.parse(lines(stdout, name)[0]?.slice(name.length) ?? ""),
    );
    expect(theirs.start.accepted_connection.host).toBe(bare(client));
    expect(ours.error).toBeUndefined();
    expect(ours.end.sum_sent.bytes).toBeGreaterThan(0);
    expect(ours.end.sum_received_bidir_reverse.bytes).toBeGreaterThan(0);
  });

  testInLab(["nginx", "curl"])("--send-proxy v1 and v2 to nginx", async () => {
    const { stdout } = await inLab(
      `${start}
      forward '${bind}' --to '${backend}:8081' --send-proxy v1
      fetch --local-port 40001 'http://${asked}/one'
      kill "$proxy"; wait "$proxy" || :
      forward '${bind}' --to '${backend}:8081' --send-proxy v2 --source self
      fetch --local-port 40002 'http://${asked}/two'
      sed 's/^/seen /' nginx.log`,
      files,
    );
    const own = bare(backend).replace(/2$/, "1");
    const from = `${bare(client)}:4000`;
    expect(lines(stdout, "seen 8081")).toEqual([
      `seen 8081 ${bare(client)} ${from}1 ${bare(asked)}:80 200 /one`,
      `seen 8081 ${own} ${from}2 ${bare(asked)}:80 200 /two`,
    ]);
  });

  testInLab(["nginx", "curl", "haproxy"])("--accept-proxy behind HAProxy, v1 and v2", async () => {
    const { stdout, proxy } = await inLab(
      `${start}
      ${addUser}
      forward '${bind}' --to '${backend}:8080' --accept-proxy='${bare(client)}'
      start_haproxy
      fetch --interface '${user}' 'http://${client}:8001/one'
      fetch --interface '${user}' 'http://${client}:8002/two'
      ended 2
      kill "$proxy"; wait "$proxy" || :
      cp proxy.log first.log
      forward '${bind}' --to '${backend}:8081' --accept-proxy --send-proxy v2
      fetch --interface '${user}' --local-port 40003 'http://${client}:8002/three'
      ended
      cat first.log >> proxy.log
      grep -v /ready nginx.log | sed 's/^/seen /'`,
      files,
    );
    expect(lines(stdout, "seen ")).toEqual([
      `seen 8080 ${user} -:- -:- 200 /one`,
      `seen 8080 ${user} -:- -:- 200 /two`,
      `seen 8081 ${user} ${user}:40003 ${bare(client)}:8002 200 /three`,
    ]);
    const errors = proxy.filter(({ event, reason }) => event === "forwarded" && reason !== "done");
    expect(errors).toEqual([]);
    expect(find(proxy, "warning")).toBeUndefined();
  });
});

/**
 * `forward` between two others: client – proxy – backend, each in a namespace of its own, over
 * veth. The backend's only way to the client is through the proxy. Real clients and servers.
 */

import { describe, expect } from "bun:test";
import { command, families, find, inLab, testInLab } from "../helpers/forward-lab.ts";

/** Sends a byte, sees it come back, and closes with a reset. */
const reset = `
import socket, struct
s = socket.create_connection(("8.8.8.8", 80), timeout=10)
s.sendall(b"x")
assert s.recv(1) == b"x"
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
s.close()
`;

const testTraffic = testInLab(["socat", "curl", "sha256sum", "python3"]);

describe.each(families)("IPv$family", ({ asked, client, backend }) => {
  testTraffic("the backend sees the client's own address", async () => {
    const {
      stdout,
      proxy,
      backend: seen,
    } = await inLab(`
      at_backend listen --json '[::]:8080'
      forward '[::]:50080' --to '${backend}:8080'
      within client curl -sS --max-time 10 --http0.9 'http://${asked}/'
      ended
    `);
    expect(stdout).toContain("hello world");
    expect(find(seen, "accepted")?.client).toStartWith(`${client}:`);
    expect(find(proxy, "forwarded")).toMatchObject({
      original_destination: `${asked}:80`,
      upstream: `${backend}:8080`,
      source: "client",
      upstream_bytes: 12,
      reason: "done",
    });
  });

  testTraffic("--source client:port keeps the port, self does not spoof; another", async () => {
    const other = client === "10.9.1.2" ? "10.9.1.77" : "[fd00:1::77]";
    const { backend: seen } = await inLab(`
      at_backend listen --json '[::]:8080'
      forward '[::]:50080' --to '${backend}:8080' --source client:port
      echo x | within client socat -t20 - 'tcp:${asked}:80,sourceport=40123'
      ended
      kill "$proxy"; wait "$proxy" || :
      forward '[::]:50080' --to '${backend}:8080' --source self
      echo x | within client socat -t20 - 'tcp:${asked}:80'
      ended
      kill "$proxy"; wait "$proxy" || :
      forward '[::]:50080' --to '${backend}:8080' --source '${other.replace(/[[\]]/g, "")}'
      echo x | within client socat -t20 - 'tcp:${asked}:80'
      ended
      until [ "$(grep -c '"accepted"' backend.log)" = 3 ]; do kill -0 "$server"; done
    `);
    const clients = seen.filter(({ event }) => event === "accepted").map(({ client }) => client);
    expect(clients[0]).toBe(`${client}:40123`);
    expect(clients[1]).toStartWith(client === "10.9.1.2" ? "10.9.2.1:" : "[fd00:2::1]:");
    expect(clients[2]).toStartWith(`${other}:`);
  });

  testTraffic("64 MiB each way, half-close included, every byte as sent", async () => {
    const { stdout, proxy } = await inLab(`
      at_backend listen --echo --quiet --json '[::]:8080'
      forward '[::]:50080' --to '${backend}:8080'
      head -c 67108864 /dev/urandom > data
      within client socat -t20 - 'tcp:${asked}:80' < data > back
      sha256sum < data; sha256sum < back
      ended
    `);
    const sums = stdout.match(/[0-9a-f]{64}/g) ?? [];
    expect(sums[0]).toBe(sums[1] as string);
    expect(find(proxy, "forwarded")).toMatchObject({
      client_bytes: 67108864,
      upstream_bytes: 67108864,
    });
  });
});

describe("towards upstreams", () => {
  testTraffic("original: on to the address that the client asked for", async () => {
    const { stdout, proxy } = await inLab(`
      within backend ip address add 8.8.8.8/32 dev lo
      ip route add 8.8.8.8/32 via 10.9.2.2
      at_backend listen --json 8.8.8.8:80
      forward :50080 --to original
      within client curl -sS --max-time 10 --http0.9 'http://8.8.8.8/'
      ended
    `);
    expect(stdout).toContain("hello world");
    expect(find(proxy, "forwarded")).toMatchObject({ upstream: "8.8.8.8:80", source: "client" });
  });

  testTraffic("a dead upstream: the next one is tried, and they take turns", async () => {
    const { proxy, backend } = await inLab(`
      at_backend listen --json 10.9.2.2:8080
      forward :50080 --to 10.9.2.2:9 --to 10.9.2.2:8080
      for i in 1 2 3 4; do within client curl -sS --max-time 10 --http0.9 http://8.8.8.8/; done
      until [ "$(grep -c forwarded proxy.log)" = 4 ]; do kill -0 "$proxy"; done
    `);
    expect(backend.filter(({ event }) => event === "accepted")).toHaveLength(4);
    const carried = proxy.filter(({ event }) => event === "forwarded");
    expect(
      carried.every(({ reason, upstream }) => reason === "done" && upstream === "10.9.2.2:8080"),
    ).toBe(true);
  });

  testTraffic("nobody listens: the client gets a reset, and the log says why", async () => {
    const { stdout, proxy } = await inLab(`
      : > backend.log
      forward :50080 --to 10.9.2.2:9
      within client curl -sS --max-time 10 http://8.8.8.8/ 2>&1 || echo "status $?"
      ended
    `);
    // The reset comes before curl has looked at the connection (7) or after it has asked (56).
    expect(stdout).toMatch(/status (7|56)\n/);
    expect(find(proxy, "forwarded")).toMatchObject({
      ...{ reason: "connect-failed", call: "connect", error: "ECONNREFUSED" },
    });
  });

  testTraffic("of upstreams in both families the log names the one that failed", async () => {
    const { proxy } = await inLab(`
      : > backend.log
      forward '[::]:50080' --to 10.9.2.2:9 --to '[fd00:2::2]:9'
      within client curl -sS --max-time 10 http://8.8.8.8/ 2> curl.log || :
      within client curl -sS --max-time 10 'http://[2001:db8::9]/' 2> curl.log || :
      ended 2
    `);
    for (const { error, ended_by } of proxy.filter(({ event }) => event === "forwarded")) {
      expect(error).toBe("ECONNREFUSED");
      expect(ended_by).toBe("upstream");
    }
  });

  testTraffic("an IPv6 client and an IPv4 upstream: refused, or from our own address", async () => {
    const { proxy } = await inLab(`
      at_backend listen --json 10.9.2.2:8080
      forward '[::]:50080' --to 10.9.2.2:8080
      within client curl -sS --max-time 10 'http://[2001:db8::9]/' 2>&1 || echo "status $?"
      ended
      cp proxy.log first.log
      kill "$proxy"; wait "$proxy" || :
      forward '[::]:50080' --to 10.9.2.2:8080 --source-fallback self
      within client curl -sS --max-time 10 --http0.9 'http://[2001:db8::9]/'
      ended
      cat first.log >> proxy.log
    `);
    const [carried, refused] = proxy.filter(({ event }) => event === "forwarded");
    expect(carried).toMatchObject({ source: "self", reason: "done" });
    expect(refused?.detail).toMatch(/IPv6 source cannot be used towards an IPv4 upstream/);
  });
});

describe("ports that are used again", () => {
  testTraffic("a client's, while its last connection is in TIME_WAIT here", async () => {
    const { stdout, backend } = await inLab(`
      at_backend listen --json '[::]:8080'
      again() {
        for i in 1 2 3; do
          within client curl -sS --max-time 10 --http0.9 --local-port "$1" http://8.8.8.8/
        done
        echo "waiting $(ss -Htn state time-wait dport = ":$1" | wc -l)"
      }
      forward :50080 --to 10.9.2.2:8080
      again 40001
      kill "$proxy"; wait "$proxy"
      forward :50080 --to 10.9.2.2:8080 --source client:port
      again 40002
      kill "$proxy"; wait "$proxy"
      ${command} routes --remove > removed.log
      forward :80 --to 10.9.2.2:8080 --routes auto
      again 40003
    `);
    expect(stdout).toStartWith("hello world\nhello world\nhello world\nwaiting 1\n".repeat(3));
    const ports = backend
      .filter(({ event }) => event === "accepted")
      .map(({ client: from }) => String(from).split(":")[1]);
    expect(ports.slice(3, 6)).toEqual(["40002", "40002", "40002"]);
  });

  testTraffic("--source client:port: one that is in use here is replaced, said once", async () => {
    const { stdout, proxy, backend } = await inLab(`
      at_backend listen --echo --json '[::]:8080'
      forward :50080 --to 10.9.2.2:8080 --source client:port
      mkfifo in
      within client socat - tcp:8.8.8.8:80,sourceport=40002,reuseaddr < in > out &
      exec 3> in
      echo first >&3
      until_true grep -q first out
      # The same port to another destination, and so to the same upstream; a listener's port.
      for port in 40002 50080; do
        echo "from $port" | within client socat -t20 - tcp:9.9.9.9:80,sourceport=$port,reuseaddr
      done
      exec 3>&-
      settled
      until [ "$(grep -c '"accepted"' backend.log)" = 3 ]; do kill -0 "$server"; done
    `);
    expect(stdout).toStartWith("from 40002\nfrom 50080\n");
    const warnings = proxy.filter(({ event }) => event === "warning").map(({ text }) => text);
    expect(warnings).toEqual(["the client's port is in use here: connecting from another one"]);
    const clients = backend.filter(({ event }) => event === "accepted").map((each) => each.client);
    expect(clients[0]).toBe("10.9.1.2:40002");
    for (const other of clients.slice(1)) {
      expect(other).toStartWith("10.9.1.2:");
      expect(other).not.toMatch(/:(40002|50080)$/);
    }
  });
});

describe("this host", () => {
  testTraffic("an address that it gets later is known for its own", async () => {
    const { proxy } = await inLab(`
      at_backend listen --json '[::]:8080'
      forward :50080 --to 10.9.2.2:8080
      from() { curl -sS --max-time 10 --http0.9 --interface "$1" http://10.9.2.1:50080/ > page; }
      from 10.9.2.1
      ip address add 10.9.7.7/32 dev lo
      known() { from 10.9.7.7; grep -q '"client":"10.9.7.7:.*"source":"self"' proxy.log; }
      until_true known
    `);
    expect(find(proxy, "forwarded")).toMatchObject({ source: "self", reason: "done" });
    const warnings = proxy.filter(({ event }) => event === "warning").map(({ text }) => text);
    expect(warnings).toEqual(["the client is on this host: connecting from our own address"]);
  });
});

testTraffic("a client that is the upstream itself is connected from our address", async () => {
  const { stdout, proxy } = await inLab(`
    : > backend.log
    in_background client ${command} listen --json '[::]:8080' > served.log
    until_true() { until "$@"; do sleep 0.02; done; }
    until_true grep -q bound served.log
    forward :50080 --to 10.9.1.2:8080
    for i in 1 2; do within client curl -sS --max-time 10 --http0.9 http://8.8.8.8/; done
    ended 2
    grep -o '"accepted".*"client":"[^:]*' served.log
  `);
  expect(stdout).toStartWith("hello world\nhello world\n");
  expect(stdout).toMatch(/"client":"10\.9\.1\.1\n/);
  const warnings = proxy.filter(({ event }) => event === "warning").map(({ text }) => text);
  const why = "client and upstream have the same address";
  expect(warnings).toEqual([`${why}: connecting from our own address`]);
});

describe("the PROXY protocol", () => {
  testTraffic("accepted in pieces, sent on, and only from whom it may come", async () => {
    const header = "PROXY TCP4 10.9.1.77 8.8.8.8 1234 80\\r\\n";
    const { proxy, backend, stdout } = await inLab(`
      at_backend listen --json '[::]:8080'
      forward :50080 --to 10.9.2.2:8080 --accept-proxy=10.9.1.0/24 --send-proxy v1
      ip route add 10.9.1.77/32 dev p0
      within client ip address add 10.9.1.77/32 dev c0
      { printf 'PROXY TC'; sleep 0.05; printf 'P4 10.9.1.77 8.8.8.8 1234 80\\r'; sleep 0.05
        printf '\\nquestion\\n'; } | within client socat -t20 - tcp:8.8.8.8:80
      ended
      kill "$proxy"; wait "$proxy" || :
      cp proxy.log first.log
      forward :50080 --to 10.9.2.2:8080 --accept-proxy=192.0.2.0/24
      printf '${header}x' | within client socat -t20 - tcp:8.8.8.8:80 2>&1 || :
      ended
      cat first.log >> proxy.log
    `);
    expect(stdout).toContain("hello world");
    expect(find(backend, "accepted")?.client).toStartWith("10.9.1.77:");
    const text = backend.filter(({ event }) => event === "data").map((entry) => entry.text);
    expect(text.join("")).toBe("PROXY TCP4 10.9.1.77 8.8.8.8 1234 80\r\nquestion\n");
    const { refused, forwarded: carried } = Object.fromEntries(
      proxy.map((line) => [line.event, line]),
    );
    expect(carried).toMatchObject({ client: "10.9.1.77:1234", original_destination: "8.8.8.8:80" });
    expect(refused).toMatchObject({ ended_by: "proxy", reason: "proxy-sender" });
  });
});

describe("its end", () => {
  testTraffic("SIGTERM lets what is open come to its end, and accepts no more", async () => {
    const { stdout } = await inLab(`
      at_backend listen --echo --quiet --json '[::]:8080'
      forward :50080 --to 10.9.2.2:8080
      mkfifo in
      within client socat -t20 - tcp:8.8.8.8:80 < in > out &
      exec 3> in
      echo before >&3
      until grep -q before out; do kill -0 "$proxy"; done
      kill "$proxy"
      until ! within client curl -s --max-time 1 http://8.8.8.8/ 2>/dev/null; do :; done
      echo after >&3
      exec 3>&-
      wait "$proxy" && echo "ended with 0"
      until grep -q after out; do :; done
      cat out
    `);
    expect(stdout).toContain("ended with 0");
    expect(stdout).toContain("before\nafter\n");
  });

  testTraffic("resets pass through, and nothing is left afterwards", async () => {
    const { proxy, backend } = await inLab(
      `
      at_backend listen --echo --json '[::]:8080'
      forward :50080 --to 10.9.2.2:8080
      for i in 1 2 3 4 5; do within client python3 reset.py; done
      until [ "$(grep -c forwarded proxy.log)" = 5 ]; do kill -0 "$proxy"; done
      settled
      until [ "$(grep -c '"forwarded"' backend.log)" = 5 ]; do kill -0 "$server"; done
    `,
      { "reset.py": reset },
    );
    const ends = proxy
      .filter(({ event }) => event === "forwarded")
      .map(({ ended_by: by, reason }) => `${reason} by ${by}`);
    expect(ends).toEqual(Array(5).fill("reset by client"));
    const resets = backend.filter(({ event }) => event === "forwarded");
    expect(resets.map(({ reason }) => reason)).toEqual(Array(5).fill("reset"));
  });
});

/** `forward` and `run` where local ports are few: all used up, or one that the upstream has. */

import { describe, expect } from "bun:test";
import { command, families, inLab, testInLab } from "../helpers/forward-lab.ts";
import { inNamespace } from "../helpers/netns.ts";

const testPorts = testInLab(["python3"]);

/** Ports of the proxy: enough that they are chosen in windows. */
const ports = { first: 41_000, last: 42_099 };
const connections = 1_300;

/** One connection after the other, each closed by the client first. Prints how many had a reply. */
const churn = `
import socket, sys
done = 0
for _ in range(${connections}):
    s = socket.create_connection((sys.argv[1], 80), timeout=10)
    s.sendall(b"x")
    done += s.recv(1) == b"x"
    s.close()
print(sys.argv[2], done)
`;

describe.each(families)("IPv$family", ({ asked, backend }) => {
  testPorts("connections go on when every port is in TIME_WAIT", async () => {
    const address = asked.replace(/[[\]]/g, "");
    const { stdout } = await inLab(
      `
      echo ${ports.first} ${ports.last} > /proc/sys/net/ipv4/ip_local_port_range
      at_backend listen --echo --json '[::]:8080'
      for source in client self; do
        forward '[::]:50080' --to '${backend}:8080' --source $source
        within client python3 churn.py ${address} $source
        kill "$proxy"; wait "$proxy"
        ss -Htn state time-wait | wc -l
      done
    `,
      { "churn.py": churn },
    );
    const [client, left, self] = stdout.trim().split("\n");
    expect([client, self]).toEqual([`client ${connections}`, `self ${connections}`]);
    // Otherwise nothing would have been shown.
    expect(Number(left)).toBeGreaterThan((ports.last - ports.first) * 0.8);
  });
});

/** Nobody serves the upstream, and its port is the only one that the kernel may choose. */
const dead = {
  "run.toml": `
[log]
format = "json"
[[pool]]
name = "dead"
to = "localhost-address:41000"
check = { type = "tcp", interval = "200ms" }
[[service]]
name = "both"
listen = ["localhost-address:50080", "udp://localhost-address:50080"]
pool = "dead"
transparent = false
source = "self"
`,
  // From a port outside the range. Of datagrams it prints what has come back while input is open.
  "ask.py": `
import socket, sys
address, port = sys.argv[1], 50080
family = socket.AF_INET6 if ":" in address else socket.AF_INET
stream = socket.socket(family, socket.SOCK_STREAM)
datagrams = socket.socket(family, socket.SOCK_DGRAM)
for s in stream, datagrams:
    s.settimeout(30)
    s.bind((address, 50081))
datagrams.connect((address, port))
try:
    # The reset may come before this process has seen that it is connected.
    stream.connect((address, port))
    stream.send(b"x")
    print(stream.recv(10) or "end", flush=True)
except ConnectionError:
    print("refused", flush=True)
datagrams.send(b"x")
sys.stdin.read()
datagrams.setblocking(False)
try:
    print(datagrams.recv(10))
except BlockingIOError:
    print("silence")
`,
};

describe.each(["127.0.0.1", "::1"])("an upstream at %s that nobody serves", (address) => {
  testPorts("is no connection of ours to itself", async () => {
    const host = address.includes(":") ? `[${address}]` : address;
    const files = { ...dead, "run.toml": dead["run.toml"].replaceAll("localhost-address", host) };
    const { status, stdout, stderr } = await inNamespace(
      `
      echo 41000 41000 > /proc/sys/net/ipv4/ip_local_port_range
      background ${command} run -c run.toml > proxy.log
      proxy=$!
      until grep -q '"to":"down"' proxy.log; do kill -0 "$proxy"; sleep 0.02; done
      mkfifo asking
      python3 ask.py ${address} < asking > asked &
      exec 9> asking
      is_refused() { grep -q '"protocol":"udp".*ECONNREFUSED' proxy.log; }
      until is_refused; do kill -0 "$proxy"; sleep 0.02; done
      exec 9>&-
      wait $!
      cat asked
      [ -z "$(ss -Htan state time-wait)" ]
      kill "$proxy"; wait "$proxy"
      cat proxy.log
    `,
      { files },
    );
    expect([status, stderr]).toEqual([0, ""]);
    expect(stdout).toStartWith("refused\nsilence\n");
    expect(stdout).not.toContain('"to":"up"');
  });
});

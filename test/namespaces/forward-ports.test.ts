/** `forward` when one client address has used all local ports towards the upstream. */

import { describe, expect } from "bun:test";
import { families, inLab, testInLab } from "../helpers/forward-lab.ts";

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

/** Which packets `forward` costs: none that another one could have carried. */

import { expect } from "bun:test";
import { inLab, testInLab } from "../helpers/forward-lab.ts";

const testPackets = testInLab(["tcpdump", "python3"]);

/** Answers the request once the file `go` is there, and ends. */
const server = `
import os, socket, time
listener = socket.create_server(("10.9.2.2", 8080))
print("ready", flush=True)
connection, _ = listener.accept()
connection.recv(1000)
while not os.path.exists("go"):
    time.sleep(0.01)
connection.sendall(b"answer")
connection.close()
print("ended", flush=True)
`;

const client = `
import socket
connection = socket.create_connection(("8.8.8.8", 80), timeout=20)
connection.sendall(b"request")
print("asked", flush=True)
while connection.recv(1000):
    pass
`;

/**
 * The proxy is stopped while the client connects and asks, and again while the server answers and
 * ends: what can be one packet is then there at the same time.
 */
const script = `
sniff() {
  background tcpdump -lnU --immediate-mode -i "$1" "tcp and $2" > "$1.dump" 2> "$1.err"
  until_true grep -q listening "$1.err"
}
said() { until_true grep -q "$2" "$1"; }
in_background backend python3 server.py > server.txt
forward :50080 --to 10.9.2.2:8080
said server.txt ready
sniff p0 "src host 8.8.8.8"
sniff p1 "dst host 10.9.2.2"
kill -STOP "$proxy"
in_background client python3 client.py > client.txt
said client.txt asked
kill -CONT "$proxy"
said p1.dump "length 7"
kill -STOP "$proxy"
touch go
said server.txt ended
has_ended_here() { ss -Htn state close-wait dst 10.9.2.2 | grep -q .; }
until_true has_ended_here
kill -CONT "$proxy"
ended
said p0.dump "Flags .F"
cat p1.dump p0.dump
`;

testPackets("the request acknowledges the SYN-ACK, the answer brings its end", async () => {
  const { stdout } = await inLab(script, { "server.py": server, "client.py": client });
  const packets = [...stdout.matchAll(/ > ([\d.]+)\.\d+: Flags \[(.+?)\].* length (\d+)/g)];
  const to = (host: string) =>
    packets.filter(([, to]) => to === host).map(([, , flags, length]) => `${flags} ${length}`);
  expect(to("10.9.2.2").slice(0, 2)).toEqual(["S 0", "P. 7"]);
  expect(to("10.9.1.2").find((packet) => packet.includes("F"))).toMatch(/^F?P?F?\. 6$/);
});

/** The least time, of several, until a server that speaks first is heard. */
const greeted = `
import socket, sys, threading, time
server = socket.create_server(("10.9.2.2", 8080)) if sys.argv[1] == "serve" else None
while server:
    connection, _ = server.accept()
    connection.sendall(b"hello")
    connection.close()
def greeting(address, port, held_back):
    start = time.monotonic()
    connection = socket.socket()
    if held_back:
        connection.setsockopt(socket.IPPROTO_TCP, 12, 0)  # TCP_QUICKACK
    connection.connect((address, port))
    assert connection.recv(100) == b"hello"
    return time.monotonic() - start
name, address, port = sys.argv[1:]
print(name, min(greeting(address, int(port), name == "control") for _ in range(10)))
`;

testPackets(
  "an upstream that speaks first is not kept waiting for an acknowledgement",
  async () => {
    const { stdout } = await inLab(
      `
    in_background backend python3 greet.py serve
    forward :50080 --to 10.9.2.2:8080
    listens() { within backend ss -Htln sport 8080 | grep -q .; }
    until_true listens
    within client python3 greet.py forward 8.8.8.8 80
    # What the kernel does if nothing is sent on such a connection.
    python3 greet.py control 10.9.2.2 8080
    `,
      { "greet.py": greeted },
    );
    const [forward, control] = ["forward", "control"].map((name) =>
      Number(new RegExp(`^${name} ([\\d.e-]+)$`, "m").exec(stdout)?.[1]),
    );
    expect(2 * (forward as number)).toBeLessThan(control as number);
  },
);

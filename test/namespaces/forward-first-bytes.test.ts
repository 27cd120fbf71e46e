/** `--client-first` and `--fast-open`: what the first bytes of a client decide. */

import { describe, expect } from "bun:test";
import { families, inLab, testInLab } from "../helpers/forward-lab.ts";

const testFirst = testInLab(["python3"]);

/**
 * `server.py ADDRESS PORT` prints how many bytes came with the SYN of each connection
 * (TCPI_OPT_SYN_DATA), and answers; `first ADDRESS PORT` speaks first.
 */
const server = `
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
s.bind((sys.argv[1], int(sys.argv[2])))
s.listen()
open("ready", "w").close()
while True:
    c, _ = s.accept()
    if sys.argv[3] == "first":
        c.sendall(b"hello")
    while c.recv(100_000):
        pass
    if sys.argv[3] == "last":
        options = c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5]
        c.sendall(b"with the SYN" if options & 32 else b"after it")
    c.close()
`;

/** `client.py ADDRESS BYTES…` asks with as many bytes each time, or waits (0). Prints replies. */
const client = `
import socket, sys, time
for count in map(int, sys.argv[2:]):
    try:
        s = socket.create_connection((sys.argv[1], 80), timeout=20)
        begin = time.monotonic()
        if count > 0:
            s.sendall(b"x" * count)
            s.shutdown(socket.SHUT_WR)
        reply = s.recv(1000)
        if count == 0:
            s.shutdown(socket.SHUT_WR)
        while part := s.recv(1000):
            reply += part
        waited = "late" if time.monotonic() - begin > 2 else "at once"
        print(reply.decode() or "nothing", waited)
    except OSError:
        print("failed")
`;

const files = { "server.py": server, "client.py": client };
const serve = (host: string, kind: string) => `
  rm -f ready
  in_background backend python3 server.py ${host} 8080 ${kind}
  upstream=$!
  until [ -e ready ]; do kill -0 "$upstream"; sleep 0.02; done
`;

describe.each(families)("IPv$family", ({ asked, backend }) => {
  const [address, host] = [asked, backend].map((text) => text.replace(/[[\]]/g, "")) as [
    string,
    string,
  ];
  const ask = (...counts: number[]) =>
    `within client python3 client.py ${address} ${counts.join(" ")}`;

  testFirst("--fast-open sends them with the SYN, and a refusal is the upstream's", async () => {
    const { stdout, proxy } = await inLab(
      `
      within backend sh -c 'echo 3 > /proc/sys/net/ipv4/tcp_fastopen'
      ${serve(host, "last")}
      forward '[::]:50080' --to '${backend}:8080' --client-first --fast-open
      # The first connection learns the server's cookie.
      ${ask(5, 5, 50_000)}
      kill "$upstream"; wait "$upstream" 2> wait.log || :
      ${ask(5)}
      ended 4
    `,
      files,
    );
    const lines = ["after it at once", "with the SYN at once", "with the SYN at once"];
    expect(stdout.trim().split("\n").slice(0, 4)).toEqual([...lines, "failed"]);
    const ends = proxy.filter(({ event }) => event === "forwarded");
    expect(ends.map(({ reason }) => reason)).toEqual(["done", "done", "done", "failed"]);
    expect(ends.map(({ client_bytes }) => client_bytes).slice(0, 3)).toEqual([5, 5, 50_000]);
  });

  testFirst("--fast-open alone: an upstream that speaks first is connected at once", async () => {
    const { stdout } = await inLab(
      `
      within backend sh -c 'echo 3 > /proc/sys/net/ipv4/tcp_fastopen'
      ${serve(host, "first")}
      forward '[::]:50080' --to '${backend}:8080' --fast-open
      ${ask(0, 0)}
    `,
      files,
    );
    expect(stdout).toStartWith("hello at once\nhello at once\n");
  });

  testFirst("--client-first accepts nobody who says nothing, for 3 s", async () => {
    const { stdout } = await inLab(
      `
      ${serve(host, "first")}
      forward '[::]:50080' --to '${backend}:8080' --client-first
      ${ask(5, 0)}
      ended 2
    `,
      files,
    );
    expect(stdout).toStartWith("hello at once\nhello late\n");
  });
});

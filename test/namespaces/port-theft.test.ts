/** That no other user of the host gets a port of ours, not even while sessions come and go. */

import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { canUnshare } from "../helpers/netns.ts";
import { command } from "../helpers/three-hosts.ts";
import { testWith } from "../helpers/tools.ts";
import { inLab } from "../helpers/udp-lab.ts";

/**
 * `thief.py STREAM|DGRAM ADDRESS:PORT...`, as another user: tries to bind these again and again,
 * and to listen there; SIGTERM ends it, or ten ports that it has got.
 */
const thief = `
import itertools, os, signal, socket, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
tries, got = 0, []
def report(*_):
  print("thief", tries, "tries, got", " ".join(got) or "nothing", flush=True)
  os._exit(0)
signal.signal(signal.SIGTERM, report)
kind = getattr(socket, "SOCK_" + sys.argv[1])
wanted = [name.rsplit(":", 1) for name in sys.argv[2:]]
while True:
  for (address, port), reuseport, reuseaddr in itertools.product(wanted, (0, 1), (0, 1)):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    if reuseport: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if reuseaddr: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      s.bind((address, int(port)))
      if kind == socket.SOCK_STREAM: s.listen()
      got.append(f"{address}:{port}/{reuseport}{reuseaddr}")
      if len(got) > 9: report()
    except OSError:
      pass
    s.close()
    tries += 1
`;

const datagrams = readFileSync(new URL("datagrams.py", import.meta.url), "utf8");
const files = { "thief.py": thief, "datagrams.py": datagrams };

const testAsRoot = testWith(["ip", "nft", "nsenter", "python3"], {
  "network namespaces": canUnshare,
  "several users": process.getuid?.() === 0,
});

testAsRoot(
  "another user never gets a port while sessions get sockets of their own, and nothing is lost",
  async () => {
    const { stdout } = await inLab(
      `
      in_background backend python3 datagrams.py echo 9000 > backend.out
      until grep -q bound backend.out; do :; done
      forward --udp '[::]:5353' :5354 --workers 2 --source self \\
        --to 10.9.2.2:9000 --to '[fd00:2::2]:9000' --quiet
      background ${command} listen --udp :5355 '[::]:5356' --echo --workers 2 > listen.log
      background ${command} bind 10.9.1.1:5357 > bind.log
      until grep -q 5356 listen.log && grep -q Bound bind.log; do :; done
      # A port that is free: it ends when it has got that ten times.
      python3 thief.py DGRAM 0.0.0.0:5358
      python3 thief.py DGRAM 0.0.0.0:5353 10.9.1.1:5353 '[::]:5353' :::5353 fd00:1::1:5353 \\
        0.0.0.0:5354 10.9.1.1:5354 0.0.0.0:5355 10.9.1.1:5355 0.0.0.0:5356 :::5356 \\
        0.0.0.0:5357 10.9.1.1:5357 2> thief.err &
      thief=$!
      # Each exchange makes its session a busy one, which gets a socket of its own.
      for round in $(seq 6); do
        for address in 10.9.1.1 fd00:1::1; do
          within client python3 datagrams.py exchange "$address" 5353 200 10,100 32
        done
        within client python3 datagrams.py exchange 10.9.1.1 5354 200 10,100 32
        within client python3 datagrams.py exchange 10.9.1.1 5355 20 10 8
      done
      kill $thief; wait $thief
      `,
      files,
    );
    expectNothingStolen(stdout);
  },
  240_000,
);

testAsRoot(
  "nor one of TCP, while connections come and go",
  async () => {
    const { stdout } = await inLab(
      `
      at_backend listen --quiet --json '[::]:9000'
      forward '[::]:5353' :5354 --workers 2 --source self --to 10.9.2.2:9000 --quiet
      background ${command} listen :5355 '[::]:5356' --workers 2 > listen.log
      background ${command} bind --tcp 10.9.1.1:5357 > bind.log
      until grep -q 5356 listen.log && grep -q Bound bind.log; do :; done
      python3 thief.py STREAM 0.0.0.0:5358
      python3 thief.py STREAM 0.0.0.0:5353 10.9.1.1:5353 '[::]:5353' :::5353 fd00:1::1:5353 \\
        0.0.0.0:5354 10.9.1.1:5354 0.0.0.0:5355 10.9.1.1:5355 0.0.0.0:5356 :::5356 \\
        0.0.0.0:5357 10.9.1.1:5357 &
      thief=$!
      for port in 5353 5354 5355; do
        for round in $(seq 5); do
          echo hi | within client ${command} bind --tcp 10.9.1.2:0 --to 10.9.1.1:$port
        done
      done
      kill $thief; wait $thief
      `,
      files,
    );
    expect(stdout.match(/hello world/g)?.length).toBe(15);
    expectNothingStolen(stdout);
  },
  240_000,
);

/** A free port was got at once, which shows that the thief works; of ours none. */
function expectNothingStolen(stdout: string): void {
  const [control, result] = [...stdout.matchAll(/^thief (\d+) tries, got (.*)$/gm)];
  expect(control?.[2]).toStartWith("0.0.0.0:5358");
  expect(Number(result?.[1])).toBeGreaterThan(1_000);
  expect(result?.[2]).toBe("nothing");
}

/** joins.py UID {tcp|udp} PORT   as this user: is it let in beside others, in any way? */
const joins = `
import itertools, os, socket, sys
uid, protocol, port = sys.argv[1:]
os.setgroups([]); os.setresuid(int(uid), int(uid), int(uid))
kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
for address, reuseaddr in itertools.product(("0.0.0.0", "127.0.0.1", "::", "::1"), (0, 1)):
  s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
  s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
  s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuseaddr)
  try:
    s.bind((address, int(port)))
    if protocol == "tcp": s.listen()
    print("let in:", *sys.argv[1:], address, reuseaddr)
  except OSError as error: print("kept out:", error.strerror)
  s.close()
`;

testAsRoot(
  "--user: busy sessions get sockets of their own at the listener's port, other users do not",
  async () => {
    const { stdout } = await inLab(
      `
      in_background backend python3 datagrams.py echo 9000 > backend.out
      until grep -q bound backend.out; do :; done
      forward --udp '[::]:5353' --source self --user nobody \\
        --to 10.9.2.2:9000 --to '[fd00:2::2]:9000' --quiet
      for address in 10.9.1.1 fd00:1::1; do
        within client python3 datagrams.py exchange "$address" 5353 200 10,100 32
      done
      echo "own: $(ss -Hun state established sport = :5353 | wc -l)"
      python3 joins.py 0 udp 5353; python3 joins.py 1 udp 5353
      `,
      { ...files, "joins.py": joins },
    );
    expect(stdout).toContain("own: 2\n");
    expect(stdout.match(/kept out: Address already in use/g)).toHaveLength(16);
  },
  240_000,
);

testAsRoot(
  "listeners that Workers share: no program joins them, not even one of the same user",
  async () => {
    const { stdout } = await inLab(
      `
      background ${command} listen '[::]:5365' --workers 2 > tcp.log
      background ${command} listen --udp '[::]:5366' --workers 2 > udp.log
      : > proxy.log
      forward '[::]:5367' --to 10.9.2.2:9000 --workers 2
      until grep -q Bound tcp.log && grep -q Bound udp.log; do kill -0 "$proxy"; done
      python3 joins.py 0 tcp 5365; python3 joins.py 0 udp 5366; python3 joins.py 0 tcp 5367
      `,
      { ...files, "joins.py": joins },
    );
    expect(stdout).not.toContain("let in");
    expect(stdout.match(/kept out: Address already in use/g)).toHaveLength(24);
  },
  240_000,
);

/** joined.py ADDRESS PORT   joins whoever has that, as the same user, until it is killed. */
const joined = `
import socket, sys, time
address, port = sys.argv[1:]
s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind((address, int(port)))
open("joined-" + address, "w").close()
time.sleep(60)
`;

testAsRoot(
  "a program of the same user that joins a port of forward is told of, and named by doctor",
  async () => {
    const { stdout, proxy } = await inLab(
      `
      # Beside us, at other addresses, there may be whoever likes.
      background python3 joined.py 127.0.0.1 5354
      forward --udp '[::]:5353' 10.9.1.1:5354 --source self --to 10.9.2.2:9000
      background python3 joined.py 0.0.0.0 5353
      background python3 joined.py fd00:1::1 5353
      logged warning 2
      tproxy doctor --listen udp://:5353 || :
      tproxy doctor --proto udp --dport 53 --in p0 --family 4 --to-port 5353 || :
      `,
      { "joined.py": joined },
    );
    const warnings = proxy.filter(({ event }) => event === "warning").map(({ text }) => text);
    const by = "by SO_REUSEPORT: it takes datagrams that are for this proxy";
    for (const at of ["0.0.0.0:5353", "[fd00:1::1]:5353"]) {
      const told = warnings.filter((text) => String(text).includes(`joined udp://${at} ${by}`));
      expect(told).toHaveLength(1);
    }
    expect(warnings.join("\n")).not.toContain("5354");
    expect(stdout).toMatch(/WARNING +shared port .*tproxy \(pid \d+\) on \[::\]:5353/);
    // By the listener's name, and by the way of a packet to it.
    expect(stdout.match(/WARNING +shared port/g)).toHaveLength(2);
    expect(stdout.match(/python3 \(pid \d+\)/g)).toHaveLength(4);
  },
  240_000,
);

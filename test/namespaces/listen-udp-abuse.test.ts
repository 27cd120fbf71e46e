/** That `listen --udp` is of no use for flooding others: sizes, rates, loops. */

import { expect } from "bun:test";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { command } from "../helpers/three-hosts.ts";
import { testWith } from "../helpers/tools.ts";

/**
 * Sends COUNT datagrams of SIZE bytes, or of TEXT; how many answers come, and their bytes. It waits
 * for as many as are EXPECTED, and then a moment for any that must not come.
 */
const ask = `
import socket, sys
address, port, count, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
expected = int(sys.argv[5])
data = b"q" * int(what) if what.isdigit() else what.encode() + b"\\n"
s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
s.connect((address, port))
for i in range(count): s.send(data)
got = []
try:
  while True:
    s.settimeout(20 if len(got) < expected else 0.3)
    got.append(len(s.recv(70000)))
except TimeoutError: pass
print("got", what, len(got), sum(got), flush=True)
`;

/** One datagram to 127.0.0.1:TO in the name of 127.0.0.1:FROM. */
const forge = `
import socket, struct, sys
to, source, data = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
here = socket.inet_aton("127.0.0.1")
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 0, 0, 64, 17, 0, here, here)
s.sendto(ip + struct.pack(">HHHH", source, to, 8 + len(data), 0) + data, ("127.0.0.1", 0))
`;

const testInNamespace = testWith(["ip", "python3"], { "network namespaces": canUnshare });

const servers = `
server() { # NAME ARGUMENTS...
  name=$1; shift
  background ${command} listen --udp --json --no-transparent "$@" > $name.log
  eval "$name=$!"
  until grep -q '"answers"\\|discard' $name.log; do kill -0 $!; done
}
show() { kill "$2"; wait "$2" || :; sed "s/^/$1 /" $1.log; }
`;

testInNamespace(
  "no answer has more bytes than came in, unless asked; none to its own kind",
  async () => {
    const { status, stdout, stderr } = await inNamespace(
      `${servers}
    head -c 1000 /dev/zero > reply
    server large '[::]:7001' --reply-file reply
    server amplified :7002 --reply-file reply --amplify
    server usual '[::]:7003' --reply 'hello there'
    for address in 127.0.0.1 ::1; do
      for size in 1 999; do python3 ask.py $address 7001 2 $size 0; done
      python3 ask.py $address 7001 2 1000 2
    done
    python3 ask.py 127.0.0.1 7002 2 2 2
    python3 ask.py 127.0.0.1 7003 2 3 2
    python3 ask.py ::1 7003 2 'hello there' 0
    show large $large
    show usual $usual
    `,
      { files: { "ask.py": ask } },
    );
    expect([status, stderr]).toEqual([0, ""]);
    const got = [...stdout.matchAll(/^got (.*)$/gm)].map(([, text]) => text);
    const large = ["1 0 0", "999 0 0", "1000 2 2000"];
    expect(got).toEqual([...large, ...large, "2 2 2000", "3 2 24", "hello there 0 0"]);
    expect(stdout).toMatch(/^large .*"answers",.*"amplify":false,"answer_bytes":1000,/m);
    expect(stdout).toMatch(
      /^large .*not answered: the answer has more bytes \(1000\) than came in/m,
    );
    expect(stdout).toMatch(/^usual .*not answered: it is what we answer ourselves/m);
  },
);

testInNamespace(
  "a client gets so many answers a second, of its prefix, and others theirs",
  async () => {
    const { status, stdout, stderr } = await inNamespace(
      `${servers}
    ip -6 address add fd00:7::1/64 dev lo; ip -6 address add fd00:7::2/64 dev lo
    server slow '[::]:7001' --echo --answer-rate 10
    python3 ask.py 127.0.0.1 7001 500 5 5
    python3 ask.py ::1 7001 500 5 5
    show slow $slow
    `,
      { files: { "ask.py": ask } },
    );
    expect([status, stderr]).toEqual([0, ""]);
    const counts = [...stdout.matchAll(/^got 5 (\d+)/gm)].map(([, count]) => Number(count));
    expect(counts).toHaveLength(2);
    // Of each Worker its part, and a few more in the time that it takes.
    for (const count of counts) expect(count).toBeWithin(5, 100);
    expect(stdout).toContain("its client has had 10 answers in a second: ");
  },
);

testInNamespace("two that are set against each other end it", async () => {
  const { status, stdout, stderr } = await inNamespace(
    `${servers}
    server one :7001 --echo --answer-rate 0
    server two :7002 --echo --answer-rate 0
    server three :7003 --reply 'what do you want' --answer-rate 0
    python3 forge.py 7001 7002 ping
    python3 forge.py 7002 7003 ping
    until grep -q 'hop limit' two.log && grep -q 'answer ourselves' three.log; do :; done
    show one $one
    show two $two
    show three $three
    `,
    { files: { "forge.py": forge } },
  );
  expect([status, stderr]).toEqual([0, ""]);
  // Of the 64 datagrams of two echoes each has heard one half; the answer of the third comes back.
  const heard = (name: string) =>
    stdout.match(new RegExp(`^${name} .*"datagram"`, "gm"))?.length ?? 0;
  expect(["one", "two", "three"].map(heard)).toEqual([32, 34, 2]);
});

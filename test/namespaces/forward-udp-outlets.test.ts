/** That what a session costs does not grow with the sessions to the same destination. */

import { expect } from "bun:test";
import { inLab, testInLab } from "../helpers/udp-lab.ts";

/** Sessions to one destination, all open at once; each gets COUNT answers, a window at a time. */
const sessions = `
import os, socket, sys
address, port, many, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
held = []
for i in range(many):
  s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
  s.settimeout(10)
  s.connect((address, port))
  for first in range(0, count, 10):
    for number in range(first, first + 10): s.send(b"%d %d" % (i, number))
    for number in range(first, first + 10): assert s.recv(100) == b"%d %d" % (i, number)
  held.append(s)
print("answered", flush=True)
open("answered", "w").close()
while not os.path.exists("counted"): pass
# Those with a socket of their own, and those without, go on.
for i, s in enumerate(held):
  s.send(b"again %d" % i)
  assert s.recv(100) == b"again %d" % i
print("again", flush=True)
`;

// The port that is asked is the listener's, or TPROXY has changed it; each with both families.
for (const { name, port } of [
  { name: "TPROXY changes the port", port: 53 },
  { name: "the port is the listener's", port: 50053 },
]) {
  testInLab(
    `few sockets have one destination, whatever the sessions, and none is lost: ${name}`,
    async () => {
      const { stdout } = await inLab(
        `
        at_backend listen --udp '[::]:9000' --echo --json --answer-rate 0
        forward '[::]:50053' --udp --to 10.9.2.2:9000 --to '[fd00:2::2]:9000' --workers 2 --quiet
        capture 53,50053
        for address in 8.8.8.8 2001:db8::8; do
          rm -f answered counted
          within client python3 sessions.py $address ${port} 200 100 > client.log & asker=$!
          until [ -e answered ]; do kill -0 $asker; done
          hex=08080808; case $address in *:*) hex=B80D0120000000000000000008000000 ;; esac
          grep -ci " $hex:$(printf %04X ${port}) " /proc/net/udp /proc/net/udp6 > bound || :
          awk -F: '{ n += $2 } END { print "bound " n }' bound
          : > counted
          wait $asker
          cat client.log
        done
        stop
        `,
        { "sessions.py": sessions },
      );
      const bound = [...stdout.matchAll(/^bound (\d+)$/gm)].map(([, count]) => Number(count));
      expect(bound).toHaveLength(2);
      // Two Workers, each with one for all and at most 64 for busy sessions.
      for (const count of bound) expect(count).toBeWithin(1, 2 * 65 + 1);
      expect(stdout.match(/^again$/gm)).toHaveLength(2);
    },
    240_000,
  );
}

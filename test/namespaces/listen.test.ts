/**
 * `listen` and `bind` on a proxy host of their own: a client in another namespace, over veth,
 * asks addresses that nobody owns. Real clients, and the rules of `routes --print`.
 */

import { describe, expect } from "bun:test";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { testWith } from "../helpers/tools.ts";
import { tproxy } from "../helpers/tproxy.ts";

const testTraffic = testWith(["ip", "nft", "nsenter", "socat", "curl"], {
  "network namespaces": canUnshare,
});

const topology = `
tproxy() { ${tproxy.map((word) => `'${word}'`).join(" ")} "$@"; }
neighbour client p0 c0
within client ip route add default via 10.9.0.1
within client ip route add default via fd00:9::1
capture() { tproxy routes --print --in p0 --dialect nft "$@" > rules.sh; sh -e rules.sh; }
# The program itself, not a subshell around it: it is ended by its process id.
prefix=
serve() {
  $prefix ${tproxy.map((word) => `'${word}'`).join(" ")} "$@" > events &
  server=$!
  started="$started $server"
  until grep -q bound events; do kill -0 "$server"; done
}
seen() { until grep -q "$1" events; do kill -0 "$server"; done; }
`;

interface Event {
  readonly event: string;
  readonly client: string;
  readonly original_destination: string;
  readonly text: string;
  readonly upstream_bytes: number;
}

/** Runs a script on the topology; its output, and the events of the server in it. */
async function onTopology(script: string): Promise<{ stdout: string; events: Event[] }> {
  const { status, stdout, stderr } = await inNamespace(`${topology}\n${script}\necho; cat events`);
  if (status !== 0) throw new Error(`status ${status}: ${stderr}\n${stdout}`);
  const lines = stdout.split("\n");
  const isEvent = (line: string) => line.startsWith('{"event"');
  return {
    stdout: lines.filter((line) => !isEvent(line)).join("\n"),
    events: lines.filter(isEvent).map((line) => JSON.parse(line) as Event),
  };
}

const families = [
  { family: "4", destination: "8.8.8.8", client: "10.9.0.2" },
  { family: "6", destination: "[2001:db8::9]", client: "[fd00:9::2]" },
] as const;

describe.each(families)("IPv$family", ({ destination, client }) => {
  testTraffic(
    "a TCP client reaches an address nobody owns, and both ends are the real ones",
    async () => {
      const { stdout, events } = await onTopology(`
      capture --proto tcp --dport 80 --family both
      serve listen --json '[::]:80'
      within client curl -sS --max-time 10 --http0.9 'http://${destination}/'
      seen forwarded
    `);
      expect(stdout).toContain("hello world");
      const connection = events.find(({ event }) => event === "accepted");
      expect(connection?.original_destination).toBe(`${destination}:80`);
      expect(connection?.client).toStartWith(`${client}:`);
    },
  );

  testTraffic("TPROXY to another port: the original port is still seen", async () => {
    const { stdout, events } = await onTopology(`
      capture --proto tcp --dport 1-1000 --to-port 50080 --family both
      serve listen --json '[::]:50080'
      within client curl -sS --max-time 10 --http0.9 'http://${destination}:443/'
      seen forwarded
    `);
    expect(stdout).toContain("hello world");
    const connection = events.find(({ event }) => event === "accepted");
    expect(connection?.original_destination).toBe(`${destination}:443`);
  });

  // socat connects its socket, so it takes a reply from nowhere but the address that it asked.
  testTraffic("a UDP answer leaves from the address that was asked", async () => {
    const { stdout, events } = await onTopology(`
      capture --proto udp --dport 53 --family both
      serve listen --udp --json '[::]:53'
      echo question | within client socat -t20 - 'udp:${destination}:53,readbytes=12'
      seen datagram
    `);
    expect(stdout).toContain("hello world");
    expect(events.at(-1)).toMatchObject({ text: "question\n", upstream_bytes: 12 });
    expect(events.at(-1)?.original_destination).toBe(`${destination}:53`);
    expect(events.at(-1)?.client).toStartWith(`${client}:`);
  });

  testTraffic("so does one whose port TPROXY has changed, every time", async () => {
    const { stdout, events } = await onTopology(`
      capture --proto udp --to-port 50053 --family both
      serve listen --udp --echo --json '[::]:50053'
      for i in 1 2 3 4 5; do
        asked='${destination}':$((5000 + i))
        echo "question $i" | within client socat -t20 - "udp:$asked,readbytes=11"
      done
      seen ':5005"'
    `);
    for (let i = 1; i <= 5; i++) expect(stdout).toContain(`question ${i}`);
    const asked = events.filter(({ event }) => event === "datagram");
    expect(asked.map((event) => event.original_destination)).toEqual(
      [1, 2, 3, 4, 5].map((i) => `${destination}:${5000 + i}`),
    );
  });

  testTraffic("bind sends from an address nobody owns, and the client sees it", async () => {
    const { events } = await onTopology(`
      prefix="nsenter -t $client -n"
      serve bind --json '${client}:7000'
      tproxy bind '${destination}:8080' --to '${client}:7000' --send 'from afar' --timeout 1ms
      seen datagram
    `);
    expect(events.at(-1)).toMatchObject({ client: `${destination}:8080`, text: "from afar" });
  });
});

describe("limits of the kernel, told as they are", () => {
  testTraffic("without IP_TRANSPARENT on the listener the client gets no answer", async () => {
    const { stdout } = await onTopology(`
      capture --proto tcp --dport 80 --family 4
      serve listen --no-transparent --json :80
      within client curl -sS --max-time 0.5 --http0.9 http://8.8.8.8/ 2>&1 || echo "status $?"
    `);
    expect(stdout).toContain("status 28");
  });

  testTraffic(
    "a foreign wildcard socket on the port: answers all the same, said once",
    async () => {
      const { stdout, events } = await onTopology(`
      background socat -u udp6-recv:53 open:/dev/null
      until ss -uln 2>/dev/null | grep -q ':53 '; do :; done
      capture --proto udp --dport 53 --to-port 50053 --family both
      serve listen --udp --json '[::]:50053'
      for to in 8.8.8.8 8.8.8.8 '[2001:db8::9]' 8.8.4.4; do
        echo x | within client socat -t20 - "udp:$to:53,readbytes=12"
      done
      until [ "$(grep -c '"datagram"' events)" = 4 ]; do kill -0 "$server"; done
    `);
      expect(stdout.match(/hello world/g)).toHaveLength(4);
      const warnings = events.filter(({ event }) => event === "warning");
      expect(warnings).toHaveLength(1);
      expect(warnings[0]?.text).toContain("port 53 is held by another program here");
      const replies = events.filter(({ event }) => event === "datagram");
      expect(replies.map((each) => each.upstream_bytes)).toEqual([12, 12, 12, 12]);
    },
  );
});

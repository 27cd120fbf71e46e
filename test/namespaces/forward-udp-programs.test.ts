/** `forward --udp` among the programs that it works with, by the rules that it puts in itself. */

import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { canUnshare } from "../helpers/netns.ts";
import { testWith } from "../helpers/tools.ts";
import { eventsOf, inLab } from "../helpers/udp-lab.ts";

const files = {
  "datagrams.py": readFileSync(new URL("datagrams.py", import.meta.url), "utf8"),
};

const testPrograms = (...programs: string[]) =>
  testWith(["ip", "nft", "nsenter", "python3", ...programs], { "network namespaces": canUnshare });

const inUrl = (address: string) => (address.includes(":") ? `[${address}]` : address);

const families = [
  { family: "4", asked: "8.8.8.8", client: "10.9.1.2", backend: "10.9.2.2" },
  { family: "6", asked: "2001:db8::9", client: "fd00:1::2", backend: "fd00:2::2" },
] as const;

describe.each(families)("IPv$family", ({ asked, client, backend }) => {
  testPrograms("dig", "dnsmasq")("dig to dnsmasq, by UDP and by TCP", async () => {
    const { stdout, proxy } = await inLab(`
      in_background backend dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --user=root \
        --keep-in-foreground --address=/example.com/192.0.2.77 --log-queries --log-facility=- \
        2> dns.log
      until grep -q started dns.log; do kill -0 "$!"; done
      forward '[::]:50053' --tcp --udp --to '${inUrl(backend)}:53' --routes auto --in p0 --dport 53
      dig() { within client dig +short +tries=1 +time=10 "$@"; }
      dig '@${asked}' udp.example.com
      dig '@${asked}' tcp.example.com +tcp
      stop
      grep 'query\\[A\\]' dns.log
    `);
    // dig takes an answer from nowhere but the address that it asked.
    expect(stdout).toStartWith("192.0.2.77\n192.0.2.77\n");
    expect(stdout).toContain(`udp.example.com from ${client}\n`);
    expect(stdout).toContain(`tcp.example.com from ${client}\n`);
    const ends = {
      original_destination: `${inUrl(asked)}:53`,
      upstream: `${inUrl(backend)}:53`,
      source: "client",
    };
    expect(eventsOf(proxy, "forwarded")).toMatchObject([
      { protocol: "tcp", ...ends },
      { protocol: "udp", ...ends, client_datagrams: 1, upstream_datagrams: 1, reason: "stopped" },
    ]);
  });

  testPrograms("iperf3", "ss")("iperf3 -u, each way: nothing is lost or out of order", async () => {
    // So little that it fits into the buffers on its way, however busy this machine is.
    const { stdout } = await inLab(`
      in_background backend iperf3 -s -J > server.json
      until within backend ss -Hltn | grep -q :5201; do kill -0 "$!"; done
      forward '[::]:5201' --tcp --udp --to '${inUrl(backend)}:5201' --routes auto --in p0
      for way in '' -R; do
        within client iperf3 -c '${asked}' -u -b 1M -t 1 -l 1200 $way -J > client.json
        echo "result $(tr -d '\\n\\t' < client.json)"
      done
      stop
    `);
    const results = [...stdout.matchAll(/^result (.*)$/gm)].map(([, json]) =>
      JSON.parse(`${json}`),
    );
    expect(results).toHaveLength(2);
    for (const { error, end } of results) {
      expect(error).toBeUndefined();
      expect(end.sum.packets).toBeGreaterThan(50);
      expect(end.sum.lost_packets).toBe(0);
      expect(end.streams[0].udp.out_of_order).toBe(0);
    }
  });

  testPrograms("socat")("socat at both ends, a program behind the one that answers", async () => {
    const { stdout } = await inLab(`
      in_background backend socat udp6-recvfrom:9000,fork exec:'rev' 2> socat.log
      until within backend ss -Hlun | grep -q :9000; do kill -0 "$!"; done
      forward '[::]:50053' --udp --to '${inUrl(backend)}:9000' --routes auto --in p0 --dport 7
      for word in level stressed repaid; do
        count=$((\${#word} + 1))
        echo "$word" | within client socat -t10 - 'udp:${inUrl(asked)}:7,readbytes='$count
      done
      stop
    `);
    expect(stdout).toStartWith("level\ndesserts\ndiaper\n");
  });

  testPrograms()(
    "TTL goes on one lower, TOS begins anew, both ways, and ECN marks are not carried",
    async () => {
      const { stdout } = await inLab(
        `
      in_background backend python3 datagrams.py header-server 9000 > server.log
      until grep -q bound server.log; do kill -0 "$!"; done
      background socat -u udp6-recv:54 open:/dev/null
      until ss -Hlun | grep -q ':54 '; do :; done
      forward '[::]:50053' --udp --to '${inUrl(backend)}:9000' --routes auto --in p0 \
        --dport 53,54,50053
      for port in 53 54 50053; do within client python3 datagrams.py header '${asked}' "$port"; done
      stop
      cat server.log
    `,
        files,
      );
      // 13 and 0xb9 were sent, and 77 and 0x28 answered.
      expect(stdout).toStartWith("answered ttl 64 tos 0\n".repeat(3));
      expect(stdout).toContain(`bound\n${"seen ttl 12 tos 0\n".repeat(3)}`);
    },
  );
});

testPrograms("socat")("src_valid_mark: doctor names the repair, and then it works", async () => {
  const { stdout } = await inLab(
    `
    at_backend listen --udp --echo --quiet --json '[::]:9000'
    echo 1 > /proc/sys/net/ipv4/conf/p0/src_valid_mark
    capture 53
    forward '[::]:50053' --udp --to 10.9.2.2:9000
    within client python3 datagrams.py ask 8.8.8.8 53 1 2 1
    tproxy doctor --in p0 --proto udp --dport 53 --to-port 50053 --family 4 > doctor.log || :
    repair=$(sed -n 's/^ *repair: \\(sysctl .*accept_local=1\\)$/\\1/p' doctor.log)
    echo "repair: $repair"
    eval "$repair" > /dev/null
    within client python3 datagrams.py ask 8.8.8.8 53 1
    stop
  `,
    files,
  );
  expect(stdout).toStartWith(
    "outcomes silence\nrepair: sysctl -w net.ipv4.conf.p0.accept_local=1\noutcomes 2\n",
  );
});

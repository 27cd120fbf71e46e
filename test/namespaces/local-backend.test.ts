/** Upstreams on the proxy's own host that see the client: their answers come back by an ip rule. */

import { describe, expect } from "bun:test";
import { command, families, inLab, testInLab } from "../helpers/forward-lab.ts";
import { ruleFunctions } from "../helpers/rules.ts";
import { eventsOf } from "../helpers/udp-lab.ts";

const testLocal = testInLab(["curl", "socat"]);

const bare = `
${ruleFunctions}
routes --remove > removed.log
dump before
curling() { within client curl -sS --max-time 10 --http0.9 "$@"; }
here() {
  : > backend.log
  ${command} listen --json --no-transparent "$@" >> backend.log &
  server=$!
  started="$started $server"
  eventually grep -q bound backend.log
}
`;

describe.each(families)("IPv$family", ({ family, asked, client }) => {
  const [loopback, own] = family === "4" ? ["127.0.0.1", "10.9.2.1"] : ["[::1]", "[fd00:2::1]"];
  const near = family === "4" ? "10.9.1.1" : "[fd00:1::1]";
  // A name may have addresses of both families, of which one cannot have the client's.
  const targets = family === "4" ? [loopback, own, "localhost"] : [loopback, own];
  const [from, bareLoopback] = [client, loopback].map((each) => each.replace(/[[\]]/g, ""));

  testLocal("at a loopback address, an own one, by a name: it answers, and sees whom", async () => {
    const { stdout, backend } = await inLab(`${bare}
      here '[::]:8080'
      for to in ${targets.map((to) => `'${to}'`).join(" ")}; do
        forward '[::]:80' --to "$to:8080" --routes auto --in p0
        curling 'http://${asked}/'
        kill "$proxy"; wait "$proxy"
        dump after; same before after "$to"
      done
    `);
    for (const to of targets) {
      expect(stdout).toContain(`hello world\n${to}: same\n`);
    }
    const seen = eventsOf(backend, "accepted").map((each) => String(each.client));
    expect(seen).toHaveLength(targets.length);
    for (const each of seen) expect(each).toStartWith(`${client}:`);
  });

  testLocal("of UDP, bound to its address", async () => {
    const { stdout, backend } = await inLab(`${bare}
      asks() {
        echo question | within client socat -t0.3 - "udp:${asked}:53" > answered
        grep answer answered
      }
      for to in '${loopback}' '${own}'; do
        here --udp "$to:5353" --reply answer
        forward '[::]:53' --udp --to "$to:5353" --udp-timeout 1s
        echo question | within client socat -t0.1 - "udp:${near}:53"
        until_true grep -q 'has not answered .* it is on this host' proxy.log
        kill "$proxy"; wait "$proxy"
        forward '[::]:53' --udp --to "$to:5353" --routes auto --in p0
        eventually asks
        cat answered
        kill "$proxy"; wait "$proxy"
        kill "$server"; wait "$server" || :
        dump after; same before after "$to"
      done
    `);
    for (const to of [loopback, own]) expect(stdout).toContain(`answer\n${to}: same\n`);
    const [datagram] = eventsOf(backend, "datagram");
    expect(datagram?.client).toStartWith(`${client}:`);
  });

  testLocal("routes --backend: applied, checked, explained and removed", async () => {
    const { stdout } = await inLab(`${bare}
      here '${loopback}:8080'
      forward '[::]:80' --to '${loopback}:8080' --connect-timeout 500ms
      set -- --dport 80 --in p0 --family ${family} --backend '${loopback}:8080'
      explains() { ${command} explain connect '${loopback}:8080' --from '${from}' | tail -n1; }
      explains || :
      curling 'http://${near}/' 2> curl.log || :
      until_true grep -o 'upstream .* is on this host' proxy.log
      routes --apply "$@" > applied.log
      explains
      routes --check "$@"
      curling 'http://${asked}/'
      ip -${family} rule del from ${bareLoopback}
      routes --check "$@" || echo "differs: $?"
      routes --apply "$@" > applied.log
      routes --print "$@" --undo > undo.sh
      routes --remove "$@" > removed.log
      dump after; same before after removed
      routes --print "$@" > apply.sh
      sh -e apply.sh
      routes --print "$@" --undo | sh -e
      ip -${family} rule | grep -c 'lookup 100' || :
      curling --max-time 1 'http://${asked}/' || :
    `);
    expect(stdout).toContain("It will not work");
    expect(stdout).toContain(`upstream ${loopback}:8080 has not answered ${from}: it is on this`);
    expect(stdout).toContain("It will work");
    const rule = `rule 100: from ${bareLoopback} iif lo ipproto tcp sport 8080 lookup 100`;
    expect(stdout).toMatch(RegExp(`^- ip.* ?${rule} protocol 116$`, "m"));
    expect(stdout).toContain("differs: 1\n");
    expect(stdout).toContain("removed: same\n0\n");
    expect(stdout.match(/hello world/g)).toHaveLength(1);
  });
});

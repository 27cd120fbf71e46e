/** `run`: several services, and the one set of rules that brings each of them its packets. */

import { describe, expect } from "bun:test";
import { command, families, inLab, testInLab } from "../helpers/forward-lab.ts";
import { ruleFunctions } from "../helpers/rules.ts";

const testRun = testInLab(["curl", "socat"]);

/** `serve FILE` runs a configuration, its log in proxy.log; `reaped` waits for the process. */
const functions = `
${ruleFunctions}
routes --remove > removed.log
curling() { within client curl -sS --max-time 10 --http0.9 "$@"; }
serve() {
  : > proxy.log
  ${command} run -c "$1" >> proxy.log &
  proxy=$!
  started="$started $proxy"
  until_true has_worker
}
`;

const services = (backend: string) => `
[log]
format = "json"
[routes]
install = "auto"
[[pool]]
name = "web"
to = "${backend}:8080"
[[service]]
name = "bypassing"
listen = "[::]:50081"
to = "${backend}:8081"
capture = { dport = [80, 81], bypass = ["8.8.8.0/24", "2001:db8::/64"] }
[[service]]
name = "web"
listen = "[::]:50080"
pool = "web"
capture = { in = ["p0"], dport = [80] }
[[service]]
name = "marked"
listen = "[::]:8443"
pool = "web"
[[service]]
name = "dns"
listen = ["udp://[::]:50053"]
to = "${backend}:5353"
capture = { dport = [53] }
[[service]]
name = "local"
listen = "[::]:50090"
pool = "web"
capture = { dport = [8090], local = true }
[[service]]
name = "reverse"
listen = "127.0.0.1:8000"
source = "self"
pool = "web"
[[service]]
name = "off"
listen = "[::]:50099"
to = "${backend}:9"
capture = { dport = [9] }
enabled = false
`;

describe.each(families)("IPv$family", ({ family, asked, client, backend }) => {
  testRun("each service gets its own packets, and nothing is left at the end", async () => {
    const other = family === "4" ? "9.9.9.9" : "[2001:db9::9]";
    const {
      stdout,
      proxy,
      backend: seen,
    } = await inLab(
      `${functions}
      ip route add default via 10.9.2.2
      ip route add default via fd00:2::2
      dump before
      at_backend listen --json '[::]:8080' '[::]:8081' 'udp://[::]:5353' --reply answer
      serve run.toml
      until_true grep -q 50090 proxy.log
      # Its exemption of this address exempts it from no other service.
      curling 'http://${asked}/'
      curling 'http://${other}/' 'http://${asked}:8443/' 'http://${asked}:8090/'
      # What this host itself sends: one service captures that, and none of our own connections.
      curl -sS --max-time 10 --http0.9 'http://${asked}:8090/'
      asks() {
        echo question | within client socat -t0.3 - "udp:${asked}:53" > answer
        grep answer answer
      }
      eventually asks
      nft list table inet tproxyd | grep -o 'comment .*' | sort -u
      ended 5
      kill "$proxy"; wait "$proxy" && echo "ended with 0"
      dump after; same before after rules
    `,
      { "run.toml": services(backend) },
    );
    expect(stdout).toContain("ended with 0\nrules: same\n");
    const comments = stdout.match(/tproxyd: [^"]*/g);
    expect(comments).toEqual(
      expect.arrayContaining([
        ...["tproxyd: bypass bypassing", "tproxyd: capture bypassing", "tproxyd: capture web"],
        ...["tproxyd: capture dns", "tproxyd: capture local", "tproxyd: guard local"],
        ...["tproxyd: local local", "tproxyd: reply path", "tproxyd: errors"],
      ]),
    );
    expect(stdout).not.toContain("capture off");
    const ended = proxy
      .filter(({ event, protocol }) => event === "forwarded" && protocol === "tcp")
      .map(({ service, original_destination: to, upstream }) => `${service} ${to} ${upstream}`);
    expect(ended.sort()).toEqual(
      [
        `bypassing ${other}:80 ${backend}:8081`,
        `local ${asked}:8090 ${backend}:8080`,
        `local ${asked}:8090 ${backend}:8080`,
        `marked ${asked}:8443 ${backend}:8080`,
        `web ${asked}:80 ${backend}:8080`,
      ].sort(),
    );
    const clients = seen.filter(({ event }) => event === "accepted").map((each) => each.client);
    const spoofed = clients.filter((each) => String(each).startsWith(`${client}:`));
    expect([clients.length, spoofed.length]).toEqual([5, 4]);
  });
});

const changed = (backend: string) =>
  services(backend)
    .replace('dport = [80, 81], bypass = ["8.8.8.0/24", "2001:db8::/64"]', "dport = [81, 82]")
    .replace('name = "off"', 'name = "on"')
    .replace("enabled = false", "enabled = true")
    .replace(/\[\[service\]\]\nname = "local"[\s\S]*?(?=\[\[service)/, "");

/** The last service is the first, which gets what several would capture. */
function reversed(configuration: string): string {
  const [head, ...all] = configuration.split("[[service]]");
  return [head, ...all.toReversed()].join("[[service]]");
}

testRun("a reload: one transaction, and the rules are those of a fresh start", async () => {
  const { stdout } = await inLab(
    `${functions}
    at_backend listen --json '[::]:8080' '[::]:8081'
    rules() { nft list ruleset; ip rule; ip -6 rule; ip route show table 100; }
    fresh() {
      serve "$1"; until_true grep -q '"on"\\|50090' proxy.log; rules > "$2"
      kill "$proxy"; wait "$proxy"
    }
    reloads() {
      cp "$1" now.toml; count=$(grep -c '"reloaded"' proxy.log || :)
      kill -HUP "$proxy"
      reloaded() { [ "$(grep -c '"reloaded"' proxy.log)" -gt "$count" ]; }
      until_true reloaded
    }
    dump before
    fresh one.toml one
    fresh two.toml two
    fresh none.toml none
    fresh reversed.toml reversed
    cp one.toml now.toml
    serve now.toml
    until_true grep -q 50090 proxy.log
    # Nobody sees a moment without the capture: what is captured for 80 comes through all the time.
    ( while :; do curling -o answer 'http://9.9.9.9:80/' || echo "lost: $?" >> lost; done ) &
    loop=$!
    for turn in 1 2 3; do
      reloads two.toml; rules > now; same two now "second $turn"
      reloads one.toml; rules > now; same one now "first $turn"
    done
    kill "$loop"; wait "$loop" || :
    [ ! -e lost ] || cat lost
    reloads none.toml; rules > now; same none now none
    reloads one.toml; rules > now; same one now "again"
    reloads reversed.toml; rules > now; same reversed now "reversed"
    cmp -s one reversed && echo "the order makes no difference"
    kill "$proxy"; wait "$proxy"
    dump after; same before after rules
  `,
    {
      "one.toml": services("10.9.2.2"),
      "two.toml": changed("10.9.2.2"),
      "reversed.toml": reversed(services("10.9.2.2")),
      "none.toml": `${changed("10.9.2.2")
        .replace(/capture = .*/g, "")
        .replace('"auto"', '"none"')}`,
    },
  );
  const same = [1, 2, 3].flatMap((turn) => [`second ${turn}: same`, `first ${turn}: same`]);
  expect(stdout.trim().split("\n")).toEqual(
    expect.arrayContaining([...same, "none: same", "again: same", "reversed: same", "rules: same"]),
  );
  expect(stdout).not.toMatch(/lost|no difference/);
});

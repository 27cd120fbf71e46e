/** `forward --to NAME`: a DNS server whose answers change, in a namespace of its own. */

import { expect } from "bun:test";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { ruleFunctions } from "../helpers/rules.ts";
import { testWith } from "../helpers/tools.ts";
import { tproxy } from "../helpers/tproxy.ts";

const testNames = testWith(["dnsmasq", "dig", "socat", "mount"], {
  "network namespaces": canUnshare,
});

const command = tproxy.map((word) => `'${word}'`).join(" ");

/**
 * Three servers that say who they are; `resolves A…` says what back.test stands for; `forward …`
 * starts the proxy, which alone sees an /etc/resolv.conf that names the server of this stage, and
 * an /etc/hosts of its own.
 */
const stage = `
${ruleFunctions}
ip address add 10.9.9.1/32 dev lo
ip address add 10.9.9.2/32 dev lo
ip address add fd00:9::3/128 dev lo nodad
server() { background socat "$1-listen:8080,bind=$2,fork,reuseaddr" "system:echo $3; cat"; }
server tcp4 10.9.9.1 a
server tcp4 10.9.9.2 b
server tcp6 '[fd00:9::3]' c
resolves() { : > zone; for host in "$@"; do echo "$host back.test" >> zone; done; }
changes() { resolves "$@"; kill -HUP "$dns"; }
echo 'nameserver 127.0.0.1' > resolv.conf
echo '127.0.0.1 localhost' > hosts
dns() {
  background dnsmasq --keep-in-foreground --no-resolv --no-hosts --addn-hosts="$PWD/zone" \\
    --local=/test/ --local-ttl=1 --listen-address=127.0.0.1 --bind-interfaces --user=root \\
    --pid-file 2> dns.log
  dns=$!
  eventually dig @127.0.0.1 back.test
}
ask() { socat -t20 - tcp:127.0.0.1:50080 < /dev/null; }
proxy() {
  : > proxy.log
  unshare -m sh -c 'for file in hosts resolv.conf; do mount --bind "$file" "/etc/$file"; done
    exec "$@"' sh ${command} \\
    forward --source self "$@" > proxy.log 2>&1 &
  proxy=$!
  started="$started $proxy"
  eventually grep -E '(\\[[+]\\] Bound|^tproxy:)' proxy.log
}
forward() { proxy --no-transparent 127.0.0.1:50080 "$@"; }
answers() { test "$(ask)" = "$1"; }
`;

async function onStage(script: string): Promise<string> {
  const { status, stdout, stderr } = await inNamespace(`${stage}\n${script}`);
  if (status !== 0) throw new Error(`status ${status}: ${stderr}\n${stdout}`);
  return stdout;
}

testNames("all addresses of a name are used, both families", async () => {
  const stdout = await onStage(`
    resolves 10.9.9.1 10.9.9.2 fd00:9::3
    dns
    forward --to back.test:8080
    for i in 1 2 3 4 5 6; do ask; done | sort | uniq -c | tr -s ' '
  `);
  expect(stdout).toBe(" 2 a\n 2 b\n 2 c\n");
});

testNames(
  "new connections follow the name, open ones stay; a lost name keeps its last",
  async () => {
    const stdout = await onStage(`
    resolves 10.9.9.1
    dns
    forward --workers 2 --to back.test:8080
    mkfifo in
    socat -t20 - tcp:127.0.0.1:50080 < in > open &
    open=$!
    exec 3> in
    eventually grep -q a open
    changes 10.9.9.2
    eventually answers b
    echo "still there" >&3
    eventually grep -q 'still there' open
    exec 3>&-
    wait "$open"
    changes
    eventually grep -q 'not found any more' proxy.log
    ask
    cat open proxy.log
  `);
    expect(stdout).toContain("b\na\nstill there\n");
    expect(stdout).toContain(
      '[!] the name "back.test" is not found any more (127.0.0.1: it has no address): its old ' +
        "addresses stay",
    );
  },
);

testNames("a name of /etc/hosts, whatever the DNS says", async () => {
  const stdout = await onStage(`
    resolves 10.9.9.1
    echo '10.9.9.2 back.test' >> hosts
    dns
    forward --to back.test:8080
    ask; ask
  `);
  expect(stdout).toBe("b\nb\n");
});

testNames("only if no upstream is known it is refused, with what the DNS says", async () => {
  const stdout = await onStage(`
    resolves
    dns
    forward --to back.test:8080 || :
    wait "$proxy" || echo "status $?"
    cat proxy.log
    kill "$dns"; wait "$dns" || :
    forward --to back.test:8080 --to other.test:1 || :
    cat proxy.log
  `);
  const refused = "127.0.0.1: Connection refused";
  expect(stdout).toBe(
    'status 1\ntproxy: --to: not found: the name "back.test" (127.0.0.1: it has no address)\n' +
      `tproxy: --to: not found: the name "back.test" (${refused}); ` +
      `the name "other.test" (${refused})\n`,
  );
});

testNames(
  "a silent DNS delays neither a known upstream nor a name of /etc/hosts",
  async () => {
    const stdout = await onStage(`
    background socat udp4-recvfrom:53,bind=127.0.0.1,fork system:true
    silent=$!
    echo '10.9.9.2 here.test' >> hosts
    forward --to here.test:8080
    ask; grep -c 'not found' proxy.log || :
    kill "$proxy"; wait "$proxy"
    forward --to back.test:8080 --to 10.9.9.1:8080
    ask; ask; grep -o 'the name.*' proxy.log
    kill "$silent"; wait "$silent" || :
    resolves 10.9.9.2
    dns
    eventually answers b
    eventually grep -q 'is found again' proxy.log
  `);
    const unknown = 'the name "back.test" is not found (it is still looked up)';
    expect(stdout).toBe(`b\n0\na\na\n${unknown}: it is looked up again\n`);
  },
  240_000,
);

testNames("search domains, a dead server, more than a datagram holds", async () => {
  const addresses = Array.from({ length: 60 }, (_, i) => `10.9.1.${i + 1}`).join(" ");
  const stdout = await onStage(`
    ip address add 10.9.1.0/24 dev lo
    background socat tcp4-listen:8081,fork,reuseaddr system:true
    resolves ${addresses}
    dns
    printf 'nameserver 127.0.0.9\nnameserver 127.0.0.1\nsearch no.test test\n' > resolv.conf
    forward --to back:8081 --log-level debug
    for i in $(seq 60); do ask > /dev/null; done
    all() { test "$(grep -o 'Reached tcp://[0-9.]*' proxy.log | sort -u | wc -l)" = 60; }
    eventually all && echo "all of them"
  `);
  expect(stdout).toBe("all of them\n");
});

testNames("a server that refuses, and one address, of IPv6", async () => {
  // Without an upstream of its own dnsmasq answers REFUSED for what it does not know.
  const stdout = await onStage(`
    resolves fd00:9::3
    dns
    background dnsmasq --keep-in-foreground --no-resolv --no-hosts --listen-address=127.0.0.8 \\
      --bind-interfaces --user=root --pid-file
    refuses() { dig @127.0.0.8 back.test | grep -q 'status: REFUSED'; }
    eventually refuses
    printf 'nameserver 127.0.0.8\\nnameserver 127.0.0.1\\n' > resolv.conf
    forward --to back.test:8080
    ask; ask
  `);
  expect(stdout).toBe("c\nc\n");
});

testNames("a capture of what this host sends leaves look-ups alone", async () => {
  // What is captured goes to a resolver that knows back.test otherwise: it would lose itself.
  const stdout = await onStage(`
    namespace far
    veth far near0 far0
    ip address add 10.9.8.1/24 dev near0
    within far ip address add 10.9.8.2/24 dev far0
    within far ip address add 10.9.8.3/24 dev far0
    resolver() {
      background nsenter -t "$far" -n dnsmasq --keep-in-foreground --no-resolv --no-hosts \\
        --local-ttl=1 --address=/back.test/$2 --address=/asked.test/$3 --user=root \\
        --listen-address=$1 --bind-interfaces --log-queries --log-facility="$PWD/$1.log" --pid-file
      eventually dig @$1 back.test
    }
    resolver 10.9.8.2 10.9.8.3 10.9.9.2
    resolver 10.9.8.3 10.9.8.9 10.9.9.3
    echo 'nameserver 10.9.8.2' > resolv.conf
    proxy :53 --udp --to back.test:53 --local --routes auto
    for turn in 1 2; do
      before=$(grep -c 'query.A. back.test' 10.9.8.2.log)
      more() { test "$(grep -c 'query.A. back.test' 10.9.8.2.log)" -gt "$((before + 1))"; }
      eventually more
      dig +short +tries=1 @10.9.8.200 asked.test
    done
  `);
  expect(stdout).toBe("10.9.9.3\n10.9.9.3\n");
});

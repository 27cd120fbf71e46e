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
    --local-ttl=1 --listen-address=127.0.0.1 --bind-interfaces --user=root --pid-file 2> dns.log
  dns=$!
  eventually dig @127.0.0.1 back.test
}
ask() { socat -t5 - tcp:127.0.0.1:50080 < /dev/null; }
forward() {
  unshare -m sh -c 'for file in hosts resolv.conf; do mount --bind "$file" "/etc/$file"; done
    exec "$@"' sh ${command} \\
    forward --no-transparent --source self 127.0.0.1:50080 "$@" > proxy.log 2>&1 &
  proxy=$!
  started="$started $proxy"
  eventually grep -E '(\\[[+]\\] Bound|^tproxy:)' proxy.log
}
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
    socat -t5 - tcp:127.0.0.1:50080 < in > open &
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
      '[!] the name "back.test" is not found any more: its old addresses stay',
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

testNames("a name without an address is refused at the start", async () => {
  const stdout = await onStage(`
    resolves
    dns
    forward --to back.test:8080 || :
    wait "$proxy" || echo "status $?"
    cat proxy.log
  `);
  expect(stdout).toBe('status 1\ntproxy: --to: the name "back.test" has no address\n');
});

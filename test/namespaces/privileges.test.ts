/** What a proxy lacks is named at its start, and answers take the way that is left. */

import { describe, expect } from "bun:test";
import { families } from "../helpers/forward-lab.ts";
import { canUnshare } from "../helpers/netns.ts";
import { command, runAmongHosts } from "../helpers/three-hosts.ts";
import { testWith } from "../helpers/tools.ts";

const testPrivileges = testWith(["ip", "nft", "nsenter", "setpriv", "unshare"], {
  "network namespaces": canUnshare,
});

/** `with_only CAPS COMMAND…`: root with these capabilities alone, `start` the proxy like that. */
const lab = `
with_only() { caps=$1; shift; setpriv --bounding-set "-all,$caps" --inh-caps -all "$@"; }
launch() {
  : > proxy.log
  setpriv --bounding-set "-all,$1" --inh-caps -all ${command} forward --json $words >> proxy.log &
  proxy=$!
  started="$started $proxy"
  until grep -q '"bound"' proxy.log; do kill -0 "$proxy"; sleep 0.02; done
}
stop() { kill "$proxy"; wait "$proxy" || :; }
ask() { within client ${command} bind "$1:\${4:-0}" --to "$2:$3" --send hi; }
`;

describe.each(families)("IPv$family", ({ family, asked, client, backend }) => {
  testPrivileges(
    "answers from a low port",
    async () => {
      const { stdout, proxy } = await runAmongHosts(
        `${lab}
      words="[::]:5300 --udp --to ${backend}:7000 --source self"
      words="$words --routes auto --family ${family} --in p0"
      at_backend listen --json --udp --echo "[::]:7000"
      echo "--- none"
      with_only +net_admin ${command} forward $words --dport 53 2>&1 || echo "status $?"
      nft list tables; ip -${family} rule | grep -c "fwmark" || :
      echo "--- raw"
      words="$words --dport 53"; launch +net_admin,+net_raw
      ask ${client} ${asked} 53
      stop
      echo "--- some"
      words="$words,4000"; launch +net_admin; ask ${client} ${asked} 4000; stop
      echo "--- free to all"
      sysctl -qw net.ipv4.ip_unprivileged_port_start=53
      launch +net_admin; ask ${client} ${asked} 53; stop; cat proxy.log
      echo "--- end"`,
        { files: {}, timeoutMs: 230_000 },
      );
      const part = (name: string) => stdout.split(`--- ${name}\n`)[1]?.split("---")[0] ?? "";
      expect(part("none")).toMatch(
        /^tproxy: Cannot answer: UDP answers from port 53 need CAP.*\nstatus 1\n0\n$/,
      );
      expect(part("raw")).toMatch(/hi/);
      expect(part("some")).toMatch(/hi/);
      expect(part("free to all")).toMatch(/hi/);
      expect(part("free to all")).not.toMatch(/CAP_NET/);
      expect(proxy).toBeDefined();
    },
    240_000,
  );

  testPrivileges(
    "a client's low port is given up, and the rest goes on",
    async () => {
      const { stdout } = await runAmongHosts(
        `${lab}
      words="[::]:5300 --tcp --udp --to ${backend}:7000 --source client:port"
      words="$words --routes auto --family ${family} --in p0 --dport 4000"
      at_backend listen --json --tcp --udp --echo "[::]:7000"
      launch +net_admin
      ask ${client} ${asked} 4000 700
      echo hi | within client ${command} bind --tcp ${client}:701 --to ${asked}:4000
      stop; cat proxy.log`,
        { files: {}, timeoutMs: 230_000 },
      );
      expect(stdout.match(/^.*hi$/gm)).toHaveLength(2);
      expect(stdout).toMatch(
        /clients' ports below 1024 need .*, so such clients are connected from another port/,
      );
      expect(stdout).toMatch(
        /the client's port needs CAP_NET_BIND_SERVICE here: sending from another/,
      );
      expect(stdout).toMatch(
        /the client's port needs CAP_NET_BIND_SERVICE here: connecting from another/,
      );
    },
    240_000,
  );
});

testPrivileges(
  "capabilities of a user namespace that does not own the network",
  async () => {
    const { stdout } = await runAmongHosts(
      `
    unshare -Ur ${command} listen 127.0.0.1:0 2>&1 || echo "status $?"
    unshare -Ur ${command} routes --apply --dport 80 2>&1 || echo "status $?"
    unshare -Ur ${command} doctor 2>&1 | grep capabilities || :`,
      { files: {}, timeoutMs: 230_000 },
    );
    const foreign =
      "this process has CAP_NET_ADMIN.*, but not in the user namespace of its network";
    expect(stdout).toMatch(new RegExp(`Cannot bind \\S+: .*${foreign}.*\nstatus 1\n`));
    expect(stdout).toMatch(new RegExp(`Cannot apply routes: .*${foreign}.*\nstatus 1\n`));
    expect(stdout).toMatch(new RegExp(`FAILURE +capabilities +.*${foreign}`));
  },
  240_000,
);

testWith(["ip", "nft", "setpriv", "prlimit"], {
  "network namespaces": canUnshare,
  root: process.getuid?.() === 0,
})(
  "too few threads for the Workers: nothing is changed",
  async () => {
    const caps = "-all,+net_admin,+net_raw";
    const { stdout } = await runAmongHosts(
      `setpriv --reuid 54396 --regid 54396 --clear-groups --inh-caps ${caps} \
      --ambient-caps ${caps} \
      prlimit --nproc=40 ${command} forward :50080 --to original --routes auto --in p0 --dport 80 \
      --workers 64 2>&1 || echo "status $?"
    ip rule | grep -c fwmark || :; nft list tables`,
      { files: {}, timeoutMs: 230_000 },
    );
    expect(stdout).toMatch(/^tproxy: Cannot start 64 workers: [^\n]*\nstatus 1\n0\n$/m);
  },
  240_000,
);

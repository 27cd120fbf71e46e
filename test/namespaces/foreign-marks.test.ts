/**
 * Marks that other programs' firewall rules set: where they have our bits, nothing is applied, and
 * the rule is named; where they have not, nothing is said.
 */

import { expect } from "bun:test";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { command } from "../helpers/three-hosts.ts";
import { testWith } from "../helpers/tools.ts";

/** A foreign rule, what is asked of tproxy, and the place that is named; none: it is applied. */
type Case = readonly [rules: string, options: string, named: RegExp | undefined];

const nft = (chain: string, ...rules: string[]) =>
  `nft add table inet qos; nft add chain inet qos c '{ ${chain} }'; ` +
  rules.map((rule) => `nft add rule inet qos c ${rule}`).join("; ");
const prerouting = "type filter hook prerouting priority mangle;";
const output = "type route hook output priority mangle;";
const all = (family: string) => `--dport 80 --to-port 50080 --family ${family}`;
const local = `${all("4")} --local --guard-mark 0x2/0x2`;
const place = /table inet qos chain c handle \d+/;

const cases: Readonly<Record<string, Case>> = {
  "nft: our value": [nft(prerouting, "meta mark set 0x1"), all("4"), place],
  "nft: a value with our bit": [nft(prerouting, "meta mark set 0x11"), all("6"), place],
  "nft: a value without": [nft(prerouting, "meta mark set 0x10"), all("both"), undefined],
  "nft: or, our bit": [nft(output, "meta mark set meta mark or 0x3"), all("4"), place],
  "nft: and, our bit is cleared": [
    nft(prerouting, "meta mark set meta mark and 0xfffffff0"),
    all("4"),
    place,
  ],
  "nft: or, another bit": [nft(prerouting, "meta mark set meta mark or 0x10"), all("4"), undefined],
  "nft: behind routing": [
    nft("type filter hook postrouting priority mangle;", "meta mark set 0x1"),
    all("4"),
    undefined,
  ],
  "nft: a chain without a hook": [
    "nft add table ip6 qos; nft add chain ip6 qos c; nft add rule ip6 qos c meta mark set 1",
    all("6"),
    /table ip6 qos chain c/,
  ],
  "nft: of the other family": [
    "nft add table ip6 qos; nft add chain ip6 qos c; nft add rule ip6 qos c meta mark set 1",
    all("4"),
    undefined,
  ],
  "nft: the connection's mark, restored": [
    nft(prerouting, "meta mark set ct mark", "ct mark set 0x1"),
    all("4"),
    /connection's mark, which is restored, to 0x1/,
  ],
  "nft: the connection's mark, not restored": [
    nft(prerouting, "ct mark set 0x1"),
    all("4"),
    undefined,
  ],
  "the bit of our guard": [nft(output, "meta mark set meta mark or 0x2"), local, /--guard-mark/],
  "an ip rule with the bit of our guard": [
    "ip rule add fwmark 0x2/0xf lookup 200 priority 60",
    local,
    /0x2\/0x2 of our own packets shares bits with "ip rule 60/,
  ],
  "iptables: MARK": [
    "iptables -t mangle -A PREROUTING -p udp -j MARK --set-mark 0x1",
    all("4"),
    /table ip mangle chain PREROUTING/,
  ],
  "iptables: MARK with a mask": [
    "iptables -t mangle -A PREROUTING -p udp -j MARK --set-xmark 0x0/0xff",
    all("4"),
    /table ip mangle chain PREROUTING handle \d+\), which sets the mark 0x0\/0xff/,
  ],
  "iptables: other bits": [
    "iptables -t mangle -A PREROUTING -p udp -j MARK --set-xmark 0x100/0xff00",
    all("4"),
    undefined,
  ],
  "ip6tables: CONNMARK": [
    `ip6tables -t mangle -A PREROUTING -j CONNMARK --restore-mark
     ip6tables -t mangle -A PREROUTING -j CONNMARK --set-xmark 0x1/0xff`,
    all("6"),
    /table ip6 mangle chain PREROUTING/,
  ],
  "iptables-legacy: MARK": [
    "iptables-legacy -t mangle -A PREROUTING -p udp --dport 9 -j MARK --set-mark 0x1",
    all("4"),
    /iptables-legacy table mangle/,
  ],
  "ip6tables-legacy: CONNMARK": [
    `ip6tables-legacy -t mangle -A PREROUTING -p tcp -j CONNMARK --restore-mark
     ip6tables-legacy -t mangle -A PREROUTING -j CONNMARK --set-mark 0x1`,
    all("6"),
    /ip6tables-legacy table mangle/,
  ],
};

const hasLegacy = Bun.spawnSync(["unshare", "-n", "iptables-legacy", "-t", "mangle", "-L"]).success;
const tools = ["ip", "nft", "iptables", "ip6tables"];
const means = { "network namespaces": canUnshare };
const undo = `nft flush ruleset; ip rule del priority 60 2>/dev/null || :
  for t in iptables-legacy ip6tables-legacy; do $t -t mangle -F 2>/dev/null || :; done`;

/** Each case's answer: a status, and a line. */
async function ask(names: readonly string[]): Promise<Map<string, string>> {
  const script = names.map((name, index) => {
    const [rules, options] = cases[name] as Case;
    return `echo "=== ${index}"
      ${rules}
      ${command} routes --apply ${options} 2>&1 | grep -v '^+' || :
      ${command} routes --remove > remove.log; ${undo}`;
  });
  const { stdout, stderr, status } = await inNamespace(`${script.join("\n")}\necho "=== end"`, {
    timeoutMs: 230_000,
  });
  expect([status, stderr]).toEqual([0, ""]);
  const answers = stdout.split(/^=== \w+\n/m).slice(1);
  return new Map(names.map((name, index) => [name, answers[index] ?? ""]));
}

function check(isLegacy: boolean) {
  const names = Object.keys(cases).filter((name) => name.includes("legacy") === isLegacy);
  return async () => {
    const answers = await ask(names);
    const wrong = names.filter((name) => {
      const answer = answers.get(name) ?? "";
      const [, , named] = cases[name] as Case;
      if (named === undefined) return answer !== "applied\n";
      return !(
        /^tproxy: Cannot apply, and nothing has been changed: [^\n]*\n$/.test(answer) &&
        named.test(answer)
      );
    });
    expect(wrong.map((name) => [name, answers.get(name)])).toEqual([]);
  };
}

testWith(tools, means)("nf_tables, and iptables in it", check(false), 240_000);
testWith([...tools, "iptables-legacy", "ip6tables-legacy"], {
  ...means,
  "iptables-legacy": hasLegacy,
})("iptables-legacy, as the kernel shows it", check(true), 240_000);

testWith(tools, means)(
  "forward --routes auto refuses them for marks that are given, and chooses others",
  async () => {
    const forward = `${command} forward :50080 --to original --routes auto --in lo --dport 80`;
    const { stdout } = await inNamespace(
      `${nft(prerouting, "meta mark set 0x1")}
    ${forward} --mark 0x1/0x1 2>&1 || echo "status $?"
    ${forward} > forward.log 2>&1 & proxy=$!; started="$started $proxy"
    until grep -q Bound forward.log; do kill -0 "$proxy"; sleep 0.02; done
    grep chosen forward.log; kill "$proxy"; wait "$proxy"
    nft flush ruleset
    ${nft(output, "meta mark set meta mark or 0x2")}
    ${forward} --local --mark 0x1/0x1 --guard-mark 0x2/0x2 2>&1 || echo "status $?"
    ip rule | grep -c fwmark || :; nft list tables
    ${command} doctor --dport 80 --family 4 --local --guard-mark 0x2/0x2 | grep marks || :
    ${command} doctor --dport 80 --family 4 --local --guard-mark 0x4/0x4 | grep marks || :`,
    );
    const refused = "Cannot apply, and nothing has been changed: the mark";
    expect(stdout).toMatch(
      new RegExp(`${refused} 0x1/0x1 shares bits .*${place.source}.*\nstatus 1\n`),
    );
    expect(stdout).toMatch(
      new RegExp(`${refused} 0x2/0x2 of our own packets .*${place.source}.*\nstatus 1\n`),
    );
    expect(stdout).toMatch(/chosen, because others use the default ones: .* mark 0x(?!1\/)/);
    const [, doctor = ""] = stdout.split("0\ntable inet qos\n");
    expect(doctor).toMatch(
      /^ +WARNING +marks +The mark 0x2\/0x2 shares bits with .*\n +ok +marks .*\n$/,
    );
  },
);

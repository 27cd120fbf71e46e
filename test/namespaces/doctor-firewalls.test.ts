/**
 * Firewalls as they are found: what doctor says of a captured connection is what happens to a real
 * one, and the command that it prints repairs what is broken. One lab for all of a kind.
 */

import { beforeAll, describe, expect } from "bun:test";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { testWith } from "../helpers/tools.ts";
import { broken, doubtful, legacy, type RulesetCase, working } from "./doctor/rulesets.ts";
import { topology } from "./doctor/set-up.ts";

const tools = ["ip", "nft", "nsenter", "socat", "iptables", "ip6tables", "iptables-restore"];
const needs = { "network namespaces": canUnshare };

const prelude = `${topology}
ip -6 route add default via fd00:8::2 dev u0 onlink
ip route add default via 10.8.0.2
within client ip -6 route add default via fd00:9::1
serve '[::]:50080' --tcp --udp --echo
# What a client gets of a connection: the listener's word, if it works.
reach() {
  case $1 in
    tcp4) to=TCP4:203.0.113.80:80,connect-timeout=1 ;;
    tcp6) to='TCP6:[2001:db8::50]:80,connect-timeout=1' ;;
    udp4) to=UDP4:203.0.113.80:80 ;;
    udp6) to='UDP6:[2001:db8::50]:80' ;;
  esac
  echo hello | within client timeout 5 socat -t 1 - "$to" 2> /dev/null || :
}
repair_of() { awk '/FAILURE/ { found = 1 } found && sub(/^ *repair: /, "") { print; exit }'; }
reset_all() {
  nft flush ruleset
  command -v iptables-legacy > /dev/null && for family in ip ip6; do
    for table in $(cat /proc/net/\${family}_tables_names 2> /dev/null); do
      \${family}tables-legacy -t $table -F; \${family}tables-legacy -t $table -X
    done
    ! grep -q filter /proc/net/\${family}_tables_names 2> /dev/null ||
      \${family}tables-legacy -P INPUT ACCEPT
  done
  for family in -4 -6; do
    while ip $family rule del fwmark 0x1/0x1 2> /dev/null; do :; done
    while ip $family rule del fwmark 0x8000/0x8000 2> /dev/null; do :; done
    ip $family route flush table 100 2> /dev/null || :
  done
}
ask() {
  number=$1; shift
  echo "== $number"
  tproxy doctor "$@" > said && echo "status 0" >> said || echo "status $?" >> said
  cat said
}
`;

/** What doctor said, and what the client got, at each question of a case. */
interface Seen {
  readonly said: string;
  readonly got: string;
}

function scriptOf(each: RulesetCase, at: number) {
  const { rules, isOlder = false, cause, repair, family = 4, capture = "" } = each;
  const protocol = each.isUdp === true ? "udp" : "tcp";
  const packets = `--dport 80 --in p0 --family ${family} --proto ${protocol}`;
  const intent = `${packets} --to-port 50080 ${capture}`;
  const question = (when: string) =>
    `ask "${at} ${when}" ${intent}; echo "== got $(reach ${protocol}${family})"`;
  return `
    reset_all
    ${isOlder ? `${rules}; capture ${intent}` : `capture ${intent}; ${rules}`}
    ${question("first")}
    ${cause === undefined ? "" : `${repair ?? "repair_of < said > repair.sh; sh -e repair.sh"}`}
    ${cause === undefined ? "" : question("second")}
  `;
}

function lab(
  cases: readonly RulesetCase[],
  wanted: readonly string[] = tools,
): (at: number, when: "first" | "second") => Seen {
  let parts: ReadonlyMap<string, Seen> = new Map();
  beforeAll(async () => {
    if (!canUnshare || wanted.some((tool) => Bun.which(tool) === null)) return;
    const script = `${prelude}\n${cases.map(scriptOf).join("\n")}`;
    const { stdout, stderr, status } = await inNamespace(script, { timeoutMs: 240_000 });
    const found = stdout.split(/^== (?=\d)/m).slice(1);
    parts = new Map(
      found.map((part) => {
        const [head = "", ...lines] = part.split("\n");
        const got = /^== got (.*)$/m.exec(part)?.[1] ?? "";
        return [head, { said: lines.join("\n"), got }];
      }),
    );
    if (status !== 0) throw new Error(`status ${status}: ${stderr}\n${stdout.slice(-3000)}`);
  }, 250_000);
  return (at, when) => parts.get(`${at} ${when}`) ?? { said: "", got: "" };
}

describe("a firewall that lets connections through: nothing is wrong, and they work", () => {
  const seen = lab(working);
  for (const [at, { name }] of working.entries()) {
    testWith(tools, needs)(name, () => {
      const { said, got } = seen(at, "first");
      expect(said).toMatch(/\nNothing is wrong\.\nstatus 0\n/);
      expect(got).toBe("hello");
    });
  }
});

describe("a firewall that stops them: the rule is named, and the printed repair works", () => {
  const seen = lab(broken);
  for (const [at, { name, cause }] of broken.entries()) {
    testWith(tools, needs)(name, () => {
      const [before, after] = [seen(at, "first"), seen(at, "second")];
      expect(before.got).toBe("");
      expect(before.said).toMatch(cause as RegExp);
      expect(before.said).toContain("\nstatus 1\n");
      expect(after.got).toBe("hello");
      expect(after.said).toMatch(/\nNothing is wrong\.\nstatus 0\n/);
    });
  }
});

describe("iptables-legacy is read as well", () => {
  const all = [...tools, "iptables-legacy", "ip6tables-legacy"];
  const seen = lab(legacy, all);
  for (const [at, { name, cause }] of legacy.entries()) {
    testWith(all, needs)(name, () => {
      const before = seen(at, "first");
      expect(before.got).toBe(cause === undefined ? "hello" : "");
      expect(before.said).toMatch(cause ?? /\nNothing is wrong\.\nstatus 0\n/);
      if (cause === undefined) return;
      const after = seen(at, "second");
      expect(after.got).toBe("hello");
      expect(after.said).toMatch(/\nNothing is wrong\.\nstatus 0\n/);
    });
  }
});

describe("a rule that cannot be told is named, and nothing is promised", () => {
  const seen = lab(doubtful.map((each) => ({ ...each, repair: ":" })));
  for (const [at, { name, cause }] of doubtful.entries()) {
    testWith(tools, needs)(name, () => {
      const { said } = seen(at, "first");
      expect(said).toMatch(cause as RegExp);
      expect(said).toMatch(/\nNothing wrong was found\. 1 could not be checked\.\nstatus 0\n/);
    });
  }
});

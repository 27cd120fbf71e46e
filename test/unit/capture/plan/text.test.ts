/**
 * The printed text, compared with `test/golden/routes-*.txt`, which a person has read. After an
 * intended change, `UPDATE_GOLDEN=1 bun test test/unit/routing` writes them anew.
 */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { canUnshare, inNamespace } from "../../../helpers/netns.ts";
import { printed, routes } from "../../../helpers/routes.ts";
import { testWith, which } from "../../../helpers/tools.ts";

const everything =
  "--dst 192.0.2.0/24,2001:db8::/32 --src 10.0.0.0/8,fd00::/8 --dport 80,443,8000-9000 " +
  "--in eth0,eth1 --proto tcp,udp --mark 0x40/0xc0 --table 200 --priority 50 --to-port 50080";

const lines = [
  ...["", "--family 4", "--family 6", "--family both", "--dst 8.8.8.8", "--dst 2001:db8::/32"],
  ...["--dst 192.0.2.0/24,198.51.100.7", "--src 10.0.0.0/8", "--dport 80", "--dport 8000-9000"],
  ...["--dport 80,443,8000-9000", "--in eth0", "--in eth0,eth1", "--proto udp", "--proto tcp,udp"],
  ...["--mark 0x10/0xf0", "--mark 256", "--table 200", "--priority 50", "--to-port 50080"],
  ...["--to-port 50080 --proto tcp,udp --family both --dport 53", "--dst 0.0.0.0/0", everything],
  ...["--bypass 10.0.0.0/8", "--bypass-private --dport 80", "--table-name tproxyd-two"],
  "--local --guard-mark 0x2/0x2 --guard-uid 33,34 --guard-gid 12 --proto tcp,udp --to-port 50080",
  ...["--local --guard-uid 33 --dst 203.0.113.0/24 --in eth0", "--reply-path --dport 80"],
  "--reply-path --dport 53,80-90 --proto tcp,udp --to-port 50080 --family 4",
  "--to-port 50080 --to-address 127.0.0.1,::1 --dport 80",
  "--redirect --to-port 50080 --local --guard-uid 33 --dport 80",
  ...["--backend 192.0.2.7:80 --dport 80 --family 4", "--backend 127.0.0.1 --dst 8.8.8.8"],
  ...["--reply-path", "--reply-path --proto udp --family 6", "--backend 127.0.0.1:8080,[::1]:53"],
];
/** Those that need an interface or a control group, which a new namespace has not. */
const needy = [
  "--local --guard-cgroup system.slice/tproxy.service --family 4",
  "--in eth0,eth1.5 --sysctl --dport 80",
];

const goldenOf = {
  iptables: [...lines, ...needy],
  nft: [...lines, ...needy],
  json: [
    ...["", "--to-port 50080", everything, "--backend 192.0.2.7:80,::1 --dport 80", ...needy],
    "--to-port 50080 --to-address 127.0.0.1 --dport 80 --bypass 10.0.0.0/8",
  ],
};

function args(dialect: string, line: string): string[] {
  return ["--dialect", dialect, ...line.split(" ").filter((word) => word !== "")];
}

describe("golden text", () => {
  test.each(Object.entries(goldenOf))("%s", async (dialect, cases) => {
    const text = cases
      .flatMap((line) => [line, `${line} --undo`.trim()])
      .map((line) => {
        const command = `tproxy routes --print ${args(dialect, line).join(" ")}`;
        return `$ ${command}\n${printed(...args(dialect, line))}`;
      })
      .join("\n");
    const golden = Bun.file(new URL(`../../../golden/routes-${dialect}.txt`, import.meta.url));
    if (process.env.UPDATE_GOLDEN === "1") await Bun.write(golden, text);
    expect(text).toBe(await golden.text());
  });

  test("the seed's three commands stand in it to the letter", () => {
    const commands = printed()
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("#") && line !== "set -e");
    expect(commands).toEqual([
      "ip route add local 0.0.0.0/0 dev lo table 100",
      "ip rule add fwmark 1 table 100",
      "iptables -t mangle -A PREROUTING -i lo -p tcp -d 8.8.8.8 -j MARK --set-xmark 0x1/0x1",
    ]);
  });

  test("a comment stands above each command", () => {
    const blocks = printed().trim().split("\n\n").slice(1);
    expect(blocks.length).toBe(3);
    for (const block of blocks) expect(block).toMatch(/^# .+\n(# .+\n)?[a-z]+ [^\n]+$/);
  });

  test("iptables takes at most 15 ports in one rule", () => {
    const ports = Array.from({ length: 31 }, (_, i) => `${1000 + 2 * i}`).join(",");
    const rules = printed("--dport", `${ports},9000-9001`, "--family", "4").match(/--dports \S+/g);
    const sizes = rules?.map((rule) => rule.split(/[,:]/).length);
    expect(sizes).toEqual([15, 15, 3]);
  });
});

describe("every script", () => {
  const both = (some: readonly string[]) =>
    (["iptables", "nft"] as const).flatMap((dialect) =>
      some.flatMap((line) => [
        printed(...args(dialect, line)),
        printed(...args(dialect, line), "--undo"),
      ]),
    );
  const plain = both(lines);
  const scripts = [...plain, ...both(needy)];

  test("begins with a comment and has no line longer than a person reads at once", () => {
    for (const script of scripts) {
      expect(script).toMatch(/^#!\/bin\/sh\n# /);
      for (const line of script.split("\n")) {
        if (line.startsWith("#")) expect(line.length).toBeLessThanOrEqual(160);
      }
    }
  });

  testWith(["shellcheck"])("has no fault that shellcheck finds", async () => {
    const findings = scripts.map((script) => {
      const child = Bun.spawn([which("shellcheck") ?? "", "-"], { stdin: new Blob([script]) });
      return new Response(child.stdout).text();
    });
    expect((await Promise.all(findings)).join("")).toBe("");
  });

  testWith(["ip", "nft", "iptables"], { "network namespaces": canUnshare })(
    "is taken by ip, iptables and nft, and taken back, without a word",
    async () => {
      const files = Object.fromEntries(plain.map((script, i) => [`${i}.sh`, script]));
      const { status, stdout, stderr } = await inNamespace(
        `for i in $(seq 0 ${plain.length - 1}); do sh -e "$i.sh"; done`,
        { files, timeoutMs: 170_000 },
      );
      expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: "", stderr: "" });
    },
    240_000,
  );
});

describe("what a user passes", () => {
  const options = ["--dst", "--src", "--dport", "--in", "--proto", "--mark", "--table"];
  const more = [
    ...["--priority", "--family", "--to-port", "--dialect", "--bypass", "--to-address"],
    ...["--backend", "--guard-mark", "--guard-uid", "--guard-cgroup", "--table-name"],
  ];
  const junk = [
    ...["$(touch x)", "`id`", "; reboot", "&& id", "| sh", "\n id", "\0", "'", '"', "\\", "{", "}"],
    ...["EOF", "\nEOF\nid", "#", "!", "*", "-", "--", "%", ",", "", "\u202e"],
  ];
  const sound = [
    "8.8.8.8",
    "::1/128",
    "80",
    "8000-9000",
    "lo",
    "tcp",
    "0x1/0x1",
    "100",
    "both",
    "4",
    "[::1]:80",
    "tproxyd-x",
    "system.slice/a@b.service",
  ];

  test("never gets into a script unless it is plain", () => {
    const value = fc
      .tuple(fc.constantFrom(...sound), fc.constantFrom("", ...junk), fc.nat(10))
      .map(([text, piece, at]) => text.slice(0, at) + piece + text.slice(at));
    const pairs = fc.array(fc.tuple(fc.constantFrom(...options, ...more), value), { maxLength: 4 });
    fc.assert(
      fc.property(pairs, fc.boolean(), (given, undo) => {
        const { status, stdout, stderr } = routes(
          "--print",
          ...given.flat(),
          ...(undo ? ["--undo"] : []),
          ...(given.some(([option]) => option.startsWith("--guard")) ? ["--local"] : []),
        );
        if (status !== 0) {
          expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
          expect(stderr.trim()).toMatch(/^[^\n]+$/);
        } else {
          // Of an interface how its name begins may be said: "eth*".
          const words = given.flatMap(([option, text]) => [
            option,
            option === "--in" ? text.replace(/\*$/, "") : text,
          ]);
          expect(words.every((word) => /^[\][A-Za-z0-9.:,/@_-]+$/.test(word))).toBe(true);
        }
      }),
      { numRuns: 2000 },
    );
  });

  test("is refused in one line that says what is accepted, with status 2", () => {
    const cases: [line: string, message: string][] = [
      ["--dst 10.0.0.1/8", 'give "10.0.0.0/8"'],
      ["--dst 010.1.1.1", "is not a network"],
      ["--in a/b", '"a/b" is not the name of an interface'],
      ["--proto sctp", '"sctp" is not accepted: give "tcp" or "udp"'],
      ["--proto tcp,,udp", '"" is not accepted'],
      ["--dport 0", '"0" is not a port'],
      ["--mark 0", '"0x0" marks nothing'],
      ["--mark 3/1", 'give "0x3/0x3"'],
      ["--table 254", "is a table of the system"],
      ["--priority 32766", "give a number from 1 to 32765"],
      ["--family 6 --dst 8.8.8.8", "is IPv4, but the family is 6"],
      ["--family both --dst 8.8.8.8", "says nothing about IPv6"],
      ["--to-port 65536", '"65536" is not a port'],
      ["--dialect pf", 'give "iptables", "nft" or "json"'],
      ["--table 1 --table 2", "cannot be used multiple times"],
    ];
    for (const [line, message] of cases) {
      const { status, stdout, stderr } = routes("--print", ...line.split(" "));
      expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
      expect(stderr).toContain(message);
      expect(stderr.trim()).not.toContain("\n");
    }
  });

  test("without --print nothing is printed", () => {
    const { status, stdout, stderr } = routes("--dst", "8.8.8.8");
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
    expect(stderr).toContain("give --print, which prints the commands and changes nothing");
  });

  test("lists may be repeated or have commas, to the same effect", () => {
    const commas = printed("--dst", "192.0.2.0/24,198.51.100.0/24", "--proto", "tcp,udp");
    const repeated = ["--dst", "192.0.2.0/24", "--dst", "198.51.100.0/24"];
    expect(printed(...repeated, "--proto", "tcp", "--proto", "udp")).toBe(commas);
  });
});

test("the JSON keeps its documented shape", () => {
  const keys = (value: object) => Object.keys(value).sort();
  const document = JSON.parse(printed("--dialect", "json", "--to-port", "50080"));
  expect(keys(document)).toEqual(["backend", "setsSysctls", "steps", "sysctls", "version"]);
  expect(document.steps.map(keys)).toEqual([
    ["action", "destination", "device", "family", "kind", "protocol", "table", "type"],
    ["action", "family", "kind", "mark", "priority", "protocol", "table"],
    ["action", "chains", "family", "kind", "sets", "table"],
  ]);
  const undone = JSON.parse(printed("--dialect", "json", "--to-port", "50080", "--undo"));
  const back = undone.steps.toReversed().map((step: object) => ({ ...step, action: "add" }));
  expect(back).toEqual(document.steps);
});

/**
 * The printed scripts at work: a client in another namespace, over veth, reaches a transparent
 * listener with them and does not without; taken back, the system is as it was, byte for byte.
 */

import { describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { canUnshare, inNamespace } from "../helpers/netns.ts";
import { printed } from "../helpers/routes.ts";
import { testWith } from "../helpers/tools.ts";

const firewallTools = ["ip", "nft", "iptables", "ip6tables", "nsenter"];
const means = { "network namespaces": canUnshare };
const testTraffic = testWith([...firewallTools, "python3"], means);
const testFirewall = testWith(firewallTools, means);

const files = {
  "transparent.py": readFileSync(new URL("transparent.py", import.meta.url), "utf8"),
};

/** This namespace is the proxy, `client` is routed through it; neither forwards. */
const topology = `
neighbour client p0 c0
within client ip route add default via 10.9.0.1
within client ip route add default via fd00:9::1
`;

/** `dump FILE` writes all that a script could have left behind. */
const dump = `
dump() {
  {
    ip rule; ip -6 rule; ip route show table all; nft list ruleset
    iptables-save; ip6tables-save
  } 2>/dev/null | grep -v '^#' > "$1"
}
same() { cmp -s "$1" "$2" && echo "$3: same" || diff "$1" "$2"; }
`;

const listen = `
listen() {
  background python3 transparent.py listen "$1" ready "\${2-}"
  until [ -e ready ]; do kill -0 "$!"; done
}
ask() { within client python3 transparent.py ask 10 "$@"; }
hush() { within client python3 transparent.py ask 0.4 "$@"; }
`;

const destinations = { 4: "8.8.8.8", 6: "2001:db8::8" } as const;

function bracketed(address: string): string {
  return address.includes(":") ? `[${address}]` : address;
}

interface Traffic {
  readonly args: readonly string[];
  readonly families: readonly (4 | 6)[];
  readonly protocols: readonly ("tcp" | "udp")[];
  /** The listener's port, when it is not the 80 that the client asks for. */
  readonly port?: number;
}

/** Asks before, with and after the script, and compares the dumps around it. */
async function run({ args, families, protocols, port = 80 }: Traffic): Promise<void> {
  const questions = families.flatMap((family) =>
    protocols.map((protocol) => ({ protocol, address: destinations[family] })),
  );
  const all = questions.map(({ protocol, address }) => `${protocol} ${address} 80`).join(" ");
  const { status, stdout, stderr } = await inNamespace(
    `${topology}${dump}${listen}
    listen ${port}
    hush ${all}
    dump before
    sh -e apply.sh
    ask ${all}
    sh -e undo.sh
    dump after
    same before after undone
    hush ${all}`,
    { files: { ...files, "apply.sh": printed(...args), "undo.sh": printed(...args, "--undo") } },
  );
  const silence = questions.map(() => "no answer");
  const answers = questions.map(
    ({ protocol, address }) => `${protocol} for ${bracketed(address)}:80`,
  );
  expect({ stdout: stdout.trim().split("\n"), stderr, status }).toEqual({
    stdout: [...silence, ...answers, "undone: same", ...silence],
    stderr: "",
    status: 0,
  });
}

describe("a client over veth gets through, and only while the script is in force", () => {
  for (const dialect of ["iptables", "nft"]) {
    for (const families of [[4], [6], [4, 6]] as const) {
      const family = families.length === 2 ? "both" : `${families[0]}`;
      for (const toPort of [undefined, 50080]) {
        const how = toPort === undefined ? [] : ["--to-port", `${toPort}`];
        const title = `${dialect}, family ${family}, ${toPort ? "TPROXY" : "mark"}, tcp and udp`;
        testTraffic(title, () =>
          run({
            args: ["--dialect", dialect, "--family", family, "--proto", "tcp,udp", ...how],
            families,
            protocols: ["tcp", "udp"],
            ...(toPort === undefined ? {} : { port: toPort }),
          }),
        );
      }
    }
    testTraffic(`${dialect}, every selecting option, as lists`, () =>
      run({
        args: [
          ...["--dialect", dialect, "--mark", "0x4000/0xc000", "--table", "4000"],
          ...["--dst", "8.8.8.0/24,8.8.8.8,203.0.113.0/24", "--dst", "2001:db8::/32,fd00:77::/64"],
          ...["--src", "10.9.0.0/24,198.51.100.1,fd00:9::2", "--in", "p0,lo", "--priority", "77"],
          ...["--dport", "22,80,1000-2000,1500-2500,3000-3001,4001,4003,4005,4007,4009,4011"],
          ...["--dport", "4013,4015,4017,4019,4021,4023,4025,443", "--proto", "tcp,udp"],
          ...["--to-port", "50080"],
        ],
        families: [4, 6],
        protocols: ["tcp", "udp"],
        port: 50080,
      }),
    );
    testTraffic(`${dialect}, a mark without a mask`, () =>
      run({
        args: ["--dialect", dialect, "--mark", "0xdeadbeef", "--in", "p0", "--family", "4"],
        families: [4],
        protocols: ["tcp"],
      }),
    );
    testTraffic(`${dialect}, every destination`, () =>
      run({
        args: ["--dialect", dialect, "--dst", "0.0.0.0/0", "--dst", "::/0"],
        families: [4, 6],
        protocols: ["tcp"],
      }),
    );
  }
});

describe("what is not asked for is not captured", () => {
  const others: Record<string, string> = {
    destination: "--dst 203.0.113.0/24",
    source: "--src 203.0.113.0/24",
    port: "--dport 81-90",
    interface: "--in lo",
    protocol: "--proto udp",
    family: "--family 6",
  };
  for (const dialect of ["iptables", "nft"]) {
    testTraffic(`${dialect}, another ${Object.keys(others).join(", ")}`, async () => {
      const scripts = Object.entries(others).flatMap(([name, option]) => {
        const args = ["--dialect", dialect, ...option.split(" ")];
        return [
          [`${name}.sh`, printed(...args)],
          [`${name}-undo.sh`, printed(...args, "--undo")],
        ];
      });
      const steps = Object.keys(others).map(
        (name) => `sh ${name}.sh; hush tcp 8.8.8.8 80; sh ${name}-undo.sh`,
      );
      const { stdout, stderr } = await inNamespace(
        `${topology}${listen}\nlisten 80\n${steps.join("\n")}`,
        { files: { ...files, ...Object.fromEntries(scripts) } },
      );
      expect({ stdout, stderr }).toEqual({
        stdout: "no answer\n".repeat(steps.length),
        stderr: "",
      });
    });

    testTraffic(
      `${dialect}, without --dst this host's own addresses keep their ports`,
      async () => {
        // By TPROXY to 50080 alone, a question to another port of the host itself must stay with
        // whatever listens there, or a rule for all ports would cut off ssh.
        const { stdout, stderr } = await inNamespace(
          `${topology}${listen}
        listen 50080 'proxy: '
        rm ready
        listen 22 'own: '
        sh own.sh
        ask tcp 10.9.0.1 22 tcp fd00:9::1 22 tcp 8.8.8.8 22`,
          {
            files: {
              ...files,
              "own.sh": printed("--dialect", dialect, "--proto", "tcp", "--to-port", "50080"),
            },
          },
        );
        expect({ stdout, stderr }).toEqual({
          stdout:
            "own: tcp for 10.9.0.1:22\nown: tcp for [fd00:9::1]:22\nproxy: tcp for 8.8.8.8:22\n",
          stderr: "",
        });
      },
    );
  }
});

describe("with no listener nothing gets past", () => {
  const held = ["--in", "p0", "--proto", "tcp,udp", "--to-port", "50080"];
  for (const dialect of ["iptables", "nft"]) {
    testTraffic(`${dialect}, TPROXY: what would be forwarded is held back`, async () => {
      const { stdout, stderr } = await inNamespace(
        `${topology}${listen}
        namespace server
        veth server p1 s0
        ip address add 10.9.1.1/24 dev p1
        within server ip address add 10.9.1.2/24 dev s0
        within server ip address add 8.8.8.8/32 dev s0
        within server ip route add default via 10.9.1.1
        ip route add 8.8.8.8 via 10.9.1.2
        echo 1 > /proc/sys/net/ipv4/ip_forward
        background nsenter -t "$server" -n python3 transparent.py listen 80 ready
        until [ -e ready ]; do kill -0 "$!"; done
        ask tcp 8.8.8.8 80 udp 8.8.8.8 80
        sh -e apply.sh
        hush tcp 8.8.8.8 80 udp 8.8.8.8 80
        sh -e undo.sh
        ask tcp 8.8.8.8 80 udp 8.8.8.8 80`,
        {
          files: {
            ...files,
            "apply.sh": printed("--dialect", dialect, ...held),
            "undo.sh": printed("--dialect", dialect, ...held, "--undo"),
          },
        },
      );
      const answers = "tcp for 8.8.8.8:80\nudp for 8.8.8.8:80\n";
      expect({ stdout, stderr }).toEqual({
        stdout: `${answers}no answer\nno answer\n${answers}`,
        stderr: "",
      });
    });
  }
});

describe("the seed's script", () => {
  for (const dialect of ["iptables", "nft"]) {
    testTraffic(`${dialect}: marks what a client of this host sends to 8.8.8.8 by lo`, async () => {
      // A current kernel delivers what is sent by lo with or without the script, so an answer
      // proves nothing: a rule after the script's counts the packets that have the mark.
      const { stdout, stderr, status } = await inNamespace(
        `${dump}${listen}
        through_lo() { python3 transparent.py ask-lo 10 tcp 8.8.8.8 80; }
        marked() {
          nft 'table inet probe { chain count {
            type filter hook prerouting priority 0; ip daddr 8.8.8.8 meta mark 1 counter
          }; }'
          through_lo
          nft list table inet probe | grep -q 'packets 0 ' && echo unmarked || echo marked
          nft delete table inet probe
        }
        listen 80
        dump before
        marked
        sh -e apply.sh
        marked
        sh -e undo.sh
        marked
        dump after
        same before after undone`,
        {
          files: {
            ...files,
            "apply.sh": printed("--dialect", dialect),
            "undo.sh": printed("--dialect", dialect, "--undo"),
          },
        },
      );
      const answers = ["unmarked", "marked", "unmarked"].map(
        (mark) => `tcp for 8.8.8.8:80\n${mark}\n`,
      );
      expect({ stdout, stderr, status }).toEqual({
        stdout: `${answers.join("")}undone: same\n`,
        stderr: "",
        status: 0,
      });
    });
  }
});

describe("nothing of anyone else's is touched", () => {
  const rule = (tool: string, chain: string) =>
    `${tool} -t mangle -A ${chain} -p tcp --dport 9 -j MARK --set-mark 7`;
  const neighbours: Record<string, string> = {
    "nothing else": "",
    "rules in PREROUTING": `${rule("iptables", "PREROUTING")}; ${rule("ip6tables", "PREROUTING")}`,
    "rules in OUTPUT": `${rule("iptables", "OUTPUT")}; ${rule("ip6tables", "OUTPUT")}`,
    "a policy of PREROUTING": "iptables -t mangle -P PREROUTING DROP",
    "a restored dump": `for tool in iptables ip6tables; do
        { echo '*mangle'
          for chain in PREROUTING INPUT FORWARD OUTPUT POSTROUTING; do
            echo ":$chain ACCEPT [0:0]"
          done
          echo COMMIT; } | $tool-restore
      done`,
    "a table of nft, ip rules and routes": `
      nft 'table inet other { chain prerouting {
        type filter hook prerouting priority -150; tcp dport 9 meta mark set 7
      }; }'
      nft 'table ip mangle { chain mine { tcp dport 9 accept; }; }'
      ip rule add fwmark 7 table 77; ip -6 rule add fwmark 7 table 77
      ip rule add priority 99 fwmark 1 table 100; ip rule add priority 101 fwmark 1 table 100
      ip route add local 198.51.100.0/24 dev lo table 100; ip route add local ::/0 dev lo table 77`,
  };
  for (const dialect of ["iptables", "nft"]) {
    for (const [what, before] of Object.entries(neighbours)) {
      for (const args of [[], ["--family", "both", "--to-port", "50080"]]) {
        const title = `${dialect}, ${args.join(" ") || "the seed"}: ${what}`;
        testFirewall(title, async () => {
          const { stdout, stderr, status } = await inNamespace(
            `${dump}\n${before}\ndump before\nsh -e apply.sh\ndump between\nsh -e undo.sh\n` +
              "dump after\nsame before after undone\ncmp -s before between && echo no effect || :",
            {
              files: {
                "apply.sh": printed("--dialect", dialect, ...args),
                "undo.sh": printed("--dialect", dialect, ...args, "--undo"),
              },
            },
          );
          expect({ stdout, stderr, status }).toEqual({
            stdout: "undone: same\n",
            stderr: "",
            status: 0,
          });
        });
      }
    }
  }
});

describe("where iptables is the legacy one, on x_tables", () => {
  const isRoot = process.getuid?.() === 0;
  const legacy = ["iptables-legacy", "ip6tables-legacy", "iptables-legacy-save", "python3"];
  for (const args of [["--dst", "8.8.8.8"], ["--dst", "8.8.8.8", "--to-port", "80"], []]) {
    testWith([...firewallTools, ...legacy], { ...means, root: isRoot })(
      `${args.join(" ") || "the seed"}: applied and taken back, an empty table of nft left alone`,
      async () => {
        const seed = args.length === 0;
        const { stdout, stderr, status } = await inNamespace(
          `${topology}${dump}${listen}
          mkdir bin
          for tool in iptables ip6tables iptables-save ip6tables-save; do
            ln -s "$(command -v "\${tool%-save}-legacy\${tool#*tables}")" "bin/$tool"
          done
          PATH="$PWD/bin:$PATH"
          nft add table ip mangle
          iptables -t mangle -S > all
          listen 80
          dump before
          sh -e apply.sh
          ${seed ? "" : "ask tcp 8.8.8.8 80"}
          sh -e undo.sh
          dump after
          same before after undone
          grep -c 'table ip mangle' after`,
          {
            files: {
              ...files,
              "apply.sh": printed(...args),
              "undo.sh": printed(...args, "--undo"),
            },
          },
        );
        const answer = seed ? "" : "tcp for 8.8.8.8:80\n";
        expect({ stdout, stderr, status }).toEqual({
          stdout: `${answer}undone: same\n1\n`,
          stderr: "",
          status: 0,
        });
      },
    );
  }
});

describe("applied twice, half applied, taken back twice", () => {
  for (const dialect of ["iptables", "nft"]) {
    for (const args of [[], ["--dst", "192.0.2.0/24,2001:db8::/32"]]) {
      const title = `${dialect}, ${args.join(" ") || "the seed"}`;
      const scripts = {
        "apply.sh": printed("--dialect", dialect, ...args),
        "undo.sh": printed("--dialect", dialect, ...args, "--undo"),
      };
      testFirewall(`${title}: the second time fails and changes nothing`, async () => {
        const { stdout, stderr } = await inNamespace(
          `${dump}
          dump before
          sh apply.sh
          dump once
          sh apply.sh || echo "status $?"
          dump twice
          same once twice again
          sh undo.sh
          dump after
          same before after undone
          sh undo.sh 2>/dev/null || echo "status $?"
          dump after
          same before after undone`,
          { files: scripts },
        );
        const lines = stdout.trim().split("\n");
        expect(lines[0]).toMatch(/^status [12]$/);
        expect(lines.slice(1)).toEqual(["again: same", "undone: same", "status 1", "undone: same"]);
        expect(stderr).toMatch(/[Ee]xists/);
      });

      testFirewall(`${title}: undo takes back whatever part there is`, async () => {
        // Each command of the script in turn is made to fail by a `false` in its place.
        const commands = scripts["apply.sh"]
          .split("\n")
          .flatMap((line, i) => (/^(ip|nft|iptables|ip6tables) /.test(line) ? [i] : []));
        const parts = commands.map((at) => {
          const lines = scripts["apply.sh"].split("\n");
          return [`part${at}.sh`, [...lines.slice(0, at), "false"].join("\n")] as const;
        });
        const { stdout } = await inNamespace(
          `${dump}\ndump before\n${parts
            .map(
              ([name]) => `sh ${name} || echo "status $?"
              sh -e undo.sh 2>/dev/null || echo "status $?"
              dump after
              same before after undone`,
            )
            .join("\n")}`,
          { files: { ...scripts, ...Object.fromEntries(parts) } },
        );
        expect(parts.length).toBeGreaterThanOrEqual(3);
        const incomplete = "status 1\nstatus 1\nundone: same\n".repeat(parts.length - 1);
        // Without the last command of nft all that is to be removed is there: an empty table.
        const last = dialect === "nft" ? "" : "status 1\n";
        expect(stdout).toBe(`${incomplete}status 1\n${last}undone: same\n`);
      });
    }
  }
});

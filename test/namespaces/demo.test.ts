/** `tproxy demo` as its users start it: every claim, and that nothing is left or changed. */

import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { canUnshare, inNamespace, unshareCommand } from "../helpers/netns.ts";
import { testWith, which } from "../helpers/tools.ts";
import { eventually, type Run, type Running, run, start, tproxy } from "../helpers/tproxy.ts";

interface Line {
  readonly act?: number;
  readonly step?: string;
  readonly ok: boolean | null;
  readonly evidence?: Record<string, unknown>;
  readonly summary?: boolean;
}

const isRoot = process.getuid?.() === 0;
/** What makes an ordinary user of whoever runs the tests. */
const ordinary = isRoot
  ? ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
  : [];
const ordinaryCan = (...command: string[]) =>
  which(ordinary[0] ?? "sh") !== undefined &&
  Bun.spawnSync([...ordinary, ...command], { stderr: "ignore" }).success;
const means = { "network namespaces": canUnshare };
const ordinaryMeans = {
  "user namespaces": ordinaryCan("unshare", "-Urn", "true"),
  "a checkout that others may read": ordinaryCan(...tproxy, "--version"),
};
const testDemo = testWith(["unshare"], means);
const testOrdinary = testWith(["unshare"], ordinaryMeans);
const hasIpv6 = readdirSync("/proc/net").includes("if_inet6");

/** All claims, act by act, in their order. */
const claims: readonly (readonly string[])[] = [
  ["refused-v4", "bound-v4", "seen-v4"],
  ["hello", "addresses", "no-rules-needed", "option-needed"],
  ["reached-v4", "both-addresses-v4", "by-the-mark-v4"],
  [
    "without-mark-v4",
    "without-rule-v4",
    "without-route-v4",
    "without-socket-v4",
    "without-answer-v4",
    "restored",
  ],
  hasIpv6
    ? [
        "refused-v6",
        "bound-v6",
        "seen-v6",
        "reached-v6",
        "both-addresses-v6",
        "by-the-mark-v6",
        "without-mark-v6",
        "without-rule-v6",
        "without-route-v6",
      ]
    : ["skipped"],
];

function linesOf({ stdout }: Pick<Run, "stdout">): Line[] {
  return stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);
}

/** What the kernel said of one claim. */
function evidence(lines: readonly Line[], step: string): Record<string, unknown> {
  return lines.find((line) => line.step === step)?.evidence ?? {};
}

function expectAllTrue(done: Run): Line[] {
  expect(done.stderr).toBe("");
  const lines = linesOf(done);
  expect(lines.filter(({ ok }) => ok === false)).toEqual([]);
  const found = [1, 2, 3, 4, 5].map((act) =>
    lines.filter((line) => line.act === act).map(({ step }) => step ?? ""),
  );
  expect(found).toEqual(claims.map((act) => [...act]));
  expect(lines.at(-1)).toMatchObject({ summary: true, ok: true, failed: 0, changed: [] });
  expect(done.status).toBe(0);
  return lines;
}

describe("every claim is true", () => {
  testDemo("and what the kernel said is told", async () => {
    const lines = expectAllTrue(await run(["demo", "--json"]));
    expect(evidence(lines, "refused-v4")).toEqual({ call: "bind", error: "EADDRNOTAVAIL" });
    expect(evidence(lines, "seen-v4")).toEqual({ from: "8.8.8.8:8080", to: "192.0.2.2:9000" });
    expect(evidence(lines, "addresses").client).toStartWith("127.0.0.1:");
    expect(evidence(lines, "both-addresses-v4")).toEqual({
      client: expect.stringMatching(/^192\.0\.2\.2:\d+$/),
      local: "8.8.8.8:80",
    });
    const ends = ["mark", "rule", "route", "socket", "answer"];
    expect(ends.map((end) => evidence(lines, `without-${end}-v4`).ended)).toEqual(ends);
    expect(evidence(lines, "without-answer-v4").path).toContain(
      "listener on port 80: IP_TRANSPARENT 0",
    );
    if (!hasIpv6) return;
    expect(evidence(lines, "seen-v6").from).toBe("[2001:4860:4860::8888]:8080");
    expect(evidence(lines, "both-addresses-v6")).toEqual({
      client: expect.stringMatching(/^\[2001:db8::2\]:\d+$/),
      local: "[2001:4860:4860::8888]:80",
    });
  });

  testOrdinary("for an ordinary user", async () => {
    expectAllTrue(await run(["demo", "--json"], { prefix: ordinary }));
  });

  testDemo("without curl", async () => {
    const folder = await mkdtemp(join(tmpdir(), "tproxy-test-"));
    try {
      const prefix = isRoot ? [] : [which("unshare") as string, "-Urn"];
      const done = await run(["demo", "--json"], { prefix, env: { PATH: folder } });
      const lines = expectAllTrue(done);
      expect(evidence(lines, "hello")).toMatchObject({ client: "client" });
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  testWith(["unshare", "curl"], means)("with curl", async () => {
    const lines = expectAllTrue(await run(["demo", "--json"]));
    expect(evidence(lines, "hello")).toMatchObject({ client: "curl" });
  });
});

testDemo("the transcript has the article's lines, in 100 columns and no colours", async () => {
  const { stdout, stderr, status } = await run(["demo"]);
  expect({ stderr, status }).toEqual({ stderr: "", status: 0 });
  const article = [
    /^ {2}# ip route add local 0\.0\.0\.0\/0 dev lo table 100$/m,
    /^ {2}# ip rule add fwmark 1 table 100$/m,
    /^ {2}# iptables -t mangle -A PREROUTING -i lo -p tcp -d 8\.8\.8\.8 -j MARK .* 0x1\/0x1$/m,
    /^ {2}listener \| \[\+\] Bound to tcp:\/\/0\.0\.0\.0:80$/m,
    /^ {2}listener \| \[ \] Connection from tcp:\/\/127\.0\.0\.1:\d+ to tcp:\/\/8\.8\.8\.8:80$/m,
    /^ {2}listener \| GET \/ HTTP\/1\.1$/m,
    /^ {2}(curl|client) \| hello world$/m,
  ];
  for (const pattern of article) expect(stdout).toMatch(pattern);
  expect(stdout.split("\n").filter((line) => [...line].length > 100)).toEqual([]);
  expect(stdout).not.toContain("\x1b");
  expect(stdout).toEndWith("all of them true. Nothing on this machine was changed.\n");
});

describe("a piece that cannot be put in place is a claim that is not true:", () => {
  const program = new URL("../helpers/sabotaged-demo.ts", import.meta.url).pathname;
  for (const [kind, ended] of [
    ["firewall", "mark"],
    ["rule", "rule"],
    ["route", "route"],
  ] as const) {
    testDemo(kind, async () => {
      const prefix = isRoot ? [] : [...unshareCommand];
      const child = Bun.spawn([...prefix, process.execPath, program, kind], { stdout: "pipe" });
      const stdout = await new Response(child.stdout).text();
      expect(await child.exited).toBe(1);
      const lines = linesOf({ stdout });
      const reached = lines.find(({ step }) => step === "reached-v4");
      expect(reached).toMatchObject({ ok: false, evidence: { ended } });
      expect(lines.at(-1)).toMatchObject({ summary: true, ok: false });
      // The listener's half needs none of the pieces.
      expect(lines.find(({ step }) => step === "hello")?.ok).toBe(true);
    });
  }
});

describe("nothing is changed", () => {
  testWith(["unshare", "ip", "nft"], means)("around it, byte for byte", async () => {
    const dump = `
dump() {
  {
    ip -o link; ip -o address; ip rule; ip -6 rule; ip route show table all; nft list ruleset
    for file in ipv4/ip_forward ipv4/conf/all/rp_filter ipv4/conf/lo/src_valid_mark; do
      cat "/proc/sys/net/$file"
    done
  } > "$1" 2>&1
}`;
    const own = Bun.spawnSync(["sh", "-c", `${dump}\ndump /dev/stdout`]).stdout.toString();
    const { stdout, stderr } = await inNamespace(`${dump}
dump before
"${tproxy.join('" "')}" demo --json > demo.json
tail -n 1 demo.json
dump after
cmp before after && echo same
`);
    expect(stdout + stderr).toMatch(/"summary":true,"ok":true.*\nsame\n$/);
    const later = Bun.spawnSync(["sh", "-c", `${dump}\ndump /dev/stdout`]).stdout.toString();
    expect(later).toBe(own);
  });

  testWith(["unshare", "strace"], means)("and no ip, nft or iptables is run", async () => {
    const folder = await mkdtemp(join(tmpdir(), "tproxy-test-"));
    try {
      const trace = join(folder, "trace");
      const prefix = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", trace];
      const { status } = await run(["demo", "--json"], { prefix });
      expect(status).toBe(0);
      const programs = [...readFileSync(trace, "utf8").matchAll(/execve\("([^"]*)"/g)].map(
        ([, path = ""]) => path.split("/").at(-1) ?? "",
      );
      const own = tproxy.map((word) => word.split("/").at(-1) ?? "");
      const allowed = new Set([...own, "unshare", "true", "curl"]);
      expect(programs.length).toBeGreaterThan(0);
      expect(programs.filter((name) => !allowed.has(name))).toEqual([]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

/** The processes that a process has started, and those that these have. */
function descendants(pid: number): number[] {
  const tasks = tolerant(() => readdirSync(`/proc/${pid}/task`)) ?? [];
  const children = tasks.flatMap((task) =>
    (tolerant(() => readFileSync(`/proc/${pid}/task/${task}/children`, "latin1")) ?? "")
      .split(" ")
      .filter((word) => word !== "")
      .map(Number),
  );
  return children.flatMap((child) => [child, ...descendants(child)]);
}

/** The network namespaces that a process is in or has a descriptor of. */
function namespacesOf(pid: number | string): string[] {
  const own = tolerant(() => readlinkSync(`/proc/${pid}/ns/net`));
  const fds = tolerant(() => readdirSync(`/proc/${pid}/fd`)) ?? [];
  const held = fds.map((fd) => tolerant(() => readlinkSync(`/proc/${pid}/fd/${fd}`)));
  return [own, ...held].filter((name) => name?.startsWith("net:") === true) as string[];
}

/** An orphan that nobody has waited for yet has ended, too. */
function hasEnded(pid: number): boolean {
  const stat = tolerant(() => readFileSync(`/proc/${pid}/stat`, "latin1"));
  return stat === undefined || /^.*\) [ZX]/.test(stat);
}

function tolerant<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    // The process, or what it had, is gone.
    return undefined;
  }
}

/** All namespaces of all processes that can be looked at. */
function allNamespaces(): Set<string> {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return new Set(pids.flatMap(namespacesOf));
}

/** Waits until the demo is at work, ends it in some way, and until nothing of it is left. */
async function expectNothingLeft(demo: Running, end: (pids: number[]) => void): Promise<Run> {
  // A claim of the act shows that its namespaces are there; its title comes before them.
  await demo.until(/Act 4.*✓/s);
  const pids = [demo.pid, ...descendants(demo.pid)];
  const before = allNamespacesBut(pids);
  const made = pids.flatMap(namespacesOf).filter((name) => !before.has(name));
  expect(made.length).toBeGreaterThan(0);
  end(pids);
  const done = await demo.finished();
  await eventually("all its processes are gone", () => pids.every(hasEnded));
  await eventually("all its namespaces are gone", () => {
    const left = allNamespaces();
    return made.every((name) => !left.has(name));
  });
  return done;
}

function allNamespacesBut(pids: readonly number[]): Set<string> {
  const others = readdirSync("/proc").filter(
    (name) => /^\d+$/.test(name) && !pids.includes(Number(name)),
  );
  return new Set(others.flatMap(namespacesOf));
}

const kinds = [
  ["as root", testWith(["unshare"], { ...means, root: isRoot }), []],
  ["as an ordinary user", testOrdinary, ordinary],
] as const;

for (const [who, testAs, prefix] of kinds) {
  describe(`cut off ${who}, nothing is left:`, () => {
    for (const [signal, status] of [
      ["SIGINT", 130],
      ["SIGTERM", 143],
    ] as const) {
      testAs(signal, async () => {
        const demo = start(["demo"], { prefix });
        const done = await expectNothingLeft(demo, () => demo.kill(signal));
        expect(done).toMatchObject({ status, stderr: "" });
        expect(done.stdout).toEndWith("\nInterrupted. Nothing on this machine was changed.\n");
      });
    }

    testAs("SIGINT to all of its processes, as a terminal sends it", async () => {
      const done = await expectNothingLeft(start(["demo"], { prefix }), (pids) => {
        for (const pid of pids) process.kill(pid, "SIGINT");
      });
      expect(done.status).toBe(130);
      expect(done.stdout.match(/Interrupted\./g)).toHaveLength(1);
    });

    testAs("SIGKILL", async () => {
      const demo = start(["demo"], { prefix });
      const done = await expectNothingLeft(demo, () => demo.kill("SIGKILL"));
      expect(done.signal).toBe("SIGKILL");
    });
  });
}

testDemo("a reader that goes away ends it", async () => {
  const command = `{ "${tproxy.join('" "')}" demo; echo "status $?" >&2; } | head -n 1`;
  const child = Bun.spawn(["sh", "-c", command], { stdout: "pipe", stderr: "pipe" });
  expect(await new Response(child.stderr).text()).toBe("status 141\n");
});

describe("where namespaces cannot be had, one line says so and what would do:", () => {
  const testRefused = testWith(isRoot ? ["setpriv"] : [], {
    "a checkout that others may read": ordinaryMeans["a checkout that others may read"],
  });
  const inFolder = async (files: Record<string, string>): Promise<Run> => {
    const folder = await mkdtemp(join(tmpdir(), "tproxy-test-"));
    try {
      for (const [name, text] of Object.entries(files)) {
        await Bun.write(join(folder, name), text);
      }
      Bun.spawnSync(["chmod", "-R", "a+rx", folder]);
      const prefix = ordinary.map((word, i) => (i === 0 ? (which(word) ?? word) : word));
      return await run(["demo"], { prefix, env: { PATH: folder } });
    } finally {
      await rm(folder, { recursive: true });
    }
  };

  testRefused("no unshare", async () => {
    expect(await inFolder({})).toMatchObject({
      status: 1,
      stdout: "",
      stderr:
        "tproxy: the demo needs network namespaces of its own: run it as root, or install " +
        'unshare (Debian\'s package "util-linux") and run it again\n',
    });
  });

  testRefused("no user namespaces", async () => {
    const word = "unshare failed: Operation not permitted";
    const refusing = `#!/bin/sh\necho 'unshare: ${word}' >&2\nexit 1\n`;
    const { status, stdout, stderr } = await inFolder({ unshare: refusing });
    expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
    expect(stderr).toStartWith("tproxy: the demo needs network namespaces of its own");
    expect(stderr).toContain(`(unshare -Urn: ${word}): run it as root, "sudo tproxy demo", or `);
    expect(stderr.match(/\n/g)).toHaveLength(1);
  });
});

test("the demo takes no arguments", async () => {
  const { status, stderr } = await run(["demo", "all"]);
  expect(status).toBe(2);
  expect(stderr).toStartWith("tproxy: ");
});

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { version } from "../../package.json" with { type: "json" };
import { run, type StartOptions, start, tproxy } from "../helpers/tproxy.ts";

const isRoot = process.getuid?.() === 0;
const commands = [
  ...["bind", "listen", "forward", "run", "top", "routes", "doctor", "explain"],
  ...["check", "config", "demo", "status", "connections", "kill", "drain", "ready", "down"],
  ...["log", "stop", "reload", "upgrade"],
];

describe("help and version", () => {
  test("--help names every command and ends with status 0", async () => {
    const { stdout, stderr, status } = await run(["--help"]);
    for (const command of [...commands, "completion"]) expect(stdout).toContain(`\n  ${command} `);
    expect(stdout).toContain("Examples:");
    expect(stderr).toBe("");
    expect(status).toBe(0);
  });

  test.each(commands)("%s --help has examples, and help %s is the same", async (command) => {
    const { stdout, status } = await run([command, "--help"]);
    expect(stdout).toContain(`Usage: tproxy ${command}`);
    expect(stdout).toMatch(new RegExp(`Examples:\n.*\n.*tproxy ${command}`));
    expect(status).toBe(0);
    expect((await run(["help", command])).stdout).toBe(stdout);
  });

  test.each(commands)("help of %s: groups, 80 columns, and lines to paste", async (command) => {
    const { stdout } = await run([command, "-h"]);
    expect(stdout).toBe((await run([command, "--help"])).stdout);
    const [help = "", examples = ""] = stdout.split("\nExamples:\n");
    expect(help.split("\n").filter((line) => line.length > 80 || line.endsWith(" "))).toEqual([]);
    expect(help).toMatch(/\n\n[A-Z][a-z ]+:\n {2}\S/);
    expect(help).toMatch(new RegExp(`^Usage: tproxy ${command} .*OPTIONS.*$`, "m"));
    expect(stdout).not.toContain("`");
    for (const line of examples.trimEnd().split("\n")) {
      expect(line).toMatch(/^ {2}(# \S.*|(sudo )?tproxy .*)$/);
    }
  });

  test("each option is shown once, in one group of each title", async () => {
    const { stdout } = await run(["forward", "--help"]);
    const titles = stdout.match(/^[A-Z].*:$/gm) ?? [];
    expect(titles.length).toBeGreaterThan(8);
    expect(new Set(titles).size).toBe(titles.length);
    expect(titles[0]).toBe("Arguments:");
    const options = stdout.match(/^ {2}(-\w, )?--[a-z-]+/gm) ?? [];
    expect(new Set(options).size).toBe(options.length - 1);
  });

  test("what the marks in front of lines mean is in the help", async () => {
    for (const command of ["listen", "forward", "bind"]) {
      const { stdout } = await run([command, "--help"]);
      for (const mark of ["[+]", "[ ]", "[!]"]) expect(stdout).toContain(`"${mark}"`);
    }
  });

  test("without arguments: the commands on standard error, status 2", async () => {
    const { stdout, stderr, status } = await run([]);
    expect(stdout).toBe("");
    expect(stderr).toStartWith("Usage: tproxy COMMAND [OPTIONS]\n");
    for (const command of commands) expect(stderr).toContain(`\n  ${command} `);
    expect(stderr.split("\n").length).toBeLessThan(60);
    expect(status).toBe(2);
  });

  test.each(["-h", "--help", "help"])("%s shows the help on standard output", async (word) => {
    const { stdout, stderr, status } = await run([word]);
    expect(stdout).toContain("\nUsage: tproxy COMMAND [OPTIONS]\n");
    expect([stderr, status]).toEqual(["", 0]);
  });

  test("-V is --version", async () => {
    const { stdout, status } = await run(["-V"]);
    expect(stdout).toBe((await run(["--version"])).stdout);
    expect(status).toBe(0);
  });

  test("--version says version, commit, Bun, libc and architecture in one line", async () => {
    const { stdout, status } = await run(["--version"]);
    const [, release, , bun, libc, target] =
      stdout.match(/^tproxy (\S+) \(commit (\S+), Bun (\S+), (.+), built for (\S+)\)\n$/) ?? [];
    expect(release).toBe(version);
    expect(bun).toBe(Bun.version);
    expect(libc).toMatch(/^(glibc \d+\.\d+|musl)$/);
    expect(target).toMatch(/^linux-(x64|arm64)(-static|-musl)?$/);
    expect(status).toBe(0);
  });

  test("a pipe that closes early is no accident", async () => {
    const shell = Bun.spawn(["sh", "-c", `${tproxy.join(" ")} listen --help | head -n 1`], {
      stdout: "pipe",
      stderr: "pipe",
    });
    expect(await shell.exited).toBe(0);
    expect(await new Response(shell.stderr).text()).toBe("");
  });
});

describe("a standard output that takes nothing", () => {
  const line = (args: string) => `${tproxy.join(" ")} ${args}`;
  const plain = isRoot ? "" : "--no-transparent";

  test.each([
    "routes --print",
    "listen --help",
    `listen ${plain} --log-lossless 127.0.0.1:0`,
    `bind ${plain} --log-lossless 127.0.0.1:0`,
    `forward ${plain} --source self --to 127.0.0.1:1 --log-lossless 127.0.0.1:0`,
  ])("a full disk is a failure: %s", async (args) => {
    const shell = Bun.spawn(["sh", "-c", `${line(args)} > /dev/full`], { stderr: "pipe" });
    expect(await new Response(shell.stderr).text()).toBe("tproxy: standard output: ENOSPC\n");
    expect(await shell.exited).toBe(1);
  });

  test("one that is closed is not waited for, and --version fails, too", async () => {
    const version = Bun.spawn(["sh", "-c", `${line("--version")} > /dev/full`]);
    expect(await version.exited).toBe(1);
    const held = ["sh", "-c", `${line(`bind ${plain} 127.0.0.1:0 --timeout 1ms`)} >&- 2>&-`];
    const closed = Bun.spawn(held);
    expect(await closed.exited).toBeNumber();
  });
});

describe("completion", () => {
  const shells = { bash: ["bash", "-n"], zsh: ["zsh", "-n"], fish: ["fish", "--no-execute"] };
  for (const [shell, check] of Object.entries(shells)) {
    const has = Bun.which(shell) !== null;
    test.skipIf(!has)(
      `${shell} accepts its script${has ? "" : ` (no ${shell} here)`}`,
      async () => {
        const { stdout, status } = await run(["completion", shell]);
        expect(status).toBe(0);
        expect(stdout).toContain("tproxy");
        const checked = Bun.spawn(check, { stdin: new Blob([stdout]), stderr: "pipe" });
        expect(await new Response(checked.stderr).text()).toBe("");
        expect(await checked.exited).toBe(0);
      },
    );
  }

  test("it knows commands, options and the words of an option", async () => {
    const offered = async (...words: string[]) => {
      return (await run(["completion", "bash", ...words])).stdout;
    };
    expect(await offered("li")).toContain("listen");
    expect(await offered("listen", "--ec")).toContain("--echo");
    expect(await offered("routes", "--dialect", "n")).toContain("nft");
    expect(await offered("routes", "--proto", "tcp,u")).toContain("tcp,udp");
    expect(await offered("routes", "--in", "l")).toContain("lo");
    expect(await offered("forward", "--to", "o")).toContain("original");
    expect(await offered("forward", "--source", "s")).toContain("self");
    expect(await offered("forward", "--workers", "a")).toContain("auto");
    expect(await offered("listen", "--reply-file", "x")).toContain("__FILE__:file::x");
    expect(await offered("routes", "--dst", "@x")).toContain("__FILE__:file::@x");
    expect(await offered("explain", "a")).toContain("accept");
    expect(await offered("completion", "z")).toBe("zsh\n");
    expect(await offered("completion", "")).toBe("bash\nfish\nnu\npwsh\nzsh\n");
  });
});

test("users and groups have names", async () => {
  const words = ["routes", "--print", "--local", "--to-port", "50080"];
  const named = await run([...words, "--guard-uid", "root,7", "--guard-gid", "root"]);
  const numbered = await run([...words, "--guard-uid", "0,7", "--guard-gid", "0"]);
  expect(named.status).toBe(0);
  expect(named.stdout).toContain("--uid-owner 0 ");
  expect(named.stdout.replace(/^#.*$/gm, "")).toBe(numbered.stdout.replace(/^#.*$/gm, ""));
});

test("zsh gets values and descriptions apart", async () => {
  const { stdout: script } = await run(["completion", "zsh"]);
  expect(script).toMatch(/value=\$\{line%%\$'\\t'\*\}/);
  expect(script).not.toContain("$'\\0'");
  const { stdout } = await run(["completion", "zsh", "li"]);
  expect(stdout).toStartWith("listen\tAccept ");
  expect((await run(["completion", "zsh", "completion", "z"])).stdout).toBe("zsh\t\t\n");
});

describe("nonsense", () => {
  const table: [args: string[], names: RegExp][] = [
    [["lisen"], /"lisen".*[Dd]id you mean "listen"/],
    [["listen"], /An address is missing: give \[ADDR\]:PORT/],
    [["listen", ":80", "--absurd"], /"--absurd"; "tproxy listen --help" says what is accepted/],
    [["listen", ":80", "--jsno"], /"--jsno"\. Did you mean [^\n]*"--json"[^\n]*\n$/],
    [["constructor"], /"constructor"/],
    [["listen", "8.8.8.8"], /"8\.8\.8\.8" has no port: give ADDRESS:PORT/],
    [["listen", "010.1.1.1:80"], /"010\.1\.1\.1:80" is not ADDRESS:PORT/],
    [["listen", ":65536"], /"65536" is not a port: give a number from 0 to 65535/],
    [["listen", ":80", "--max", "-1"], /"-1"/],
    [["listen", ":80", "--max", "1e3"], /--max: "1e3" is not accepted: give a number from 1/],
    [["listen", ":80", "--timeout", "5"], /--timeout: "5" has no unit: give "5s"/],
    [
      ["listen", ":80", "--echo", "--discard"],
      /--echo and --discard exclude each other: give one of them/,
    ],
    [["listen", ":80", "--reply-file", "/nope"], /--reply-file "\/nope" cannot be read/],
    [["listen", ":80", "--max", "1", "--workers", "2"], /--max excludes --workers/],
    [["forward", ":80", "--tw", "1.1.1.1:1"], /"--tw"\. Did you mean [^\n]*"--to"/],
    [["forward", ":80", "--routes", "nne"], /--to is missing/],
    [["forward", ":80", "--to", "1.1.1.1:1", "--routes", "nne"], /; did you mean "none"\?/],
    [["forward", ":80", "--to", "orignal"], /; did you mean "original"\?/],
    [["routes", "apply"], /"apply"\. Did you mean "--apply"\?/],
    [["listen", "80"], /"80" is a port alone: give ":80"/],
    [["forward", "80", "--to", "1.1.1.1:1"], /"80" is a port alone: give ":80"/],
    [["listen", "--port", "8000"], /"--port": the port belongs to the address: give ":8000"/],
    [["listen", "--port=8000"], /"--port=8000": the port belongs to the address: give ":8000"/],
    [["forward", "--lisen", ":80"], /"--lisen": the address is an argument: give \[ADDR\]:PORT/],
    [["routes", "--print", "--port", "80"], /"--port"/],
    [
      ["forward", "--accept-proxy", "10.0.0.0/8", ":80", "--to", "1.1.1.1:1"],
      /networks behind "=": give "--accept-proxy=10\.0\.0\.0\/8"/,
    ],
    [["bind"], /\[ADDR\]:PORT/],
    [["bind", "8.8.8.8:80", "--to", "nowhere"], /"nowhere" is not HOST:PORT: give/],
    [["bind", "8.8.8.8:80", "--to", "[::1]:80"], /two addresses of one family/],
    [["bind", "8.8.8.8:80", "--send", "x"], /--send needs --to HOST:PORT/],
    [["bind", "tcp://8.8.8.8:80", "--to", "udp://1.1.1.1:1"], /give one of --tcp and --udp/],
    [["bind", "8.8.8.8:80", "--mark", "0x1ffffffff"], /"0x1ffffffff" is not a .*mark: give/],
    [["bind", "8.8.8.8:80", "--device", "a/b"], /"a\/b"/],
    [["routes"], /--print/],
    [
      ["routes", "--print", "--local", "--guard-uid", "no-such-user"],
      /--guard-uid: "no-such-user" is no user of \/etc\/passwd: give/,
    ],
    [
      ["routes", "--print", "--local", "--guard-gid", "root,nix"],
      /"nix" is no group of \/etc\/group/,
    ],
    [["routes", "--print", "--local", "--guard-uid", "4294967295"], /give a number from 0 to/],
    [["routes", "--print", "--dst", "8.8.8.8/33"], /"8\.8\.8\.8\/33"/],
    [["routes", "--print", "--dst", "$(reboot)"], /"\$\(reboot\)"/],
    [["completion", "tcsh"], /"tcsh"/],
  ];
  test.each(table)("%p is refused in one line with status 2", async (args, names) => {
    const { status, stdout, stderr } = await run(args);
    expect(stderr).toMatch(names);
    expect(stderr).toMatch(/^tproxy[^\n]*\n$/);
    expect(stdout).toBe("");
    expect(status).toBe(2);
  });

  test("whatever is given, the status is 2 and the message one line", async () => {
    const word = fc.oneof(
      fc.constantFrom("bind", "listen", "routes", "--to", "--max", "--print", "--mark", "--dst"),
      fc.string({ unit: "binary", maxLength: 12 }).filter((text) => !text.includes("\0")),
    );
    // The last word can begin no command, option, address or number.
    const args = fc.tuple(
      fc.array(word, { maxLength: 4 }),
      fc.constantFrom("\x1b[2J", "--=", "%s%n"),
    );
    await fc.assert(
      fc.asyncProperty(args, async ([words, last]) => {
        const { status, stderr } = await run([...words.filter((text) => text !== "--"), last]);
        expect(stderr).toMatch(/^tproxy\P{C}*\n$/u);
        expect(status).toBe(2);
      }),
      { numRuns: 25 },
    );
  }, 240_000);
});

describe("without privileges", () => {
  const canDrop = !isRoot || Bun.which("setpriv") !== null;
  // An ordinary user: no capabilities, and none to be had.
  const options: StartOptions = isRoot
    ? {
        prefix: [
          ...["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
          ...["--bounding-set=-all", "--inh-caps=-all", "--"],
        ],
      }
    : {};
  const dropped = test.skipIf(!canDrop);
  const missing =
    "IP_TRANSPARENT needs CAP_NET_ADMIN or CAP_NET_RAW, and this process has neither: " +
    "run it with sudo, from a service with AmbientCapabilities=CAP_NET_ADMIN, " +
    'or try it in a namespace of your own: "unshare -Urn"\n';

  dropped.each([
    "bind 8.8.8.8:8080",
    "bind 8.8.8.8:8080 --to 127.0.0.1:9 --send x",
    "bind --tcp 8.8.8.8:8080",
    "listen 127.0.0.1:0",
    "listen --udp 127.0.0.1:0",
    "forward 127.0.0.1:0 --to 127.0.0.1:9",
  ])("%s says which capability is missing", async (line) => {
    const { status, stderr, stdout } = await run(line.split(" "), options);
    expect(stderr).toMatch(/^tproxy: Cannot bind \S+: /);
    expect(stderr).toEndWith(missing);
    expect(stderr.trimEnd()).not.toContain("\n");
    expect(stdout).toBe("");
    expect(status).toBe(1);
  });

  dropped("a low port and a device say theirs", async () => {
    const low = await run(["listen", "--no-transparent", "127.0.0.1:80"], options);
    expect(low.stderr).toMatch(/ports below \d+ need CAP_NET_BIND_SERVICE.*choose a port from/);
    const marked = await run(["bind", "--no-transparent", "127.0.0.1:0", "--mark", "1"], options);
    expect(marked.stderr).toMatch(/SO_MARK needs CAP_NET_ADMIN or CAP_NET_RAW/);
    expect([low.status, marked.status]).toEqual([1, 1]);
  });

  dropped("forward says so of the addresses that it would connect from", async () => {
    const own = "forward --no-transparent 127.0.0.1:0 --to 127.0.0.1:9".split(" ");
    const other = await run([...own, "--source", "192.0.2.7"], options);
    expect(other.stderr).toBe(`tproxy: Cannot connect from 192.0.2.7: ${missing}`);
    const marked = await run([...own, "--source", "self", "--socket-mark", "1"], options);
    expect(marked.stderr).toMatch(/^tproxy: Cannot connect .*SO_MARK needs CAP_NET_ADMIN/);
    expect([other.status, marked.status]).toEqual([1, 1]);
    const proxy = start(own, options);
    await proxy.until(/\[!\] Cannot connect from clients' addresses: .*; or give --source self\n/);
    proxy.kill("SIGTERM");
    expect((await proxy.finished()).status).toBe(0);
  });

  dropped("what needs none works", async () => {
    expect((await run(["routes", "--print"], options)).status).toBe(0);
    const held = ["bind", "--no-transparent", "127.0.0.1:0", "--timeout", "1ms"];
    expect((await run(held, options)).status).toBe(0);
  });
});

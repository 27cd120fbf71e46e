import { describe, expect, test } from "bun:test";
import { configurationBytesMax } from "../../../src/engine/limits.ts";
import { problemsOf, readText } from "../../helpers/configurations.ts";

const service = (name: string, rest = "") =>
  `[[service]]\nname = "${name}"\nlisten = ":${4000 + name.length}"\nto = "original"\n${rest}\n`;

describe("every problem, with its place, in the order of the file", () => {
  test("of several services at once", async () => {
    const text = `workers = "auot"
[log]
level = "verbose"
[[service]]
name = "web"
idle-timeout = "5x"
balanc = "round-robin"
to = "192.0.2.1:80"

[[service]]
listen = ["1.2.3.4", ":99999", ":80-x"]
to = [7, "original"]
accept-proxy = ["10.0.0.1/8"]
capture = { dport = [80, "x"], family = 5, guard-uid = ["nobdy"] }
`;
    expect(await problemsOf(text)).toEqual([
      'main.toml:1:11: workers: "auot" is not accepted: give a number from 1 to 64, or "auto"',
      'main.toml:3:9: log.level: "verbose" is not accepted: give "error", "warning", "info" or ' +
        '"debug"',
      'main.toml:4:1: service "web": "listen" is missing',
      'main.toml:6:16: service "web": idle-timeout: "5x" is not a duration: give "500ms", "30s", ' +
        '"5m" or "1h"',
      'main.toml:7:1: service "web": balanc: "balanc" is no setting here; did you mean "balance"?',
      'main.toml:10:1: service[1]: "name" is missing',
      'main.toml:11:11: service[1]: listen[0]: "1.2.3.4" has no port: give ADDRESS:PORT, ' +
        '"1.2.3.4:8080"',
      'main.toml:11:22: service[1]: listen[1]: ":99999": "99999" is not a port: give a number ' +
        "from 0 to 65535",
      'main.toml:11:32: service[1]: listen[2]: ":80-x": "80-x" is not a port: give a number from ' +
        "0 to 65535",
      'main.toml:12:7: service[1]: to[0]: "7" is not HOST:PORT: give "192.0.2.1:80", ' +
        '"[2001:db8::9]:80" or "example.com:80"',
      'main.toml:13:17: service[1]: accept-proxy[0]: "10.0.0.1/8" has bits set after its prefix: ' +
        'give "10.0.0.0/8" for the network, or "10.0.0.1" for the one address',
      'main.toml:14:26: service[1]: capture.dport[1]: "x" is not a port or a range of ports: ' +
        'give a number from 1 to 65535, "443", or two, "8000-9000"',
      'main.toml:14:41: service[1]: capture.family: "5" is not accepted: give "4", "6" or "both"',
      'main.toml:14:44: service[1]: capture.guard-uid: this needs [routes] install = "auto"',
      'main.toml:14:57: service[1]: capture.guard-uid[0]: "nobdy" is no user of /etc/passwd: ' +
        "give one of its names or a number",
    ]);
  });

  test.each([
    ["a = 1\na = 2", '2:1: "a" is set twice: leave one of them out'],
    ["[log]\nlevel = ", '2:9: a value is missing behind "=": give one, text in quotes'],
    ["workers = two", '1:11: "two" is not expected here: text stands in quotes'],
    ["[[service]", "1:11: this is not TOML: unterminated table-key"],
    ['user = "x', "1:10: this is not TOML: unterminated string constant"],
    ["user = 1979-05-27", '1:8: user: 1979-05-27 is not text: give it in quotes, "1979-05-27"'],
    [
      "workers = 1.0",
      '1:11: workers: "1.0" is not accepted: give a number from 1 to 64, or "auto"',
    ],
    ["version = inf", '1:11: version: "inf" is not accepted: give a number from 1 to 1000000'],
    [
      "version = 99999999999999999999",
      '1:11: version: "99999999999999999999" is not accepted: give a number from 1 to 1000000',
    ],
    ["drain-timeout = 30", '1:17: drain-timeout: "30" has no unit: give "30s" or "30ms"'],
    [
      "strict-limits = 1",
      "1:17: strict-limits: 1 is not accepted: give true or false, without quotes",
    ],
    ["log = 7", "1:7: log: 7 is not accepted: give a table"],
    ["log = [7]", "1:7: log: a list is not accepted: give a table"],
    ["user = {}", "1:8: user: a table is not accepted here: give one value"],
    ["include = []", "1:11: include: the list is empty: give at least one, or leave it out"],
    ["__proto__ = 1", '1:1: "__proto__" is no setting here'],
    ["log.constructor.x = 1", '1:5: "constructor" is no setting here'],
    ["toString = 1", '1:1: toString: "toString" is no setting here'],
    ['"\\u001b[2J" = 1', '1:1: "\\u001b[2J": "\\u001b[2J" is no setting here'],
    ["\u0000", '1:1: "\\u0000" is not expected here: text stands in quotes'],
    ["{", "this is not JSON: close brace expected"],
    ['{"user": "x", "user": "y"}', '1:15: "user" is set twice: leave one of them out'],
    ['{"workers": 1.5}', '1:13: workers: "1.5" is not accepted'],
    ['{"user": null}', '1:10: user: null is not text: give it in quotes, "null"'],
    ["{} // x", "1:4: this is not JSON: invalid comment token"],
    ["", "1:1: there is no service: give at least one [[service]]"],
  ])("%j", async (text, wanted) => {
    expect((await problemsOf(text)).join("\n")).toContain(wanted);
  });

  test("what is nested deeply, or without an end", async () => {
    const nested = (count: number) => "[".repeat(count) + "]".repeat(count);
    for (const text of [`a = ${nested(200)}`, `{"a": ${nested(200)}}`, `[${"a.".repeat(50)}a]`]) {
      expect((await problemsOf(text)).join()).toContain("is nested too deeply: give at most 8");
    }
    for (const text of [`a = ${nested(200_000)}`, `{"a": ${nested(200_000)}}`]) {
      expect(await problemsOf(text)).toEqual(["main.toml:1:1: is nested too deeply"]);
    }
    expect(await problemsOf(`a = ${"[".repeat(100_000)}`)).toHaveLength(1);
    expect(await problemsOf(`user = '${"x".repeat(1_000_000)}'`)).toHaveLength(1);
  });

  test("what is not UTF-8, has a byte order mark, or other line ends", async () => {
    const latin = new Uint8Array([...new TextEncoder().encode('user = "x"\nuser = "'), 0xe9, 34]);
    expect(await problemsOf(latin)).toEqual(["main.toml:2:9: this is not UTF-8"]);
    expect(await problemsOf(new Uint8Array([0xff, 0xfe, 0x61, 0]))).toEqual([
      "main.toml:1:1: this is not UTF-8",
    ]);
    expect(await problemsOf(`\ufeff${service("a")}`)).toEqual([]);
    expect(await problemsOf(service("a").replaceAll("\n", "\r\n"))).toEqual([]);
  });

  test("a file that is not there has no place", async () => {
    const { problems } = await readText("x", {});
    expect(problems).not.toEqual([]);
    const text = `include = "gone.toml"\n${service("a")}`;
    expect(await problemsOf(text)).toEqual(["gone.toml: cannot be read: ENOENT"]);
  });

  test("a table of time-outs with a wrong one is not used", async () => {
    const text = `routes.install = "auto"
[[service]]
name = "a"
listen = "udp://:80"
to = "192.0.2.1:80"
udp-timeout = { default = "1m", 53 = "soon" }`;
    expect(await problemsOf(text)).toEqual([
      expect.stringContaining('main.toml:6:33: service "a": udp-timeout.53: "soon"'),
    ]);
  });

  test("a wrong value is not also a missing one, nor of no use to others", async () => {
    const text = `[routes]
install = "yes"
[[pool]]
name = "Web"
to = "original"
[[service]]
name = "a b"
listen = "80"
to = "x"
accept-proxy = "10.0.0.0/33"
header-timeout = "5s"
[service.capture]
in = "eth0"
[[service]]
name = "b"
listen = ":80"
pool = "web"
`;
    expect((await problemsOf(text)).map((each) => each.split(" ")[0])).toEqual(
      ["2:11", "4:8", "7:8", "8:10", "9:6", "10:16"].map((at) => `main.toml:${at}:`),
    );
  });
});

describe("JSON of the same shape", () => {
  test("has the same configuration", async () => {
    const toml = await readText(service("a", "idle-timeout = '5m'"));
    const value = { name: "a", listen: [":4001"], to: ["original"], "idle-timeout": "5m" };
    const json = await readText(JSON.stringify({ service: [value] }));
    expect(json.problems).toEqual([]);
    expect(json.configuration).toEqual(toml.configuration as never);
    const single = await readText(JSON.stringify({ service: value }, undefined, 2));
    expect(single.configuration).toEqual(toml.configuration as never);
  });
});

describe("included files", () => {
  test("have services and pools, in the order of their names", async () => {
    const main = `include = ["conf.d/*"]\n${service("main", "")}`;
    const { configuration, problems } = await readText(main, {
      "conf.d/a.toml": service("aa").replace('to = "original"', 'pool = "web"'),
      "conf.d/b.toml": '[[pool]]\nname = "web"\nto = "192.0.2.1:80"',
    });
    expect(problems).toEqual([]);
    expect(configuration?.services.map(({ name }) => name)).toEqual(["main", "aa"]);
    expect(configuration?.services[1]?.route.pool.name).toBe("web");
  });

  test("have nothing else, and their problems name them", async () => {
    const main = `include = ["conf.d/*", "conf.d/a.toml"]\n${service("main")}`;
    const others = {
      "conf.d/a.toml": `workers = 2\n${service("main")}`,
      "conf.d/b.toml": service("b", "include = 'x'"),
    };
    expect(await problemsOf(main, others)).toEqual([
      'conf.d/a.toml:1:1: workers: "workers" is no setting here',
      'conf.d/a.toml:3:1: service "main": name: another one is called "main": give each a name ' +
        "of its own",
      'conf.d/a.toml:4:1: service "main": listen: ":4004" of service "main" needs this socket: ' +
        "give another port or address",
      'conf.d/b.toml:5:1: service "b": include: "include" is no setting here',
    ]);
  });

  test("may not have the file in them that includes them", async () => {
    const text = `include = "main*"\n${service("a")}`;
    expect(await problemsOf(text)).toEqual([
      'main.toml:1:11: include: "main*" has this file in it',
    ]);
  });

  test("are bounded", async () => {
    const many = Object.fromEntries(
      Array.from({ length: 1_100 }, (_, i) => [`d/${i}`, `[[pool]]\nname = "p${i}"\nto = "a:1"`]),
    );
    const problems = await problemsOf(`include = "d/*"\n${service("a")}`, many);
    expect(problems).toEqual(["main.toml:1:11: include: more than 1000 files"]);
    expect(configurationBytesMax).toBeLessThan(2 ** 24);
  });
});

describe("lists of networks", () => {
  const text = `[routes]\ninstall = "auto"\n${service("a", 'accept-proxy = ["@nets", "::1"]')}
[service.capture]
bypass = "@bypass"`;

  test("are read", async () => {
    const { configuration, problems } = await readText(text, {
      nets: "10.0.0.0/8 # ours\n192.0.2.1",
      bypass: "::/0",
    });
    expect(problems).toEqual([]);
    expect(configuration?.services[0]?.ingress.acceptProxy?.[0]).toMatchObject({ file: "nets" });
  });

  test("have problems at the place that names them", async () => {
    const others = { nets: "10.0.0.0/8\nx", bypass: "# nothing" };
    expect(await problemsOf(text, others)).toEqual([
      'main.toml:7:17: service "a": accept-proxy[0]: "@nets", line 2: "x" is not a network: give ' +
        'an address, "192.0.2.1" or "2001:db8::1", or ADDRESS/PREFIX, "192.0.2.0/24" or ' +
        '"2001:db8::/32"',
      'main.toml:10:10: service "a": capture.bypass: "@bypass" has no network in it: give at ' +
        "least one, one a line",
    ]);
    expect(await problemsOf(service("a", 'accept-proxy = ["@gone", "@-"]'))).toEqual([
      'main.toml:5:17: service "a": accept-proxy[0]: "@gone": cannot be read: ENOENT',
      'main.toml:5:26: service "a": accept-proxy[1]: "@-" is not accepted here: give a file',
    ]);
  });
});

describe("what is captured", () => {
  const captured = (capture: string, routes = "") =>
    problemsOf(`[routes]
install = "auto"
${routes}
[[service]]
name = "a"
listen = [":80", "[::1]:81"]
to = "original"
[service.capture]
${capture}`);

  test.each([
    ["", 'mark = "0x0/0x1"', '3:8: routes.mark: "0x0/0x1" marks nothing'],
    ["", "table = 254", '3:9: routes.table: "254" is a table of the system'],
    ["", 'table-name = "nat"', '3:14: routes.table-name: "nat" is not accepted: give a name that'],
    ["guard-uid = 0", "", '8:1: service "a": capture.local: a guard needs local = true'],
    [
      "local = true\nguard-mark = 3",
      "",
      '10:14: service "a": capture.guard-mark: "0x3" has the mark',
    ],
    ["bypass = ['0.0.0.0/1', '128.0.0.0/1']", "", "nothing of IPv4 is left to capture"],
    ["dst = '10.0.0.0/8'\nbypass-private = true", "", '"10.0.0.0/8" is in dst, and is also'],
    ["dst = '10.0.0.0/8'\nfamily = 6", "", '9:7: service "a": capture.dst: "10.0.0.0/8" is IPv4'],
    ["dst = '10.0.0.0/8'\nfamily = 'both'", "", "says nothing about IPv6"],
    ["guard-cgroup = '../x'\nlocal = true", "", 'capture.guard-cgroup: "../x" is not a control'],
    ["family = 6", "sysctl = true", "3:10: routes.sysctl: nothing is set here"],
  ])("%j %s", async (capture, routes, message) => {
    expect((await captured(capture, routes)).join("\n")).toContain(message);
  });

  test.each([
    ["local = true", ""],
    ["local = true\nguard-uid = 0\nin = 'eth0'", "sysctl = true"],
    ["dst = '10.0.0.0/8'", 'mark = "0x1/0x1"\ntable-name = "tproxyd-lan"'],
  ])("accepted: %j", async (capture, routes) => {
    expect(await captured(capture, routes)).toEqual([]);
  });
});

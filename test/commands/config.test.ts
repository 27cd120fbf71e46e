import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run, start } from "../helpers/tproxy.ts";

let folder = "";
const at = (name: string) => join(folder, name);
const put = (name: string, text: string | Uint8Array) => writeFileSync(at(name), text);

const service = (name: string, listen: string) =>
  `[[service]]\nname = "${name}"\nlisten = "${listen}"\nto = "original"\n`;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "tproxy-config-"));
  mkdirSync(at("conf.d"));
  put("main.toml", `include = ["conf.d/*.toml"]\n\n${service("a", ":80")}`);
  put("conf.d/b.toml", `${service("b", ":81")}accept-proxy = "@../nets.txt"\n`);
  put("conf.d/.hidden.toml", "not read");
  put("conf.d/readme.md", "not read");
  put("nets.txt", "10.0.0.0/8\n");
});
afterAll(() => rmSync(folder, { recursive: true }));

describe("check", () => {
  test("a configuration with included files and lists, each relative to its own", async () => {
    const { stdout, stderr, status } = await run(["check", "-c", at("main.toml")]);
    expect(stdout).toBe(`${at("main.toml")}: valid: 2 services, 0 pools\n`);
    expect({ stderr, status }).toEqual({ stderr: "", status: 0 });
    // The path to the file does not matter.
    expect((await run(["check", "--config=main.toml"], { cwd: folder })).status).toBe(0);
  });

  test("every problem, on standard error or as JSON", async () => {
    put("bad.toml", `drain-timeout = 5\n${service("a", "x")}`);
    const { stdout, stderr, status } = await run(["check", "-c", "bad.toml"], { cwd: folder });
    expect(stderr.trimEnd().split("\n")).toEqual([
      'bad.toml:1:17: drain-timeout: "5" has no unit: give "5s" or "5ms"',
      'bad.toml:4:10: service "a": listen: "x" is not ADDRESS:PORT: give "8.8.8.8:8080", ' +
        '"[2001:db8::9]:8080" or ":8080" for every address',
    ]);
    expect({ stdout, status }).toEqual({ stdout: "", status: 2 });
    const json = await run(["check", "-c", "bad.toml", "--json"], { cwd: folder });
    expect(
      json.stdout
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line)),
    ).toMatchObject([
      { event: "problem", file: "bad.toml", line: 1, column: 17 },
      { event: "problem", file: "bad.toml", line: 4, column: 10 },
    ]);
    expect({ stderr: json.stderr, status: json.status }).toEqual({ stderr: "", status: 2 });
  });

  test("a file that cannot be read is a problem", async () => {
    symlinkSync("loop.toml", at("loop.toml"));
    put("latin.toml", new Uint8Array([0x61, 0xe9]));
    for (const [file, reason] of [
      [at("gone.toml"), "cannot be read: ENOENT"],
      [folder, "cannot be read: EISDIR"],
      [at("loop.toml"), "cannot be read: ELOOP"],
      ["/dev/zero", "cannot be read: more than 1048576 bytes"],
    ]) {
      const { stderr, status } = await run(["check", "-c", file as string]);
      expect(stderr).toBe(`${file}: ${reason}\n`);
      expect(status).toBe(2);
    }
    put("outer.toml", `include = ["loop.toml", "no-folder/*", "*/x"]\n${service("a", ":80")}`);
    const { stderr } = await run(["check", "-c", at("outer.toml")]);
    expect(stderr.trimEnd().split("\n")).toEqual([
      `${at("outer.toml")}:1:25: include: "no-folder/*": ${at("no-folder")} cannot be read: ENOENT`,
      `${at("outer.toml")}:1:40: include: "*/x": "*" and "?" may stand in the name of a file only`,
      `${at("loop.toml")}: cannot be read: ELOOP`,
    ]);
  });

  test("standard input, and what a terminal must not act on", async () => {
    const running = start(["check", "-c", "-"]);
    running.write('"\\u001b[2J" = 1\n"\u202e" = 2\n');
    running.endInput();
    const { stderr, status } = await running.finished();
    expect(status).toBe(2);
    expect(stderr).toContain('-:1:1: "\\u001b[2J"');
    for (const unsafe of ["\u001b", "\u202e"]) expect(stderr).not.toContain(unsafe);
  });

  test("SIGINT ends it while nobody writes to the file", async () => {
    const fifo = at("fifo");
    expect(Bun.spawnSync(["mkfifo", fifo]).success).toBe(true);
    const running = start(["check", "-c", fifo]);
    await Bun.sleep(100);
    running.kill("SIGINT");
    expect((await running.finished()).stdout).toBe("");
  });
});

describe("config", () => {
  test("show has what applies, and with --origin where it comes from", async () => {
    const { stdout, status } = await run(["config", "show", "-c", at("main.toml")]);
    expect(status).toBe(0);
    expect(stdout).toContain('[[service]]\nname = "b"\nlisten = ":81"\nto = "original"\n');
    expect(stdout).toContain('\nheader-timeout = "5s"\n');
    // It can stand for the file that it was made of, wherever the included ones are.
    put("shown.toml", stdout);
    const again = await run(["config", "show", "-c", "shown.toml"], { cwd: folder });
    expect(again).toMatchObject({ stdout, stderr: "", status: 0 });
    const origin = await run(["config", "show", "--origin", "-c", "main.toml"], { cwd: folder });
    expect(origin.stdout).toContain('\nlisten = ":81"  # conf.d/b.toml:3\n');
    expect(origin.stdout).toContain('\nidle-timeout = "10m"  # built in\n');
  });

  test("schema is JSON Schema for every setting", async () => {
    const { stdout, status } = await run(["config", "schema"]);
    expect(status).toBe(0);
    const schema = JSON.parse(stdout);
    expect(schema.$schema).toBe("https://json-schema.org/draft/2020-12/schema");
    expect(schema.additionalProperties).toBe(false);
    const { service, pool } = schema.properties;
    expect(service.anyOf[0].required).toEqual(["name", "listen"]);
    // Upstreams are in "to" or in tables of their own.
    expect(pool.anyOf[0].required).toEqual(["name"]);
    for (const each of Object.values(service.anyOf[0].properties)) {
      expect((each as { description: string }).description).toMatch(/^[A-Z].*\.$/);
    }
  });

  test("fmt prints the file in its layout, or writes it, and keeps its mode", async () => {
    put("ugly.toml", 'workers=2 # two\n[log]\nlevel="info"');
    chmodSync(at("ugly.toml"), 0o640);
    symlinkSync("ugly.toml", at("link.toml"));
    const wanted = 'workers = 2  # two\n\n[log]\nlevel = "info"\n';
    expect((await run(["config", "fmt", "-c", at("ugly.toml")])).stdout).toBe(wanted);
    expect(readFileSync(at("ugly.toml"), "utf8")).not.toBe(wanted);
    const { stdout, status } = await run(["config", "fmt", "--write", "-c", at("link.toml")]);
    expect({ stdout, status }).toEqual({ stdout: "", status: 0 });
    expect(readFileSync(at("ugly.toml"), "utf8")).toBe(wanted);
    expect(statSync(at("ugly.toml")).mode & 0o777).toBe(0o640);
  });

  test.each([
    [[], "An action is missing"],
    [["shw"], 'did you mean "show"?'],
    [["schema", "--origin"], "--origin is for show: leave it out"],
    [["show", "--write"], "--write is for fmt: leave it out"],
    [["fmt", "--write", "-c", "-"], "--write needs --config FILE"],
    [["fmt", "-c", "/nonexistent"], 'Cannot read "/nonexistent": ENOENT; give a readable file'],
  ])("config %j", async (args, message) => {
    const { stderr, status } = await run(["config", ...args]);
    expect(stderr).toContain(message);
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
    expect(status).toBe(2);
  });
});
